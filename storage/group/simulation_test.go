package group_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
)

var (
	simSeed      = flag.Uint64("seed", 0, "the seed of the only simulated cluster, whose steps are printed; 0 for many clusters")
	simClusters  = flag.Int("clusters", 0, "how many clusters are simulated; 0 for few")
	simFirst     = flag.Uint64("first", 1, "the seed of the first simulated cluster")
	simActions   = flag.Bool("actions", false, "with -seed, print every step")
	simSchedules = flag.Int("schedules", 20, "how many schedules each simulated cluster goes through")
)

var errGaveUp = errors.New("the client gave up")

// TestSimulation runs clusters of members that share nothing but a source of
// random numbers, through schedules of faults, and holds what clients, watchers
// and other members are told to a model. A seed replays exactly.
func TestSimulation(t *testing.T) {
	clusters := *simClusters
	first := *simFirst
	if clusters == 0 {
		clusters = 25
	}
	if *simSeed != 0 {
		clusters, first = 1, *simSeed
	}
	var total tally
	for seed := first; seed < first+uint64(clusters); seed++ {
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed) // raft's election timeouts
			synctest.Test(t, func(t *testing.T) {
				total.add(simulate(t, seed))
			})
		})
		if !ok {
			break
		}
	}
	t.Log(total)
}

// simulate runs one cluster through its schedules.
func simulate(t *testing.T, seed uint64) tally {
	t.Helper()
	var c *cluster
	schedule, began := 0, 0
	defer func() {
		if found := recover(); found != nil {
			stack := ""
			if _, ok := found.(violation); !ok || *simSeed != 0 {
				stack = string(debug.Stack())
			}
			now := 0
			if c != nil {
				now = c.now
			}
			what := fmt.Sprintf("in step %d of schedule %d, %d steps after its begin:\n%v\n%s\ngo test ./storage/group -run TestSimulation -seed %d -schedules %d",
				now, schedule, now-began, found, stack, seed, *simSchedules)
			if _, ok := found.(violation); !ok {
				// The product's own check: it may hold locks, and nothing can be ended
				// in good order.
				fmt.Fprintln(os.Stdout, what)
				panic(found)
			}
			t.Error(what)
			if c != nil {
				c.abandon()
			}
		}
	}()
	c = newCluster(seed)
	if *simSeed != 0 {
		c.tracing, c.out = true, os.Stdout
	}
	c.after()
	c.heal()
	for schedule = 1; schedule <= *simSchedules; schedule++ {
		began = c.now
		c.schedule(schedule == *simSchedules || schedule%10 == 0)
	}
	for _, m := range c.members {
		if m.up {
			m.end()
		}
	}
	t.Logf("digest %x, %d steps", c.digest, c.now)
	return c.tally
}

// schedule is some steps with faults, and as many as it takes to heal.
func (c *cluster) schedule(thoroughly bool) {
	c.plan()
	c.tally.Schedules++
	reigns, revisions, last := c.reigns, len(c.truth.revisions), c.truth.last()
	for range 200 + c.rng.IntN(1500) {
		c.step()
	}
	c.heal()
	c.judge()
	if got := int64(len(c.truth.revisions) - revisions); c.reigns == reigns && got != c.truth.last()-last {
		violated("%d revisions lie between %d and %d, though nobody else has come to reign", got, last, c.truth.last())
	}
	c.tally.Revisions += len(c.truth.revisions) - revisions
	c.judgeMembers(thoroughly)
}

// abandon ends what runs, after a failure.
func (c *cluster) abandon() {
	for _, m := range c.members {
		if m.up && m.logs != nil {
			func() {
				defer func() { _ = recover() }()
				c.failure = nil
				m.end()
			}()
		}
	}
}

// describe says what the members think.
func (c *cluster) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "step %d, %d calls, %d tasks, %d packets, last %d\n", c.now, len(c.open), len(c.tasks), c.net.onItsWay(), c.truth.last())
	for _, k := range c.open {
		fmt.Fprintf(&b, "  call %d at member %d, since step %d\n", k.n, k.task.at.id, k.began)
	}
	for _, m := range c.members {
		fmt.Fprintf(&b, "  member %d: up %t, gone %t, reigns %t\n", m.id, m.up, m.gone, m.reigning)
		if !m.up {
			continue
		}
		epoch, begun := m.reign.Epoch()
		fmt.Fprintf(&b, "    epoch %d (%t), closed %d, present %d, compacted %d of %d, changing %t\n",
			epoch, begun, m.line.Closed(), m.line.Present(), m.space.Compacted(), m.decided, m.changing)
		for g, h := range m.groups {
			fmt.Fprintf(&b, "    group %d: %+v, applied %+v, replicas %v, quiet %t, mail %t, tasks %d\n",
				g, h.Status(), m.stores[g].Applied(), h.Replicas(), h.Quiet(), h.HasMail(), h.Unapplied())
		}
	}
	return b.String()
}

func (t *tally) add(o tally) {
	t.Schedules += o.Schedules
	t.Steps += o.Steps
	t.Ticks += o.Ticks
	t.Answered += o.Answered
	t.Refused += o.Refused
	t.Unknown += o.Unknown
	t.Reads += o.Reads
	t.Revisions += o.Revisions
	t.Crossings += o.Crossings
	t.Compactions += o.Compactions
	t.Revoked += o.Revoked
	t.Elections += o.Elections
	t.Reigns += o.Reigns
	t.Starts += o.Starts
	t.Crashes += o.Crashes
	t.Stops += o.Stops
	t.Snapshots += o.Snapshots
	t.Restored += o.Restored
	t.ConfChanges += o.ConfChanges
	t.Dropped += o.Dropped
	t.Cuts += o.Cuts
	t.Pauses += o.Pauses
	t.LongestHeal = max(t.LongestHeal, o.LongestHeal)
}

func (t tally) String() string {
	type plain tally
	return fmt.Sprintf("%+v", plain(t))
}
