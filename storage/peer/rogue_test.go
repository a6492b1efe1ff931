package peer

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// sink is a Handler whose calls wait for their end.
type sink struct{ snapshots chan error }

func (sink) Raft(uint64, uint16, []byte) {}
func (sink) Notice(uint64, []byte)       {}
func (sink) Admit(uint64) error          { return nil }
func (sink) Connected(uint64)            {}
func (sink) Lost(uint64)                 {}
func (sink) Refused(uint64, error)       {}

func (sink) Call(ctx context.Context, _ uint64, _ byte, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s sink) Snapshot(_ context.Context, _ uint64, _ []byte, next func() ([]byte, error)) error {
	for {
		if _, err := next(); err != nil {
			s.snapshots <- err
			return err
		}
	}
}

// rogue is a member that does not keep to the protocol.
type rogue struct {
	dialer
	url   string
	hello hello
	sink  sink
}

func newRogue(t *testing.T) *rogue {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := sink{make(chan error, 1)}
	tr := New(Config{
		ClusterID: 1, MemberID: 2, Handler: s, Listeners: []net.Listener{l},
		DialTimeout: 300 * time.Millisecond, MaxCalls: 2,
	})
	served := make(chan error, 1)
	go func() { served <- tr.Serve() }()
	t.Cleanup(func() {
		tr.Close()
		require.NoError(t, <-served)
	})
	return &rogue{
		dialer: dialer{timeout: 10 * time.Second, clock: clock.Real{}, buffers: new(bufferPool)},
		url:    "http://" + l.Addr().String(), hello: hello{version, oldestVersion, 1, 7, 2}, sink: s,
	}
}

// stream returns a stream that has been greeted.
func (r *rogue) stream(t *testing.T, method string) grpc.ClientStream {
	t.Helper()
	l, st, err := r.greet(t.Context(), r.url, method, r.hello)
	require.NoError(t, err)
	t.Cleanup(l.close)
	return st
}

// ended receives until the stream ends.
func ended(st grpc.ClientStream) error {
	for {
		var m message
		if err := st.RecvMsg(&m); err != nil {
			return err
		}
		m.free()
	}
}

func TestGreetingsThatAreRefused(t *testing.T) {
	r := newRogue(t)
	for name, c := range map[string]struct {
		change func(*hello)
		err    error
	}{
		"newer":    {func(h *hello) { h.newest, h.oldest = 9, version+1 }, ErrVersionMismatch},
		"older":    {func(h *hello) { h.newest, h.oldest = 0, 0 }, ErrVersionMismatch},
		"cluster":  {func(h *hello) { h.cluster = 3 }, ErrClusterMismatch},
		"receiver": {func(h *hello) { h.to = 9 }, ErrMemberMismatch},
		"sender":   {func(h *hello) { h.from = 2 }, ErrMemberMismatch},
		"nobody":   {func(h *hello) { h.from = 0 }, ErrMemberMismatch},
	} {
		h := r.hello
		c.change(&h)
		_, _, err := r.greet(t.Context(), r.url, talkMethod, h)
		require.ErrorIs(t, err, c.err, name)
		require.ErrorAs(t, err, new(*refusedError), name)
	}
	// Who speaks newer versions too is spoken to in ours.
	r.hello.newest = 9
	r.stream(t, talkMethod)
}

// TestAnswersToGreetings is the dialing side's part.
func TestAnswersToGreetings(t *testing.T) {
	h := hello{version, oldestVersion, 1, 7, 2}
	require.NoError(t, h.checkAnswer(h.welcome()))
	require.ErrorIs(t, h.checkAnswer(nil), ErrProtocol)
	require.ErrorIs(t, h.checkAnswer([]byte{classNone, 1, 2}), ErrProtocol)
	require.ErrorIs(t, h.checkAnswer(hello{0, 0, 1, 7, 2}.welcome()), ErrVersionMismatch)
	require.ErrorIs(t, h.checkAnswer(hello{1, 1, 3, 7, 2}.welcome()), ErrClusterMismatch)
	require.ErrorIs(t, h.checkAnswer(hello{1, 1, 1, 7, 9}.welcome()), ErrMemberMismatch)
	require.ErrorIs(t, h.checkAnswer([]byte{99, 0}), ErrProtocol)
}

func TestNoGreeting(t *testing.T) {
	r := newRogue(t)
	l, err := r.open(r.url)
	require.NoError(t, err)
	defer l.close()
	st, err := l.cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, talkMethod)
	require.NoError(t, err)
	require.Error(t, ended(st), "the connection is closed in the end")

	l, err = r.open(r.url)
	require.NoError(t, err)
	defer l.close()
	_, err = r.exchange(t.Context(), l, talkMethod, r.hello)
	require.NoError(t, err)
	st, err = l.cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, talkMethod)
	require.NoError(t, err)
	require.NoError(t, st.SendMsg(outgoing([]byte("short"))))
	require.ErrorContains(t, ended(st), ErrProtocol.Error())
	require.ErrorContains(t, l.cc.Invoke(t.Context(), askMethod, outgoing(nil), &message{}), ErrProtocol.Error())
}

func TestFramesThatEndTheConnection(t *testing.T) {
	r := newRogue(t)
	frame := func(records ...record) []byte {
		return encode(records, r.buffers).Materialize()
	}
	for name, b := range map[string][]byte{
		"unknown record": {99, 1, 2},
		"cut short":      {recordRaft, 1, 100, 1},
		"a reply":        frame(record{kind: recordReply, id: 1}),
		"an id twice":    frame(record{kind: recordCall, id: 1}, record{kind: recordCall, id: 1}),
	} {
		st := r.stream(t, talkMethod)
		require.NoError(t, st.SendMsg(outgoing(b)))
		err := ended(st)
		require.Error(t, err, name)
		require.NotErrorIs(t, err, io.EOF, name)
	}
	// What is larger than a frame may be is refused before it is read.
	st := r.stream(t, talkMethod)
	err := st.SendMsg(outgoing(make([]byte, maxMessageBytes+1)))
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
}

// TestMoreCallsThanReplies makes calls beyond the bound and takes no answers: the
// answers that they are too many must not pile up without a bound.
func TestMoreCallsThanReplies(t *testing.T) {
	r := newRogue(t)
	st := r.stream(t, talkMethod)
	var err error
	for id := uint64(0); err == nil; {
		var batch []record
		for range 10_000 {
			id++
			batch = append(batch, record{kind: recordCall, id: id})
		}
		m := message{buffers: encode(batch, r.buffers)}
		err = st.SendMsg(&m)
	}
	require.ErrorIs(t, err, io.EOF, "the connection is ended")
}

// TestSnapshotWithoutItsEnd ends the stream in good order, but not the snapshot.
func TestSnapshotWithoutItsEnd(t *testing.T) {
	r := newRogue(t)
	for name, messages := range map[string][][]byte{
		"no end":       {{snapshotHeader, 'h'}, {snapshotChunk, 'c'}},
		"nothing":      {{snapshotHeader}},
		"empty":        {{snapshotHeader}, {}},
		"header twice": {{snapshotHeader}, {snapshotHeader}},
	} {
		st := r.stream(t, snapshotMethod)
		for _, m := range messages {
			require.NoError(t, st.SendMsg(outgoing(m)))
		}
		require.NoError(t, st.CloseSend())
		err := <-r.sink.snapshots
		require.Error(t, err, name)
		require.NotErrorIs(t, err, io.EOF, name)
		var m message
		require.NoError(t, st.RecvMsg(&m))
		_, err = answer(m.take())
		require.ErrorAs(t, err, new(*RemoteError), name)
	}
	st := r.stream(t, snapshotMethod)
	require.NoError(t, st.SendMsg(outgoing([]byte{snapshotChunk})))
	var m message
	require.NoError(t, st.RecvMsg(&m))
	_, err := answer(m.take())
	require.ErrorAs(t, err, new(*RemoteError))
}
