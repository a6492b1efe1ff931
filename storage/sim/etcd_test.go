package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// etcdVariable holds the path of the etcd that the model is held to.
const etcdVariable = "PEBBLEDASH_ETCD"

// TestModelAgreesWithEtcd runs random requests against a real etcd and the
// model, and compares every answer and every event.
func TestModelAgreesWithEtcd(t *testing.T) {
	binary := os.Getenv(etcdVariable)
	if binary == "" {
		t.Skipf("%s does not name an etcd", etcdVariable)
	}
	var total sim.Tally
	for i := range histories(5) {
		seed := seedOf(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			replay(t, seed)
			h := newEtcdHistory(t, binary, seed)
			h.run(2000)
			total.Add(h.tally)
		})
	}
	t.Logf("%+v", total)
}

// etcdHistory is one random history against a fresh etcd.
type etcdHistory struct {
	tb     testing.TB
	conn   *grpc.ClientConn
	client *clientv3.Client // for watches
	model  *sim.Model
	gen    *sim.Generator
	tally  sim.Tally

	// live delivers every event from the first on.
	live clientv3.WatchChan
	// compactions has every revision that was compacted.
	compactions map[int64]bool
}

func newEtcdHistory(tb testing.TB, binary string, seed uint64) *etcdHistory {
	tb.Helper()
	srv := server.Run(tb, server.Config{Binary: binary, Args: []string{"--unsafe-no-fsync"}})
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{srv.Endpoint()}})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, client.Close()) })
	conn, err := grpc.NewClient(strings.TrimPrefix(srv.Endpoint(), "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, conn.Close()) })
	h := &etcdHistory{
		tb: tb, conn: conn, client: client, model: sim.NewModel(), gen: sim.NewGenerator(seed),
		compactions: map[int64]bool{},
	}
	h.model.Quirks = true
	h.tally.Histories = 1
	h.live = client.Watch(tb.Context(), "\x00", clientv3.WithRange("\x00"), clientv3.WithRev(2), clientv3.WithCreatedNotify())
	require.True(tb, (<-h.live).Created)
	return h
}

func (h *etcdHistory) run(ops int) {
	for i := range ops {
		op := h.gen.Next(h.model)
		h.step(i, op)
		if i%100 == 99 {
			h.watches(20)
		}
		if i%10 == 9 {
			h.hash()
		}
	}
	h.drain()
}

func (h *etcdHistory) step(i int, op evaluate.Op) {
	want, wantErr := h.model.Do(op)
	got, gotErr := h.do(op)
	if gotErr != nil && sim.Semantic(gotErr) == nil {
		h.tb.Fatalf("op %d: %s\netcd: %v", i, sim.FormatOp(op), gotErr)
	}
	if w, g := sim.FormatResult(op, want, wantErr), sim.FormatResult(op, got, gotErr); w != g {
		h.tb.Fatalf("op %d: %s\netcd:  %s\nmodel: %s", i, sim.FormatOp(op), g, w)
	}
	h.tally.Count(op, wantErr)
	h.compactions[h.model.Compacted()] = true
}

// do runs op in etcd.
func (h *etcdHistory) do(op evaluate.Op) (evaluate.Result, error) {
	ctx, cancel := context.WithTimeout(h.tb.Context(), 30*time.Second)
	defer cancel()
	kv, lease := pb.NewKVClient(h.conn), pb.NewLeaseClient(h.conn)
	switch op := op.(type) {
	case *evaluate.Range:
		r, err := kv.Range(ctx, toEtcd(op).GetRequestRange())
		return rangeResult(r), fromEtcd(err)
	case *evaluate.Put:
		r, err := kv.Put(ctx, toEtcd(op).GetRequestPut())
		return putResult(r), fromEtcd(err)
	case *evaluate.DeleteRange:
		r, err := kv.DeleteRange(ctx, toEtcd(op).GetRequestDeleteRange())
		return deleteResult(r), fromEtcd(err)
	case *evaluate.Txn:
		r, err := kv.Txn(ctx, toEtcd(op).GetRequestTxn())
		return txnResult(r), fromEtcd(err)
	case *evaluate.Compact:
		r, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: op.Revision, Physical: true})
		return evaluate.Result{Revision: r.GetHeader().GetRevision()}, fromEtcd(err)
	case *evaluate.LeaseGrant:
		r, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: op.ID, TTL: op.TTL})
		return evaluate.Result{Revision: r.GetHeader().GetRevision(), TTL: r.GetTTL()}, fromEtcd(err)
	case *evaluate.LeaseRevoke:
		r, err := lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: op.ID})
		return evaluate.Result{Revision: r.GetHeader().GetRevision()}, fromEtcd(err)
	default:
		panic(fmt.Sprintf("%T", op))
	}
}

// hash compares the checksum of the history. At a compaction's own revision
// etcd may answer with what it had before it.
func (h *etcdHistory) hash() {
	rev := max(0, h.gen.Revision(h.model))
	if h.compactions[rev] || rev == 0 && h.compactions[h.model.Revision()] {
		return
	}
	ctx, cancel := context.WithTimeout(h.tb.Context(), 30*time.Second)
	defer cancel()
	want, wantErr := h.model.HashKV(rev)
	got, gotErr := pb.NewMaintenanceClient(h.conn).HashKV(ctx, &pb.HashKVRequest{Revision: rev})
	require.Equal(h.tb, fmt.Sprint(want, wantErr), fmt.Sprint(got.GetHash(), fromEtcd(gotErr)), "hash of %d", rev)
	h.tally.Hashes++
}

// watches opens n watches of random spans from random revisions and compares
// what each delivers of the past.
func (h *etcdHistory) watches(n int) {
	ctx, cancel := context.WithTimeout(h.tb.Context(), 30*time.Second)
	defer cancel()
	type watch struct {
		what   string
		events clientv3.WatchChan
		want   []*mvccpb.Event
		err    error
	}
	var all []watch
	for range n {
		key, end := h.gen.Span()
		from := max(1, h.gen.Revision(h.model))
		empty := len(end) > 0 && string(end) != "\x00" && bytes.Compare(key, end) >= 0
		if empty || from > h.model.Revision() {
			continue // Nothing of the past; etcd refuses a watch of an empty span.
		}
		opts := []clientv3.OpOption{clientv3.WithRev(from), clientv3.WithPrevKV()}
		if len(end) > 0 {
			opts = append(opts, clientv3.WithRange(string(end)))
		}
		w := watch{
			what:   fmt.Sprintf("watch [%q,%q) from %d, compacted %d", key, end, from, h.model.Compacted()),
			events: h.client.Watch(ctx, string(key), opts...),
		}
		w.want, w.err = h.model.Changes(key, end, from, h.model.Revision())
		all = append(all, w)
	}
	for _, w := range all {
		var got []*mvccpb.Event
		for w.err == nil && len(got) < len(w.want) {
			r, ok := <-w.events
			require.True(h.tb, ok, w.what)
			require.NoError(h.tb, r.Err(), w.what)
			got = append(got, r.Events...)
		}
		require.Equal(h.tb, sim.FormatEvents(w.want, true), sim.FormatEvents(got, true), w.what)
		if w.err != nil {
			r := <-w.events
			require.ErrorIs(h.tb, fromEtcd(r.Err()), w.err, w.what)
			require.Equal(h.tb, h.model.Compacted(), r.CompactRevision, w.what)
		}
		h.tally.Changes++
		h.tally.Events += len(got)
	}
}

// drain compares the events of the watch that was there all the time.
func (h *etcdHistory) drain() {
	var got []*mvccpb.Event
	want := h.model.History()
	for len(got) < len(want) {
		r, ok := <-h.live
		require.True(h.tb, ok)
		require.NoError(h.tb, r.Err())
		got = append(got, r.Events...)
	}
	require.Equal(h.tb, sim.FormatEvents(want, false), sim.FormatEvents(got, false))
	h.tally.Events += len(got)
}

// fromEtcd turns etcd's errors into the model's.
func fromEtcd(err error) error {
	for _, p := range []struct{ etcd, ours error }{
		{rpctypes.ErrCompacted, mvcc.ErrCompacted},
		{rpctypes.ErrFutureRev, mvcc.ErrFutureRevision},
		{rpctypes.ErrKeyNotFound, evaluate.ErrKeyNotFound},
		{rpctypes.ErrLeaseNotFound, lease.ErrNotFound},
		{rpctypes.ErrLeaseExist, lease.ErrExists},
		{rpctypes.ErrLeaseTTLTooLarge, lease.ErrTTLTooLarge},
	} {
		if err != nil && errors.Is(rpctypes.Error(err), p.etcd) {
			return p.ours
		}
	}
	return err
}

func toEtcd(op evaluate.Op) *pb.RequestOp {
	switch op := op.(type) {
	case *evaluate.Range:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{
			Key: op.Key, RangeEnd: op.End, Limit: op.Limit, Revision: op.Revision,
			SortTarget: pb.RangeRequest_SortTarget(op.SortTarget), SortOrder: pb.RangeRequest_SortOrder(op.SortOrder),
			KeysOnly: op.KeysOnly, CountOnly: op.CountOnly,
			MinModRevision: op.MinMod, MaxModRevision: op.MaxMod,
			MinCreateRevision: op.MinCreate, MaxCreateRevision: op.MaxCreate,
		}}}
	case *evaluate.Put:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{
			Key: op.Key, Value: op.Value, Lease: op.Lease, PrevKv: op.PrevKV,
			IgnoreValue: op.IgnoreValue, IgnoreLease: op.IgnoreLease,
		}}}
	case *evaluate.DeleteRange:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{
			Key: op.Key, RangeEnd: op.End, PrevKv: op.PrevKV,
		}}}
	case *evaluate.Txn:
		t := &pb.TxnRequest{}
		for _, c := range op.Compare {
			t.Compare = append(t.Compare, compareToEtcd(c))
		}
		for _, o := range op.Success {
			t.Success = append(t.Success, toEtcd(o))
		}
		for _, o := range op.Failure {
			t.Failure = append(t.Failure, toEtcd(o))
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
	default:
		panic(fmt.Sprintf("%T", op))
	}
}

func compareToEtcd(c evaluate.Compare) *pb.Compare {
	p := &pb.Compare{
		Key: c.Key, RangeEnd: c.End,
		Target: []pb.Compare_CompareTarget{
			pb.Compare_VERSION, pb.Compare_CREATE, pb.Compare_MOD, pb.Compare_VALUE, pb.Compare_LEASE,
		}[c.Target],
		Result: []pb.Compare_CompareResult{
			pb.Compare_EQUAL, pb.Compare_GREATER, pb.Compare_LESS, pb.Compare_NOT_EQUAL,
		}[c.Result],
	}
	switch c.Target {
	case evaluate.CompareVersion:
		p.TargetUnion = &pb.Compare_Version{Version: c.Number}
	case evaluate.CompareCreate:
		p.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: c.Number}
	case evaluate.CompareMod:
		p.TargetUnion = &pb.Compare_ModRevision{ModRevision: c.Number}
	case evaluate.CompareLease:
		p.TargetUnion = &pb.Compare_Lease{Lease: c.Number}
	case evaluate.CompareValue:
		p.TargetUnion = &pb.Compare_Value{Value: c.Value}
	}
	return p
}

func rangeResult(r *pb.RangeResponse) evaluate.Result {
	return evaluate.Result{Revision: r.GetHeader().GetRevision(), KVs: r.GetKvs(), More: r.GetMore(), Count: r.GetCount()}
}

func putResult(r *pb.PutResponse) evaluate.Result {
	res := evaluate.Result{Revision: r.GetHeader().GetRevision()}
	if kv := r.GetPrevKv(); kv != nil {
		res.PrevKVs = []*mvccpb.KeyValue{kv}
	}
	return res
}

func deleteResult(r *pb.DeleteRangeResponse) evaluate.Result {
	return evaluate.Result{Revision: r.GetHeader().GetRevision(), Deleted: r.GetDeleted(), PrevKVs: r.GetPrevKvs()}
}

func txnResult(r *pb.TxnResponse) evaluate.Result {
	res := evaluate.Result{Revision: r.GetHeader().GetRevision(), Succeeded: r.GetSucceeded()}
	for _, o := range r.GetResponses() {
		switch o := o.Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			res.Responses = append(res.Responses, rangeResult(o.ResponseRange))
		case *pb.ResponseOp_ResponsePut:
			res.Responses = append(res.Responses, putResult(o.ResponsePut))
		case *pb.ResponseOp_ResponseDeleteRange:
			res.Responses = append(res.Responses, deleteResult(o.ResponseDeleteRange))
		case *pb.ResponseOp_ResponseTxn:
			res.Responses = append(res.Responses, txnResult(o.ResponseTxn))
		}
	}
	return res
}
