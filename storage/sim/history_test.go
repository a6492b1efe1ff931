package sim_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/route"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// TestHistories runs histories of one caller against a member, half of the time
// one of four groups.
func TestHistories(t *testing.T) {
	var total sim.Tally
	for i := range histories(40) {
		seed := seedOf(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			replay(t, seed)
			var routes *route.Table
			if seed%4 >= 2 {
				routes = groupsTable(t)
			}
			target, err := newMember(newDisk(rand.New(rand.NewPCG(seed, 2))), nil, routes)
			require.NoError(t, err)
			defer func() { require.NoError(t, target.Close()) }()
			h := sim.NewHistory(seed, target)
			h.Generator.Rewrites = seed%2 == 1
			if routes != nil {
				h.Generator.Keys = nil
				for _, k := range groupsKeys {
					h.Generator.Keys = append(h.Generator.Keys, []byte(k))
				}
			}
			require.NoError(t, h.Run(500))
			require.NoError(t, target.failed())
			total.Add(h.Tally)
		})
	}
	t.Logf("%+v", total)
}

// TestConcurrentHistories runs histories of several callers at once against a
// member, half of the time one of four groups, and finds the order that explains
// their answers.
func TestConcurrentHistories(t *testing.T) {
	var total sim.Tally
	for i := range histories(40) {
		seed := seedOf(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			replay(t, seed)
			var slow engine.Injector
			if seed%2 == 1 {
				slow = yielding{}
			}
			var routes *route.Table
			if seed%4 >= 2 {
				routes = groupsTable(t)
			}
			target, err := newMember(newDisk(rand.New(rand.NewPCG(seed, 2))), slow, routes)
			require.NoError(t, err)
			defer func() { require.NoError(t, target.Close()) }()

			crew := newCrew(seed, sim.NewRecorder(crewSize), target, sim.NewModel())
			follow := newFollower(target)
			crew.start(150)
			crew.workers.Wait()
			require.NoError(t, follow.stop())

			model := sim.NewModel()
			require.NoError(t, (&sim.Replay{Model: model, Calls: crew.recorder.Calls()}).Run())
			require.NoError(t, sim.Same(target, model))
			require.NoError(t, target.failed())
			require.NoError(t, target.sink.check(model.History()))
			require.NoError(t, follow.check(model.History()))
			total.Add(tally(crew.recorder.Calls()))
			total.Changes += len(follow.reads)
		})
	}
	t.Logf("%+v", total)
}
