package revline_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/revline"
)

func TestSequencer(t *testing.T) {
	var s revline.Sequencer
	require.Zero(t, s.Epoch())
	s.Begin(2, 1)
	require.EqualValues(t, 2, s.Epoch())
	require.EqualValues(t, 2, s.Next()) // the first write of a fresh store
	require.EqualValues(t, 3, s.Next())

	// What was handed out and never committed is handed out anew.
	s.Begin(5, 2)
	require.EqualValues(t, 5, s.Epoch())
	require.EqualValues(t, 3, s.Next())

	// An epoch may begin higher than the last has come.
	s.Begin(6, 100)
	require.EqualValues(t, 101, s.Next())
}

// An epoch that does not follow the one before would hand revisions out twice.
func TestEpochsFollowOneAnother(t *testing.T) {
	var s revline.Sequencer
	s.Begin(3, 10)
	require.PanicsWithValue(t, "revline: epoch 3 follows 3", func() { s.Begin(3, 10) })
	require.PanicsWithValue(t, "revline: epoch 2 follows 3", func() { s.Begin(2, 10) })
	require.EqualValues(t, 11, s.Next())
	require.EqualValues(t, 3, s.Epoch())
}

// Concurrent callers get different revisions, each of them growing, and
// together all there are.
func TestConcurrentCallers(t *testing.T) {
	var s revline.Sequencer
	s.Begin(1, 1)
	const callers, each = 8, 1000
	got := make([][]int64, callers)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			for range each {
				got[i] = append(got[i], s.Next())
			}
		})
	}
	wg.Wait()
	for _, one := range got {
		require.True(t, slices.IsSorted(one))
	}
	all := slices.Concat(got...)
	slices.Sort(all)
	for i, rev := range all {
		require.EqualValues(t, i+2, rev)
	}
}
