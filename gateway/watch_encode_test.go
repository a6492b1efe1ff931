package gateway

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/gateway/wire"
)

func randomKV(rnd *rand.Rand) *mvccpb.KeyValue {
	num := func() int64 {
		switch rnd.IntN(4) {
		case 0:
			return 0
		case 1:
			return rnd.Int64()
		case 2:
			return -1
		default:
			return rnd.Int64N(300)
		}
	}
	bytes := func(sizes ...int) []byte {
		b := make([]byte, sizes[rnd.IntN(len(sizes))])
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	return &mvccpb.KeyValue{
		Key: bytes(0, 1, 60, 200), CreateRevision: num(), ModRevision: num(), Version: num(), Lease: num(),
		Value: bytes(0, 1, 127, 128, 1000, aliasBytes-1, aliasBytes, 20_000),
	}
}

// randomMessage returns a message, and what it says.
func randomMessage(rnd *rand.Rand, events int) (*eventsMessage, *pb.WatchResponse) {
	m := &eventsMessage{id: rnd.Int64N(3) - 1, fragment: rnd.IntN(2) == 0}
	m.header.ClusterId, m.header.MemberId = rnd.Uint64(), rnd.Uint64()
	m.header.Revision, m.header.RaftTerm = rnd.Int64N(1000), rnd.Uint64N(3)
	var all []*mvccpb.Event
	for range events {
		ev := &mvccpb.Event{Type: mvccpb.Event_EventType(rnd.IntN(2)), Kv: randomKV(rnd)}
		switch rnd.IntN(4) {
		case 0, 1:
			ev.PrevKv = randomKV(rnd)
		case 2:
			ev.PrevKv = &mvccpb.KeyValue{}
		}
		all = append(all, ev)
		encoded, kv := wire.EncodeEvent(ev)
		if ev.PrevKv != nil {
			encoded = wire.WithPrevious(encoded, ev.PrevKv)
		}
		if !proto.Equal(ev.Kv, kv) {
			panic("the copy is another")
		}
		m.events = append(m.events, encoded)
	}
	return m, &pb.WatchResponse{
		Header: proto.CloneOf(&m.header), WatchId: m.id, Fragment: m.fragment, Events: all,
	}
}

func decode(t *testing.T, buffers mem.BufferSlice) *pb.WatchResponse {
	t.Helper()
	got := &pb.WatchResponse{}
	require.NoError(t, proto.Unmarshal(buffers.Materialize(), got))
	buffers.Free()
	return got
}

// What is encoded by hand is what protobuf would have encoded.
func TestEventsMessage(t *testing.T) {
	const seed = 3
	rnd := rand.New(rand.NewPCG(seed, seed))
	for range 500 {
		m, want := randomMessage(rnd, rnd.IntN(5))
		buffers := m.WireBuffers()
		require.Equal(t, proto.Size(want), buffers.Len())
		got := decode(t, buffers)
		require.True(t, proto.Equal(want, got), "%v\n%v", want, got)
	}
}

// A field that protobuf gets one day would be lost.
func TestEventsMessageKnowsAllFields(t *testing.T) {
	for want, m := range map[string]proto.Message{
		"header watch_id created canceled compact_revision cancel_reason fragment events": &pb.WatchResponse{},
		"cluster_id member_id revision raft_term":                                         &pb.ResponseHeader{},
		"type kv prev_kv": &mvccpb.Event{},
		"key create_revision mod_revision version value lease": &mvccpb.KeyValue{},
	} {
		var names string
		for i, fields := 0, m.ProtoReflect().Descriptor().Fields(); i < fields.Len(); i++ {
			names += " " + string(fields.Get(i).Name())
		}
		require.Equal(t, " "+want, names)
	}
}

// Fragments are cut where etcd cuts them.
func TestSendFragments(t *testing.T) {
	const seed = 5
	rnd := rand.New(rand.NewPCG(seed, seed))
	for range 300 {
		m, want := randomMessage(rnd, rnd.IntN(12))
		m.fragment, want.Fragment = false, false
		limit := []int{1, 100, 5_000, 30_000, 1 << 20}[rnd.IntN(5)]
		var got []*pb.WatchResponse
		require.NoError(t, m.sendFragments(limit, func(sent any) error {
			got = append(got, decode(t, sent.(*eventsMessage).WireBuffers()))
			return nil
		}))
		require.Len(t, m.events, len(want.Events), "the message is as it was")
		parts := cutLikeEtcd(want, limit)
		require.Len(t, got, len(parts))
		for i := range parts {
			require.True(t, proto.Equal(parts[i], got[i]), "part %d of %d", i, len(parts))
		}
	}
	m, _ := randomMessage(rnd, 3)
	require.ErrorIs(t, m.sendFragments(1, func(any) error { return errInternal }), errInternal)
}

// cutLikeEtcd says by protobuf's own sizes what etcd's server sends.
func cutLikeEtcd(whole *pb.WatchResponse, limit int) (parts []*pb.WatchResponse) {
	if proto.Size(whole) < limit || len(whole.Events) < 2 {
		return []*pb.WatchResponse{whole}
	}
	for rest := whole.Events; len(rest) > 0; {
		part := &pb.WatchResponse{Header: whole.Header, WatchId: whole.WatchId, Fragment: true, Events: rest[:1]}
		for n := 2; n <= len(rest); n++ {
			longer := proto.CloneOf(part)
			longer.Events = rest[:n]
			if proto.Size(longer) >= limit {
				break
			}
			part = longer
		}
		rest = rest[len(part.Events):]
		part.Fragment = len(rest) > 0
		parts = append(parts, part)
	}
	return parts
}

func BenchmarkEventsMessage(b *testing.B) {
	for _, size := range []int{256, 1 << 10, 16 << 10} {
		ev := &mvccpb.Event{Kv: &mvccpb.KeyValue{
			Key: make([]byte, 40), Value: make([]byte, size), CreateRevision: 1 << 20, ModRevision: 1 << 20, Version: 1,
		}}
		encoded, _ := wire.EncodeEvent(ev)
		m := &eventsMessage{id: 7, events: [][]byte{encoded}}
		m.header.ClusterId, m.header.MemberId, m.header.Revision, m.header.RaftTerm = 1<<62, 1<<61, 1<<20, 2
		b.Run(fmt.Sprintf("hand/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			c := new(codec)
			for b.Loop() {
				buffers, err := c.Marshal(m)
				require.NoError(b, err)
				buffers.Free()
			}
		})
		b.Run(fmt.Sprintf("protobuf/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			c := new(codec)
			for b.Loop() {
				a := &struct {
					resp   pb.WatchResponse
					header pb.ResponseHeader
				}{}
				a.resp.Header, a.resp.WatchId = &a.header, 7
				a.header.ClusterId, a.header.MemberId, a.header.Revision, a.header.RaftTerm = 1<<62, 1<<61, 1<<20, 2
				a.resp.Events = []*mvccpb.Event{ev}
				buffers, err := c.Marshal(&a.resp)
				require.NoError(b, err)
				buffers.Free()
			}
		})
	}
}
