package mvcc_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// What is remembered for pagers is bounded: the oldest is forgotten.
func TestCountsAreForgotten(t *testing.T) {
	s := newScript(t)
	s.apply([]string{"put a 1"})
	span := func(i int) mvcc.Span { return mvcc.SpanOf(fmt.Appendf(nil, "k%06d", i), []byte("l")) }
	known := func(i int) bool { _, ok := s.store.KnownCount(span(i), 2); return ok }
	const bound = 1024
	for i := range 3 * bound {
		s.store.NoteCount(span(i), 2, int64(i))
		require.True(t, known(i))
		if i >= bound {
			require.False(t, known(i-bound))
			require.True(t, known(i-bound+1))
		}
	}
	for i := 2 * bound; i < 3*bound; i++ {
		n, ok := s.store.KnownCount(span(i), 2)
		require.True(t, ok)
		require.EqualValues(t, i, n)
	}
}

// Whoever does not wait any more costs no more than a few rows.
func TestWalksEndWithTheirContext(t *testing.T) {
	s := newScript(t)
	var puts []string
	for i := range 3000 {
		puts = append(puts, fmt.Sprintf("put k%04d 1", i))
	}
	s.apply(puts)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()

	sc, err := s.store.ScanLatest(ctx, mvcc.Span{})
	require.NoError(t, err)
	n := 0
	for sc.Next() {
		n++
	}
	require.ErrorIs(t, sc.Err(), context.Canceled)
	require.Less(t, n, 2000)
	require.NoError(t, sc.Close())

	sc, err = s.store.ScanLatest(ctx, mvcc.Span{})
	require.NoError(t, err)
	_, err = sc.CountRest()
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, sc.Close())

	n = 0
	err = s.store.Changes(ctx, mvcc.Span{}, 1, s.store.Revision(), func(*mvccpb.Event) error { n++; return nil })
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, n, 2000)

	_, _, _, err = s.store.HashKV(ctx, 0)
	require.ErrorIs(t, err, context.Canceled)
}

// What the one who walks says ends the walk.
func TestChangesEndWithTheirCaller(t *testing.T) {
	s := newScript(t)
	s.apply([]string{"put a 1", "put b 1", "put c 1"})
	n := 0
	err := s.store.Changes(t.Context(), mvcc.Span{}, 1, 4, func(*mvccpb.Event) error {
		if n++; n == 2 {
			return context.DeadlineExceeded
		}
		return nil
	})
	require.Equal(t, context.DeadlineExceeded, err)
	require.Equal(t, 2, n)
}

// What a reader was given is its own: later writes and walks do not change it.
func TestWhatIsReadIsTheReaders(t *testing.T) {
	s := newScript(t)
	s.apply([]string{"put a first", "put b second"})
	got, err := s.store.Get([]byte("a"), 2)
	require.NoError(t, err)
	sc, err := s.store.ScanLatest(t.Context(), mvcc.Span{})
	require.NoError(t, err)
	var all []*mvccpb.KeyValue
	for sc.Next() {
		kv, err := sc.KV(false)
		require.NoError(t, err)
		all = append(all, kv)
	}
	require.NoError(t, sc.Close())
	s.apply([]string{"put a other", "del b"})
	require.NoError(t, s.db.Flush())
	require.Equal(t, "first", string(got.Value))
	require.Equal(t, "first", string(all[0].Value))
	require.Equal(t, "second", string(all[1].Value))
	// Key and value lie in one piece of memory; appending to the key must not
	// write into the value.
	for _, kv := range append(all, got) {
		value := string(kv.Value)
		_ = append(kv.Key, "xxxx"...)
		require.Equal(t, value, string(kv.Value))
	}
}

// A scanner sees what there was when it was made.
func TestScannerKeepsItsView(t *testing.T) {
	s := newScript(t)
	s.apply([]string{"put a 1", "put b 1", "put c 1"})
	sc, err := s.store.Scan(t.Context(), mvcc.Span{}, 4)
	require.NoError(t, err)
	require.True(t, sc.Next())
	s.apply([]string{"del b", "put bb 1", "put c 2", "compact 7"})
	s.scrub(1000, -1)
	require.Equal(t, "\"a\": 2.0\n\"bb\": 6.0\n\"c\": 7.0", s.rows(t))
	var rest []string
	for sc.Next() {
		kv, err := sc.KV(false)
		require.NoError(t, err)
		rest = append(rest, fmt.Sprintf("%s=%s", kv.Key, kv.Value))
	}
	require.NoError(t, sc.Err())
	require.NoError(t, sc.Close())
	require.Equal(t, []string{"b=1", "c=1"}, rest)
}
