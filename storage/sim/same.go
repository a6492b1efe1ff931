package sim

import (
	"bytes"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// Same compares everything that a store keeps with the model.
func Same(t Target, m *Model) error {
	all := []byte{0}
	first := max(1, m.Compacted())
	if err := sameMarks(t, m); err != nil {
		return err
	}
	if _, err := sameChanges(t, m, all, all, first, m.Revision()); err != nil {
		return err
	}
	for _, revision := range []int64{0, first, (first + m.Revision()) / 2} {
		r := &evaluate.Range{Key: all, End: all, Revision: revision}
		want, wantErr := m.Do(r)
		got, gotErr := t.Do(r)
		if err := differ(FormatResult(r, got, gotErr), FormatResult(r, want, wantErr)); err != nil {
			return err
		}
	}
	return sameLeases(t, m)
}

// differ returns an error if two answers are not the same.
func differ(got, want string) error {
	if got == want {
		return nil
	}
	return fmt.Errorf("sim: the answers differ\nstore: %s\nmodel: %s", got, want)
}

// sameMarks compares the revisions that a store shows.
func sameMarks(t Target, m *Model) error {
	return differ(
		fmt.Sprintf("revision %d, compacted %d", t.Revision(), t.Compacted()),
		fmt.Sprintf("revision %d, compacted %d", m.Revision(), max(0, m.Compacted())))
}

// sameChanges compares the events of a span from one revision to another, both
// included, and the states before them, and returns how many there were.
func sameChanges(t Target, m *Model, key, end []byte, from, to int64) (int, error) {
	want, wantErr := m.Changes(key, end, from, to)
	got, gotErr := t.Changes(key, end, from, to)
	if wantErr != nil || gotErr != nil {
		return 0, differ(FormatError(gotErr), FormatError(wantErr))
	}
	got = dropSuperseded(got, m.Compacted())
	if err := differ(FormatEvents(got, false), FormatEvents(want, false)); err != nil {
		return 0, err
	}
	for _, e := range want {
		kv, err := t.Previous(e.Kv.Key, e.Kv.ModRevision)
		if err != nil {
			return 0, fmt.Errorf("sim: the state before %s: %w", FormatEvent(e, false), err)
		}
		if err := differ(FormatKV(kv), FormatKV(e.PrevKv)); err != nil {
			return 0, fmt.Errorf("before %s: %w", FormatEvent(e, false), err)
		}
	}
	return len(want), nil
}

// dropSuperseded removes the events at the compaction's revision that a later
// one of the same revision and key follows: whether they are still there
// depends on how far the deletion of old versions is, in etcd too.
func dropSuperseded(events []*mvccpb.Event, compacted int64) []*mvccpb.Event {
	var kept []*mvccpb.Event
	for i, e := range events {
		superseded := e.Kv.ModRevision == compacted && slices.ContainsFunc(events[i+1:], func(f *mvccpb.Event) bool {
			return f.Kv.ModRevision == compacted && bytes.Equal(f.Kv.Key, e.Kv.Key)
		})
		if !superseded {
			kept = append(kept, e)
		}
	}
	return kept
}

// sameLeases compares the leases there are, their times to live and keys.
func sameLeases(t Target, m *Model) error {
	ids, err := t.Leases()
	if err != nil {
		return err
	}
	slices.Sort(ids)
	if err := differ(fmt.Sprint("leases ", ids), fmt.Sprint("leases ", m.Leases())); err != nil {
		return err
	}
	for _, id := range ids {
		ttl, keys, err := t.Lease(id)
		wantTTL, wantKeys, wantErr := m.Lease(id)
		err = differ(
			fmt.Sprintf("lease %d: ttl %d, keys %q, %s", id, ttl, keys, FormatError(err)),
			fmt.Sprintf("lease %d: ttl %d, keys %q, %s", id, wantTTL, wantKeys, FormatError(wantErr)))
		if err != nil {
			return err
		}
	}
	return nil
}
