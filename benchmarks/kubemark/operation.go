//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// operation is what an operator does with the store during the load.
type operation struct {
	// members are how many the store must have at first.
	members int
	run     func(context.Context, *turn) error
}

// operations are called as the pages in manifests/operations that say what is done.
var operations = map[string]operation{
	"rolling-restart": {3, rollingRestart},
	"replace-member":  {3, replaceMember},
	"grow":            {1, grow},
	"snapshot":        {3, restoreSnapshot},
}

// step is one of an operation's.
type step struct {
	name   string
	took   time.Duration
	failed int // calls of the load, until the next step or the end of the load
}

// step does one. Its calls that fail are counted until the next begins.
func (t *turn) step(name string, do func() error) error {
	t.settleFailures()
	_, failed := t.ledger.counts()
	began := time.Now()
	err := do()
	t.result.steps = append(t.result.steps, step{name, time.Since(began), -failed})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// named is a step to do.
type named struct {
	name string
	do   func() error
}

// inOrder does steps, one after the other, until one fails.
func (t *turn) inOrder(all ...named) error {
	for _, one := range all {
		if err := t.step(one.name, one.do); err != nil {
			return err
		}
	}
	return nil
}

// settleFailures ends the latest step's count of failures. It has begun with those
// before it, taken off.
func (t *turn) settleFailures() {
	if n := len(t.result.steps); n > 0 {
		_, failed := t.ledger.counts()
		t.result.steps[n-1].failed += failed
	}
}

// operate does what was asked for, a while after the load has begun.
func (t *turn) operate(ctx context.Context) error {
	if t.plan.during == "" {
		return nil
	}
	if !pause(ctx, t.plan.steady/4) {
		return ctx.Err()
	}
	if err := operations[t.plan.during].run(ctx, t); err != nil {
		return fmt.Errorf("%s: %w", t.plan.during, err)
	}
	return nil
}

func rollingRestart(ctx context.Context, t *turn) error {
	s := t.cluster.store
	for i, m := range s.members {
		if err := t.inOrder(
			named{m.name + " ends", func() error { return s.end(i) }},
			named{m.name + " serves again", func() error { return s.begin(ctx, i) }},
		); err != nil {
			return err
		}
		if !pause(ctx, t.plan.steady/8) {
			return ctx.Err()
		}
	}
	return nil
}

func replaceMember(ctx context.Context, t *turn) error {
	s := t.cluster.store
	const gone = 2
	others := s.urls[:gone]
	if err := t.step("the last member is lost with its data", func() error {
		if err := s.end(gone); err != nil {
			return err
		}
		return os.RemoveAll(s.members[gone].data)
	}); err != nil {
		return err
	}
	if !pause(ctx, t.plan.steady/8) {
		return ctx.Err()
	}
	if err := t.step("it is removed", func() error { return s.removeMember(ctx, others, memberName(gone)) }); err != nil {
		return err
	}
	return t.join(ctx, gone, others)
}

func grow(ctx context.Context, t *turn) error {
	s := t.cluster.store
	for i := 1; i < 3; i++ {
		if err := t.join(ctx, i, s.urls[:i]); err != nil {
			return err
		}
	}
	return nil
}

// join has a member that is new, or new again, join the others.
func (t *turn) join(ctx context.Context, i int, others []string) error {
	s := t.cluster.store
	name := memberName(i)
	return t.inOrder(
		named{name + " is announced", func() error { return s.addLearner(ctx, others, i) }},
		named{name + " starts", func() error {
			s.joins(i)
			return s.launch(i)
		}},
		named{name + " has a vote", func() error { return s.promote(ctx, others, name) }},
		named{name + " serves", func() error { return s.waitMember(ctx, i) }},
	)
}

// restoreSnapshot takes one under the load, goes on for a while, and goes back to it.
func restoreSnapshot(ctx context.Context, t *turn) error {
	s, api := t.cluster.store, t.cluster.apiserver
	file := filepath.Join(t.cluster.dir, "snapshot.db")
	if err := t.step("a snapshot is saved", func() error { return s.saveSnapshot(ctx, file) }); err != nil {
		return err
	}
	if !pause(ctx, t.plan.steady/8) {
		return ctx.Err()
	}
	return t.inOrder(
		named{"kube-apiserver and the members end", func() error {
			// A graceful end waits for its watchers.
			if err := api.kill(); err != nil {
				return err
			}
			for i := range s.members {
				if err := s.end(i); err != nil {
					return err
				}
			}
			return nil
		}},
		named{"the snapshot is restored", func() error { return s.restoreSnapshot(ctx, file) }},
		named{"the members serve", func() error { return s.start(ctx) }},
		named{"kube-apiserver serves", func() error {
			if err := api.start(); err != nil {
				return err
			}
			if err := t.cluster.waitAPI(ctx); err != nil {
				return err
			}
			// Its counters begin at zero.
			var err error
			t.before, err = t.read(ctx)
			return err
		}},
		named{"all nodes are ready", func() error { return t.cluster.waitNodes(ctx, t.plan.nodes, func(int) {}) }},
	)
}

// waitAPI returns when kube-apiserver serves.
func (c *cluster) waitAPI(ctx context.Context) error {
	admin := newClient(c, newLedger())
	return c.apiserver.wait(ctx, startTimeout, func(ctx context.Context) bool {
		return admin.status(ctx, "/readyz") == http.StatusOK
	})
}

// waitNodes returns when so many nodes are ready, and tells how many are.
func (c *cluster) waitNodes(ctx context.Context, nodes int, tell func(ready int)) error {
	admin := newClient(c, newLedger())
	hollow := c.others[slices.IndexFunc(c.others, func(p *child) bool { return p.name == hollowNodes })]
	return hollow.wait(ctx, startTimeout, func(ctx context.Context) bool {
		ready, err := admin.readyNodes(ctx)
		tell(ready)
		return err == nil && ready == nodes && c.alive() == nil
	})
}
