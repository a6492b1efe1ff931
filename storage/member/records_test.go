package member_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// TestRecords writes records through every member, and reads them at every member.
func TestRecords(t *testing.T) {
	var mu sync.Mutex
	told := 0
	c := newCluster(t, 3, func(cfg *member.Config) {
		cfg.RecordsChanged = func(table string) {
			if table == "of-test" {
				mu.Lock()
				defer mu.Unlock()
				told++
			}
		}
	})
	for _, n := range c.nodes {
		version, rows, err := n.RecordsNow(t.Context(), "of-test")
		require.NoError(t, err)
		require.Zero(t, version)
		require.Empty(t, rows)
	}
	before := c.nodes[0].Revision()
	want := map[string][]byte{}
	for i := range 30 {
		key := fmt.Sprint(i % 7)
		w := mvcc.RecordWrite{Key: key, Value: []byte(fmt.Sprint("value ", i))}
		want[key] = w.Value
		if i%5 == 4 {
			delete(want, key)
			w.Value = nil
		}
		version, err := c.nodes[i%3].WriteRecords(t.Context(), "of-test", int64(i), []mvcc.RecordWrite{w})
		require.NoError(t, err)
		require.EqualValues(t, i+1, version)
		// Whoever has written has it; the others have it when they ask.
		_, rows, err := c.nodes[i%3].Records("of-test")
		require.NoError(t, err)
		require.Equal(t, want, rows)
		version, rows, err = c.nodes[(i+1)%3].RecordsNow(t.Context(), "of-test")
		require.NoError(t, err)
		require.EqualValues(t, i+1, version)
		require.Equal(t, want, rows)
		_, err = c.nodes[(i+2)%3].WriteRecords(t.Context(), "of-test", int64(i), []mvcc.RecordWrite{{Key: "late", Value: []byte("x")}})
		require.ErrorIs(t, err, evaluate.ErrRecordsChanged)
	}
	_, rows, err := c.nodes[0].RecordsNow(t.Context(), "of-tes")
	require.NoError(t, err)
	require.Empty(t, rows)
	require.Equal(t, before, c.nodes[1].Revision(), "records take a revision")
	c.eventually(func() bool {
		mu.Lock()
		defer mu.Unlock()
		return told == 3*30
	}, "not every member was told of every change")

	for _, n := range c.nodes {
		n.close()
	}
	c.open(c.nodes...)
	for _, n := range c.nodes {
		version, rows, err := n.RecordsNow(t.Context(), "of-test")
		require.NoError(t, err)
		require.EqualValues(t, 30, version)
		require.Equal(t, want, rows)
	}
}

// TestRecordsAreGuarded has several write at once: of those who have seen one version
// one writes.
func TestRecordsAreGuarded(t *testing.T) {
	c := newCluster(t, 3, nil)
	const each = 20
	var all sync.WaitGroup
	errs := make([]error, 6)
	for w := range errs {
		n := c.nodes[w%3]
		all.Go(func() {
			for done := 0; done < each; {
				version, rows, err := n.Records("counter")
				if err == nil {
					_, err = n.WriteRecords(t.Context(), "counter", version,
						[]mvcc.RecordWrite{{Key: "n", Value: append(append([]byte{}, rows["n"]...), byte(w))}})
				}
				if errors.Is(err, evaluate.ErrRecordsChanged) {
					continue
				}
				if err != nil {
					errs[w] = err
					return
				}
				done++
			}
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	for _, n := range c.nodes {
		version, rows, err := n.RecordsNow(t.Context(), "counter")
		require.NoError(t, err)
		require.EqualValues(t, each*len(errs), version)
		counts := map[byte]int{}
		for _, w := range rows["n"] {
			counts[w]++
		}
		for w := range errs {
			require.Equal(t, each, counts[byte(w)])
		}
	}
}
