package evaluate_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// mirror evaluates and applies a Mirror alone.
func (s *groupScript) mirror(op *evaluate.Mirror) (evaluate.Result, []evaluate.Part, error) {
	s.tb.Helper()
	s.crossing.Begin()
	res, err := s.crossing.Do(s.tb.Context(), op)
	parts := s.crossing.Seal()
	for _, p := range parts {
		s.apply(s.groups[p.Group], p.Effects)
	}
	return res, parts, err
}

// history is what a mirror of a model has to bring.
func history(m *sim.Model) (all []evaluate.MirrorRevision) {
	for _, e := range m.History() {
		if n := len(all); n == 0 || all[n-1].Revision != e.Kv.ModRevision {
			all = append(all, evaluate.MirrorRevision{Revision: e.Kv.ModRevision})
		}
		last := &all[len(all)-1]
		c := evaluate.MirrorChange{Sub: int64(len(last.Changes)), Key: e.Kv.Key, Deleted: e.Type == mvccpb.Event_DELETE}
		if !c.Deleted {
			c.Value, c.Create, c.Version, c.Lease = e.Kv.Value, e.Kv.CreateRevision, e.Kv.Version, e.Kv.Lease
		}
		last.Changes = append(last.Changes, c)
	}
	return all
}

// TestMirror has groups mirror random histories of a model, in random batches of which
// some come again, and compares what there is at every revision.
func TestMirror(t *testing.T) {
	for seed := range uint64(30) {
		gen := sim.NewGenerator(seed)
		gen.Keys = nil
		for _, k := range []string{"a", "b", "/r/pods/a", "/r/pods/b", "/r/pods/b\x00", "/r/events/a", "/r/events/b"} {
			gen.Keys = append(gen.Keys, []byte(k))
		}
		gen.Weights.Compact = 0
		model := sim.NewModel()
		for range 150 {
			_, _ = model.Do(gen.Next(model)) // errors are part of it
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		s := newGroupScript(t)
		s.mirroring = true
		all := history(model)
		granted := map[int64]bool{}
		head := int64(mvcc.FirstRevision)
		for next := 0; next < len(all); {
			from := max(0, next-rng.IntN(4)) // some of it again
			to := min(len(all), next+1+rng.IntN(9))
			op := &evaluate.Mirror{After: mvcc.FirstRevision, Revisions: all[from:to]}
			if from > 0 {
				op.After = all[from-1].Revision
			}
			for _, rev := range op.Revisions {
				for _, c := range rev.Changes {
					if c.Lease != 0 && !granted[c.Lease] {
						granted[c.Lease] = true
						op.Grants = append(op.Grants, evaluate.LeaseGrant{ID: c.Lease, TTL: c.Lease + 10})
					}
				}
			}
			next, head = to, all[to-1].Revision
			res, parts, err := s.mirror(op)
			require.NoError(t, err, "seed %d", seed)
			require.Equal(t, head, res.Revision)
			require.Equal(t, head, s.space.Revision())
			require.Equal(t, head, s.revision)
			require.NotEmpty(t, parts)
			if _, parts, err = s.mirror(&evaluate.Mirror{After: op.After, Revisions: op.Revisions}); err != nil || len(parts) > 0 {
				t.Fatalf("seed %d: what comes again changes %v (%v)", seed, parts, err)
			}
		}
		revokes := &evaluate.Mirror{After: head}
		for id := range granted {
			if !slices.Contains(model.Leases(), id) {
				revokes.Revokes = append(revokes.Revokes, id)
			}
		}
		_, _, err := s.mirror(revokes)
		require.NoError(t, err)
		for rev := int64(1); rev <= head; rev++ {
			r := &evaluate.Range{Key: []byte{0}, End: []byte{0}, Revision: rev}
			want, err := model.Do(r)
			require.NoError(t, err)
			got, err := evaluate.Read(t.Context(), s.space, head, r)
			require.NoError(t, err)
			require.Equal(t, sim.FormatResult(r, want, nil), sim.FormatResult(r, got, nil), "seed %d, revision %d", seed, rev)
		}
		for id := range granted {
			_, want, err := model.Lease(id)
			got, failed := s.space.LeaseKeys(id)
			require.NoError(t, failed)
			if err != nil {
				require.False(t, s.Exists(id), "seed %d: lease %d", seed, id)
			}
			require.Len(t, got, len(want), "seed %d: lease %d", seed, id)
		}
		// The next change is the next revision.
		s.mirroring = false
		s.crossing.Begin()
		res, err := s.crossing.Do(t.Context(), put("a", "1"))
		require.NoError(t, err)
		require.Equal(t, head+1, res.Revision)
	}
}

func mirrored(revision int64, changes ...evaluate.MirrorChange) evaluate.MirrorRevision {
	return evaluate.MirrorRevision{Revision: revision, Changes: changes}
}

func version(sub int64, key string, create, number, of int64) evaluate.MirrorChange {
	return evaluate.MirrorChange{Sub: sub, Key: []byte(key), Value: []byte("x"), Create: create, Version: number, Lease: of}
}

// TestMirrorJumps: a history that was compacted has gaps, in revisions and in them.
func TestMirrorJumps(t *testing.T) {
	s := newGroupScript(t)
	s.mirroring = true
	res, parts, err := s.mirror(&evaluate.Mirror{After: 1, Grants: []evaluate.LeaseGrant{{ID: 7, TTL: 60}}, Revisions: []evaluate.MirrorRevision{
		mirrored(5, version(3, "/r/pods/a", 2, 4, 7)),
		mirrored(9, evaluate.MirrorChange{Sub: 1, Key: []byte("never"), Deleted: true}, version(6, "b", 9, 1, 0)),
		mirrored(12),
	}, Compact: 8})
	require.NoError(t, err)
	require.EqualValues(t, 12, res.Revision)
	require.Equal(t, []int64{5, 12}, s.taken)
	require.Len(t, parts, 2)
	require.Equal(t, []int64{9, 12}, parts[0].Revisions)
	require.EqualValues(t, 8, s.compacted)
	require.Equal(t, []mvcc.GroupID{3}, s.leases[7])
	kv, err := s.space.Latest([]byte("/r/pods/a"))
	require.NoError(t, err)
	require.Equal(t, []int64{2, 5, 4, 7}, []int64{kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease})

	// A lease that has keys is not ended, and then it is, with their end.
	_, parts, err = s.mirror(&evaluate.Mirror{After: 12, Revokes: []int64{7}})
	require.NoError(t, err)
	require.Empty(t, parts)
	_, _, err = s.mirror(&evaluate.Mirror{
		After: 12, Revokes: []int64{7},
		Revisions: []evaluate.MirrorRevision{mirrored(13, evaluate.MirrorChange{Key: []byte("/r/pods/a"), Deleted: true})},
	})
	require.NoError(t, err)
	require.Empty(t, s.leases)
}

// TestMirrorIsRefused: nothing of what makes no sense is done.
func TestMirrorIsRefused(t *testing.T) {
	s := newGroupScript(t)
	one := []evaluate.MirrorRevision{mirrored(2, version(0, "a", 2, 1, 0))}
	_, _, err := s.mirror(&evaluate.Mirror{After: 1, Revisions: one})
	require.ErrorIs(t, err, evaluate.ErrNotMirroring)
	s.mirroring = true
	for _, g := range s.groups {
		g.eval.Begin(nil)
		for _, op := range []evaluate.Op{
			put("a", "1"), &evaluate.DeleteRange{Key: []byte("a")}, &evaluate.Txn{}, &evaluate.Compact{Revision: 1},
			&evaluate.LeaseGrant{ID: 1, TTL: 60}, &evaluate.LeaseRevoke{ID: 1}, &evaluate.LeaseCheckpoint{},
		} {
			_, err := g.eval.Do(t.Context(), op)
			require.ErrorIs(t, err, evaluate.ErrMirroring, "%T", op)
		}
		_, err := g.eval.Do(t.Context(), &evaluate.Mirror{After: 1, Revisions: one})
		require.ErrorIs(t, err, evaluate.ErrCrossing)
		_, ok := g.eval.Seal(0)
		require.False(t, ok)
	}
	for name, op := range map[string]*evaluate.Mirror{
		"no revision before":     {Revisions: one},
		"not after what it says": {After: 2, Revisions: one},
		"backward":               {After: 1, Revisions: []evaluate.MirrorRevision{mirrored(3), mirrored(2)}},
		"twice the same place":   {After: 1, Revisions: []evaluate.MirrorRevision{mirrored(2, version(0, "a", 2, 1, 0), version(0, "b", 2, 1, 0))}},
		"no key":                 {After: 1, Revisions: []evaluate.MirrorRevision{mirrored(2, version(0, "", 2, 1, 0))}},
		"created later":          {After: 1, Revisions: []evaluate.MirrorRevision{mirrored(2, version(0, "a", 3, 1, 0))}},
		"no version":             {After: 1, Revisions: []evaluate.MirrorRevision{mirrored(2, version(0, "a", 2, 0, 0))}},
		"a lease without time":   {After: 1, Grants: []evaluate.LeaseGrant{{ID: 1}}},
	} {
		_, parts, err := s.mirror(op)
		require.Error(t, err, name)
		require.Empty(t, parts, name)
	}
	for want, op := range map[error]*evaluate.Mirror{
		evaluate.ErrMirrorGap:  {After: 5, Revisions: []evaluate.MirrorRevision{mirrored(6)}},
		lease.ErrNotFound:      {After: 1, Revisions: []evaluate.MirrorRevision{mirrored(2, version(0, "b", 2, 1, 0), version(1, "a", 2, 1, 9))}},
		mvcc.ErrFutureRevision: {After: 1, Revisions: one, Compact: 3},
	} {
		_, parts, err := s.mirror(op)
		require.ErrorIs(t, err, want)
		require.Empty(t, parts)
		require.EqualValues(t, 1, s.space.Revision())
	}
}
