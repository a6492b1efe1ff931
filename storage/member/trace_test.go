package member_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/pkg/tracing"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/route"
)

// TestTrace follows requests through the rooms: which steps they pass, and that
// they do so in order.
func TestTrace(t *testing.T) {
	routes, err := route.Parse(route.DefaultResourceGroups, "/registry")
	require.NoError(t, err)
	for _, traced := range []bool{true, false} {
		m, err := member.Open(t.Context(), member.Config{
			Dir: "data", FS: engine.NewMem(), Name: "a", InitialCluster: "a=http://127.0.0.1:2380",
			PeerURLs: []string{"http://127.0.0.1:2380"}, Routes: routes, Traced: traced,
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, m.Close()) })
		<-m.Ready()
		follow := func(run func(context.Context) error, want ...tracing.Step) {
			t.Helper()
			if !traced {
				want = nil
			}
			r := tracing.New(clock.Real{})
			require.NoError(t, run(tracing.NewContext(t.Context(), r)))
			requireSteps(t, r, want...)
		}
		write := func(op evaluate.Op) func(context.Context) error {
			return func(ctx context.Context) error {
				_, err := m.Do(ctx, op)
				return err
			}
		}
		put := &evaluate.Put{Key: []byte("/registry/pods/a")}
		crossing := &evaluate.Txn{Success: []evaluate.Op{put, &evaluate.Put{Key: []byte("/registry/events/a")}}}
		nothing := &evaluate.DeleteRange{Key: []byte("/registry/pods/b")}

		follow(write(put), tracing.Submitted, tracing.Evaluating, tracing.Evaluated, tracing.Proposed,
			tracing.Logged, tracing.Committed, tracing.Applied)
		follow(write(nothing), tracing.Submitted, tracing.Evaluating, tracing.Evaluated, tracing.Confirming, tracing.Confirmed)
		follow(write(crossing), tracing.Submitted, tracing.Evaluating, tracing.Evaluated, tracing.Proposed, tracing.Applied)
		follow(func(ctx context.Context) error {
			_, err := m.Read(ctx, &evaluate.Range{Key: put.Key}, false)
			return err
		}, tracing.Asked, tracing.Ready, tracing.Reading, tracing.Read)
	}
}

// requireSteps holds that a request has passed want, in that order, and no others.
func requireSteps(t *testing.T, r *tracing.Request, want ...tracing.Step) {
	t.Helper()
	var before time.Time
	for _, s := range want {
		at, ok := r.At(s)
		require.True(t, ok, "step %d was not passed", s)
		require.False(t, at.Before(before), "step %d came too early", s)
		before = at
	}
	passed := 0
	for s := tracing.Queued; s <= tracing.Read; s++ {
		if _, ok := r.At(s); ok {
			passed++
		}
	}
	require.Equal(t, len(want), passed)
}
