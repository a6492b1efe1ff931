package inspect

import (
	"bytes"
	"context"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

// Damage is something in a data directory that is not as it must be.
type Damage struct {
	// Group is the name of the group that it is in, "" if it is in none alone.
	Group, What string
}

// Error says what is damaged, and what to do.
func (d *Damage) Error() string {
	return fmt.Sprintf("the data directory is damaged: %s: %s", d.What, advice)
}

// Verified is what Verify has found of one group.
type Verified struct {
	Group
	Rows mvcc.Rows
	// Damaged says how much was reported of it.
	Damaged int
}

// Verify reads everything, and calls report with all that is damaged, and group with
// each group when it is through with it. It returns an error only if ctx is done.
func (d *Dir) Verify(ctx context.Context, report func(Damage), group func(Verified)) error {
	for _, db := range []struct {
		name string
		db   *engine.DB
	}{{"the logs", d.logs}, {"the state", d.state}} {
		if err := d.guard(func() error { return engine.CheckLevels(db.db) }); err != nil {
			report(Damage{"", fmt.Sprintf("%s can't be read: %v", db.name, err)})
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for _, g := range d.routes.Groups() {
		v := Verified{Group: Group{ID: g.ID, Name: g.Name}}
		tell := func(format string, args ...any) {
			v.Damaged++
			report(Damage{g.Name, fmt.Sprintf(format, args...)})
		}
		err := d.guard(func() error { return d.verifyGroup(ctx, g, &v, tell) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			tell("%v", err)
		}
		group(v)
	}
	if err := d.guard(func() error { return d.strangers(report) }); err != nil {
		report(Damage{"", err.Error()})
	}
	return ctx.Err()
}

func (d *Dir) verifyGroup(ctx context.Context, g route.Group, v *Verified, tell func(string, ...any)) error {
	// The log may be damaged where the state is not, and the other way round.
	info, infoErr := d.group(g)
	v.Group = info
	v.ID, v.Name = g.ID, g.Name
	store, err := mvcc.Open(d.state, g.ID)
	if err != nil {
		return err
	}
	if infoErr != nil {
		tell("%v", infoErr)
	} else if err := verifyLog(store, &info, tell); err != nil {
		return err
	}
	owns := func(key []byte) bool { return d.routes.Of(key) == g.ID }
	v.Rows, err = store.Verify(ctx, owns, func(damage string) { tell("%s", damage) })
	return err
}

// verifyLog compares a group's log with its state.
func verifyLog(store *mvcc.Store, g *Group, tell func(string, ...any)) error {
	restored, term, err := store.Restored()
	if err != nil {
		return err
	}
	applied := g.Applied
	switch {
	case !g.Begun:
		if applied.Index > 0 && (applied.Index != 1 || applied.Number > 0) {
			tell("the state is applied up to entry %d, and the log was never begun", applied.Index)
		}
	case applied.Index < g.First-1:
		tell("the state is applied up to entry %d, and the log begins at entry %d", applied.Index, g.First)
	case applied.Index > g.Last && (applied.Index != restored || applied.Term != term):
		tell("the state is applied up to entry %d, and the log ends at entry %d", applied.Index, g.Last)
	case g.Commit > max(g.Last, applied.Index):
		tell("entry %d is committed, and the log ends at entry %d", g.Commit, g.Last)
	}
	return nil
}

// strangers looks for rows of groups that there are not. NB: it steps over those that
// there are.
func (d *Dir) strangers(report func(Damage)) error {
	for _, db := range []struct {
		name string
		db   *engine.DB
	}{{"the logs have", d.logs}, {"the state has", d.state}} {
		it, err := db.db.NewIter(nil)
		if err != nil {
			return err
		}
		known := map[mvcc.GroupID]bool{}
		for _, g := range d.routes.Groups() {
			known[g.ID] = true
		}
		for ok := it.First(); ok; {
			key := bytes.Clone(it.Key())
			if len(key) < 2 {
				report(Damage{"", fmt.Sprintf("%s a row %x", db.name, key)})
				ok = it.Next()
				continue
			}
			id := mvcc.GroupID(key[0])<<8 | mvcc.GroupID(key[1])
			if !known[id] {
				report(Damage{"", fmt.Sprintf("%s rows of group %d, which the cluster does not have", db.name, id)})
			}
			if id++; id == 0 {
				break
			}
			ok = it.SeekGE(engine.AppendPrefix([]byte{byte(id >> 8), byte(id)}))
		}
		err = it.Error()
		if cerr := it.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return nil
}
