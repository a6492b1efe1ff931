package conformance

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What has been acknowledged outlives the process, however it ends.
func TestRestart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *member){
		"after SIGKILL": func(t *testing.T, m *member) {
			t.Helper()
			require.NoError(t, m.Kill())
		},
		"after SIGTERM": func(t *testing.T, m *member) {
			t.Helper()
			state, err := m.Stop()
			require.NoError(t, err)
			// etcd ends by the signal that it was sent; a clean exit will do.
			status, ok := state.Sys().(syscall.WaitStatus)
			require.True(t, ok)
			require.True(t, state.Success() || status.Signal() == syscall.SIGTERM, state.String())
		},
	} {
		t.Run(name, func(t *testing.T) {
			once(t)
			m := start(t)
			m.fixture(t) // e was put at 12 and deleted at 13.
			m.must(t, grant(7, 1000), "rev=13 lease=7 ttl=1000")
			m.must(t, putLeased("l", "1", 7), "rev=14")
			m.must(t, compact(6), "rev=14")

			end(t, m)
			clusterID, memberID := m.clusterID, m.memberID
			require.NoError(t, m.Restart(t.Context()))
			m.connect(t)
			require.Equal(t, clusterID, m.clusterID)
			require.Equal(t, memberID, m.memberID)

			m.must(t, list("\x00", "\x00"), "rev=14 count=5 ["+keyA+" "+keyB+" "+keyC+" "+keyD+" l=1@14/14/1/lease7]")
			m.must(t, at(6, list("\x00", "\x00")), "rev=14 count=3 ["+keyB+" c=7@2/2/1 d=1@6/6/1]")
			m.must(t, at(5, get("b")), "OutOfRange: etcdserver: mvcc: required revision has been compacted")
			m.must(t, ttl(7), "rev=14 lease=7 granted=1000 alive keys=[l]")
			m.must(t, put("k", "1"), "rev=15")
			m.must(t, revoke(7), "rev=16")

			w := m.watch(t)
			w.create(t, from(7, onRange("\x00", "\x00")))
			w.expect(t, "#0 created rev=16")
			require.Equal(t, "put d=2@6/7/2, put d=3@6/8/3, put d=4@6/9/4, put a=9@10/10/1, put c=3@2/11/2, put e=0@12/12/1, del e@13, "+
				"put l=1@14/14/1/lease7, put k=1@15/15/1, del l@16", w.events(t, 0, 10))
		})
	}
}

// A server that was stopped for a while goes on as if nothing had been.
func TestPause(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	m.must(t, put("k", "1"), "rev=2")
	require.NoError(t, m.Signal(syscall.SIGSTOP))
	answer := make(chan string)
	go func() { answer <- m.answer(t.Context(), put("k", "2")) }()
	require.NoError(t, m.Signal(syscall.SIGCONT))
	require.Equal(t, "rev=3", <-answer)
}

// Many kills, each in the midst of writes: what was acknowledged is there, and
// no revision has been given out twice or left out.
func TestKillWhileWriting(t *testing.T) {
	t.Parallel()
	long(t)
	once(t)
	m := start(t)
	acknowledged := int64(1) // The last revision that a put was told.
	const kills, writesBetween = 5, 200
	for range kills {
		for range writesBetween {
			r, err := pb.NewKVClient(m.conn).Put(within(t), put("k", fmt.Sprint(acknowledged+1)))
			require.NoError(t, err)
			require.Equal(t, acknowledged+1, r.Header.Revision)
			acknowledged++
		}
		// One more is on its way when the process dies.
		last := make(chan error)
		go func() {
			_, err := pb.NewKVClient(m.conn).Put(t.Context(), put("k", fmt.Sprint(acknowledged+1)))
			last <- err
		}()
		require.NoError(t, m.Kill())
		err := <-last
		require.NoError(t, m.Restart(t.Context()))
		m.connect(t)

		r, rangeErr := pb.NewKVClient(m.conn).Range(within(t), get("k"))
		require.NoError(t, rangeErr)
		if err == nil || r.Header.Revision > acknowledged {
			acknowledged++
		}
		require.Equal(t, acknowledged, r.Header.Revision)
		require.Len(t, r.Kvs, 1)
		require.Equal(t, fmt.Sprint(acknowledged), string(r.Kvs[0].Value))
		require.Equal(t, acknowledged-1, r.Kvs[0].Version)
	}
	w := m.watch(t)
	w.create(t, from(2, on("k")))
	w.expect(t, fmt.Sprintf("#0 created rev=%d", acknowledged))
	next := int64(2)
	for next <= acknowledged {
		for _, e := range w.next(t).Events {
			require.Equal(t, next, e.Kv.ModRevision)
			require.Equal(t, fmt.Sprint(next), string(e.Kv.Value))
			next++
		}
	}
}
