package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/storage/alarm"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

// raised are the alarms of a moment.
type raised struct {
	list []alarm.Alarm
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
	_, rows, err := a.store.Records(alarm.Table)
	if err != nil {
		a.log.Error("cannot read the alarms", slog.Any("err", err))
		return
	}
	next := new(raised)
	for row := range rows {
		al, ok := alarm.Parse(row)
		if !ok {
			continue
		}
		next.list = append(next.list, al)
		g, found := a.routes.Lookup(al.Group)
		switch {
		case al.Kind == alarm.Corrupt:
			next.corrupt = true
		case al.Kind == alarm.NoSpace && al.Group == "":
			next.noSpace = true
		case al.Kind == alarm.NoSpace && found:
			next.groups |= 1 << g.ID
		}
	}
	slices.SortFunc(next.list, func(x, y alarm.Alarm) int { return strings.Compare(x.Row(), y.Row()) })
	before := a.now.Swap(next)
	a.gauge.Reset()
	for _, m := range next.members() {
		a.gauge.WithLabelValues(member.FormatID(m.MemberID), m.Alarm.String()).Set(1)
	}
	for _, al := range next.list {
		if !slices.Contains(before.list, al) {
			a.log.Warn("an alarm is raised", slog.String("alarm", al.Row()))
		}
	}
	for _, al := range before.list {
		if !slices.Contains(next.list, al) {
			a.log.Info("an alarm is disarmed", slog.String("alarm", al.Row()))
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
		same := func(m *pb.AlarmMember) bool { return m.MemberID == a.Member && m.Alarm == pb.AlarmType(a.Kind) }
		if !slices.ContainsFunc(out, same) {
			out = append(out, &pb.AlarmMember{MemberID: a.Member, Alarm: pb.AlarmType(a.Kind)})
		}
	}
	return out
}

// change raises an alarm, or disarms those that match, whatever group they are of, and
// returns those that were changed, or are
// raised.
func (a *alarms) change(ctx context.Context, raise bool, al alarm.Alarm) ([]alarm.Alarm, error) {
	for {
		version, rows, err := a.store.RecordsNow(ctx, alarm.Table)
		if err != nil {
			return nil, err
		}
		var changed []alarm.Alarm
		var writes []mvcc.RecordWrite
		if _, there := rows[al.Row()]; raise && !there {
			changed = append(changed, al)
			writes = append(writes, mvcc.RecordWrite{Key: al.Row(), Value: []byte{}})
		}
		for row := range rows {
			if other, ok := alarm.Parse(row); ok && !raise && other.Kind == al.Kind && other.Member == al.Member {
				changed = append(changed, other)
				writes = append(writes, mvcc.RecordWrite{Key: row})
			}
		}
		if len(writes) == 0 && raise {
			return []alarm.Alarm{al}, nil // it is raised already
		}
		if len(writes) == 0 {
			return nil, nil
		}
		_, err = a.store.WriteRecords(ctx, alarm.Table, version, writes)
		if !errors.Is(err, evaluate.ErrRecordsChanged) {
			return changed, err
		}
	}
}

// raise raises an alarm of this member, unless it is.
func (a *alarms) raise(ctx context.Context, al alarm.Alarm) {
	a.raising.Lock()
	defer a.raising.Unlock()
	if slices.Contains(a.now.Load().list, al) {
		return
	}
	if _, err := a.change(ctx, true, al); err != nil {
		a.log.Warn("cannot raise an alarm", slog.String("alarm", al.Row()), slog.Any("err", err))
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
	al := alarm.Alarm{Kind: alarm.Kind(r.Alarm), Member: r.MemberID}
	switch r.Action {
	case pb.AlarmRequest_GET:
		if _, _, err := s.store.RecordsNow(ctx, alarm.Table); err != nil {
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
