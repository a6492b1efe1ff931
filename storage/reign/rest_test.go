package reign

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/group"
)

// Rest answers what is in flight, and what comes then waits.
func TestRest(t *testing.T) {
	for _, ends := range []bool{true, false} {
		r := newRig(t, engine.NewMem())
		defer r.stop()
		r.begin()
		r.gate.closed.Store(true)
		busy := r.async(put(keys[3], "busy"))
		r.until(func() bool { return r.gate.waiting.Load() > 0 })
		resumed := make(chan func(), 1)
		go func() {
			resume, err := r.Rest(context.Background())
			if err != nil {
				t.Error(err)
			}
			resumed <- resume
		}()
		r.settle(func() bool { return r.inRound() })
		require.Empty(t, resumed, "something is in flight")
		r.gate.open()
		resume := <-resumed
		require.NoError(t, (<-busy).err)

		alone, crossing := r.async(put(keys[3], "later")), r.async(everywhere("later"))
		r.settle(func() bool { return r.queued() == 1 })
		require.Empty(t, alone)
		require.Empty(t, crossing)
		if ends {
			r.Lead(0)
			require.ErrorIs(t, (<-alone).err, group.ErrNotSequencer)
			require.ErrorIs(t, (<-crossing).err, group.ErrNotSequencer)
			resume()
			r.begin()
			r.must(everywhere("next"))
			continue
		}
		resume()
		require.NoError(t, (<-alone).err)
		require.NoError(t, (<-crossing).err)
	}
}

// Who does not wait for it leaves nothing behind.
func TestRestGivenUp(t *testing.T) {
	r := newRig(t, engine.NewMem())
	defer r.stop()
	_, err := r.Rest(t.Context())
	require.ErrorIs(t, err, group.ErrNotSequencer)
	r.begin()
	r.gate.closed.Store(true)
	busy := r.async(put(keys[3], "busy"))
	r.until(func() bool { return r.gate.waiting.Load() > 0 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.Rest(ctx)
	require.ErrorIs(t, err, context.Canceled)
	r.gate.open()
	require.NoError(t, (<-busy).err)
	r.must(everywhere("next"))
}
