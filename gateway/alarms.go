package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

// alarmTable are the records of the alarms: "NOSPACE/<member>",
// "NOSPACE/<member>/<group>" of a group's own quota, "CORRUPT/<member>"; members are
// in hexadecimal digits, and the rows are empty.
const alarmTable = "alarms"

// alarm is one that is raised.
type alarm struct {
	kind   pb.AlarmType
	member uint64
	// group is the one whose quota is reached; empty if it is the whole store's.
	group string
}

func (a alarm) row() string {
	row := a.kind.String() + "/" + strconv.FormatUint(a.member, 16)
	if a.group != "" {
		row += "/" + a.group
	}
	return row
}

func alarmOf(row string) (a alarm, ok bool) {
	kind, rest, _ := strings.Cut(row, "/")
	id, group, _ := strings.Cut(rest, "/")
	by, err := strconv.ParseUint(id, 16, 64)
	k, known := pb.AlarmType_value[kind]
	return alarm{pb.AlarmType(k), by, group}, err == nil && known
}

// raised are the alarms of a moment.
type raised struct {
	list []alarm
	// noSpace is set while nothing may grow, groups has a bit for each group that
	// may not.
	noSpace bool
	groups  uint64
	corrupt bool
}

// alarms are the cluster's, as they are applied here.
type alarms struct {
	store  Store
	routes *route.Table
	log    *slog.Logger
	gauge  *prometheus.GaugeVec
	now    atomic.Pointer[raised]
	// raising is held by who raises one: the others need not.
	raising sync.Mutex
}

func newAlarms(store Store, routes *route.Table, log *slog.Logger, gauge *prometheus.GaugeVec) *alarms {
	a := &alarms{store: store, routes: routes, log: log, gauge: gauge}
	a.now.Store(new(raised))
	a.load()
	return a
}

// load is called after every change of the records.
func (a *alarms) load() {
	_, rows, err := a.store.Records(alarmTable)
	if err != nil {
		a.log.Error("cannot read the alarms", slog.Any("err", err))
		return
	}
	next := new(raised)
	for row := range rows {
		al, ok := alarmOf(row)
		if !ok {
			continue
		}
		next.list = append(next.list, al)
		g, found := a.routes.Lookup(al.group)
		switch {
		case al.kind == pb.AlarmType_CORRUPT:
			next.corrupt = true
		case al.kind == pb.AlarmType_NOSPACE && al.group == "":
			next.noSpace = true
		case al.kind == pb.AlarmType_NOSPACE && found:
			next.groups |= 1 << g.ID
		}
	}
	slices.SortFunc(next.list, func(x, y alarm) int { return strings.Compare(x.row(), y.row()) })
	before := a.now.Swap(next)
	a.gauge.Reset()
	for _, m := range next.members() {
		a.gauge.WithLabelValues(member.FormatID(m.MemberID), m.Alarm.String()).Set(1)
	}
	for _, al := range next.list {
		if !slices.Contains(before.list, al) {
			a.log.Warn("an alarm is raised", slog.String("alarm", al.row()))
		}
	}
	for _, al := range before.list {
		if !slices.Contains(next.list, al) {
			a.log.Info("an alarm is disarmed", slog.String("alarm", al.row()))
		}
	}
}

// quotaReached says whether what frees space should not have to wait.
func (a *alarms) quotaReached() bool {
	now := a.now.Load()
	return now.noSpace || now.groups != 0
}

// members returns the alarms as etcd has them, which knows of no groups.
func (r *raised) members() []*pb.AlarmMember {
	var out []*pb.AlarmMember
	for _, a := range r.list {
		same := func(m *pb.AlarmMember) bool { return m.MemberID == a.member && m.Alarm == a.kind }
		if !slices.ContainsFunc(out, same) {
			out = append(out, &pb.AlarmMember{MemberID: a.member, Alarm: a.kind})
		}
	}
	return out
}

// change raises an alarm, or disarms those that match, whatever group they are of, and
// returns those that were changed, or are
// raised.
func (a *alarms) change(ctx context.Context, raise bool, al alarm) ([]alarm, error) {
	for {
		version, rows, err := a.store.RecordsNow(ctx, alarmTable)
		if err != nil {
			return nil, err
		}
		var changed []alarm
		var writes []mvcc.RecordWrite
		if _, there := rows[al.row()]; raise && !there {
			changed = append(changed, al)
			writes = append(writes, mvcc.RecordWrite{Key: al.row(), Value: []byte{}})
		}
		for row := range rows {
			if other, ok := alarmOf(row); ok && !raise && other.kind == al.kind && other.member == al.member {
				changed = append(changed, other)
				writes = append(writes, mvcc.RecordWrite{Key: row})
			}
		}
		if len(writes) == 0 && raise {
			return []alarm{al}, nil // it is raised already
		}
		if len(writes) == 0 {
			return nil, nil
		}
		_, err = a.store.WriteRecords(ctx, alarmTable, version, writes)
		if !errors.Is(err, evaluate.ErrRecordsChanged) {
			return changed, err
		}
	}
}

// raise raises an alarm of this member, unless it is.
func (a *alarms) raise(ctx context.Context, al alarm) {
	a.raising.Lock()
	defer a.raising.Unlock()
	if slices.Contains(a.now.Load().list, al) {
		return
	}
	if _, err := a.change(ctx, true, al); err != nil {
		a.log.Warn("cannot raise an alarm", slog.String("alarm", al.row()), slog.Any("err", err))
	}
}

var (
	errNoSuchAlarm       = status.Error(codes.InvalidArgument, "pebbledash: no such alarm")
	errNoSuchAlarmAction = status.Error(codes.InvalidArgument, "pebbledash: no such alarm action")
)

// Alarm lists, raises and disarms alarms.
//
// An action that does not exist makes etcd fail for good: it is in its log.
func (s *maintenanceServer) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	may := admin
	if r.Action == pb.AlarmRequest_GET {
		may = somebody
	}
	if err := s.permitted(ctx, may); err != nil {
		return nil, err
	}
	resp := &pb.AlarmResponse{}
	al := alarm{kind: r.Alarm, member: r.MemberID}
	switch r.Action {
	case pb.AlarmRequest_GET:
		if _, _, err := s.store.RecordsNow(ctx, alarmTable); err != nil {
			return nil, toGRPC(err)
		}
		for _, m := range s.alarms.now.Load().members() {
			if r.Alarm == pb.AlarmType_NONE || m.Alarm == r.Alarm {
				resp.Alarms = append(resp.Alarms, m)
			}
		}
	case pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE:
		if _, known := pb.AlarmType_name[int32(r.Alarm)]; !known {
			return nil, errNoSuchAlarm
		}
		raise := r.Action == pb.AlarmRequest_ACTIVATE
		if r.Alarm == pb.AlarmType_NONE {
			break
		}
		changed, err := s.alarms.change(ctx, raise, al)
		if err != nil {
			return nil, toGRPC(err)
		}
		resp.Alarms = (&raised{list: changed}).members()
	default:
		return nil, errNoSuchAlarmAction
	}
	resp.Header = s.header(0)
	return resp, nil
}
