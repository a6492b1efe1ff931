package keyspace

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

// Router says which group owns a key; *route.Table is one.
type Router interface {
	Of(key []byte) mvcc.GroupID
	Segments(span mvcc.Span, dst []route.Segment) []route.Segment
	// Touches returns the owners of a span's keys: bit 1<<id is set for the group
	// of that id.
	Touches(span mvcc.Span) uint64
}

// maxGroups is how many groups the bits of Router.Touches can name.
const maxGroups = 64

// Space is the key space of all groups.
type Space struct {
	Router
	// stores has each group's store at the place of its id; all has them in that
	// order.
	stores [maxGroups]*mvcc.Store
	all    []*mvcc.Store

	// compacted: see Invariant 2 of the package.
	compacted atomic.Int64
	counts    mvcc.Counts
}

// New makes the Space of the groups' stores. Every group that the router knows
// must have one. A compaction that is effective in one of them is so in the Space.
func New(router Router, stores map[mvcc.GroupID]*mvcc.Store) *Space {
	s := &Space{Router: router}
	for _, g := range slices.Sorted(maps.Keys(stores)) {
		if g >= maxGroups {
			panic(fmt.Sprintf("keyspace: group %d is too many", g))
		}
		s.stores[g] = stores[g]
		s.all = append(s.all, stores[g])
		s.compacted.Store(max(s.compacted.Load(), stores[g].Compacted()))
	}
	return s
}

// Store returns a group's store, nil if there is no such group.
func (s *Space) Store(g mvcc.GroupID) *mvcc.Store {
	if g >= maxGroups {
		return nil
	}
	return s.stores[g]
}

func (s *Space) of(key []byte) *mvcc.Store { return s.stores[s.Of(key)] }

// only returns the store that has all keys of the span, nil if several have.
func (s *Space) only(span mvcc.Span) *mvcc.Store {
	if mask := s.Touches(span); bits.OnesCount64(mask) == 1 {
		return s.stores[bits.TrailingZeros64(mask)]
	}
	return nil
}

// Revision returns the greatest revision that any group has applied.
func (s *Space) Revision() int64 {
	var rev int64
	for _, st := range s.all {
		rev = max(rev, st.Revision())
	}
	return rev
}

// Compacted returns the revision below which reads are refused: that of the last
// compaction that is effective, or what RaiseFloor was given if that is greater. It
// is 0 if there is none.
func (s *Space) Compacted() int64 { return s.compacted.Load() }

// SetCompacted makes a compaction at rev effective in all groups, unless a later
// one is.
// REQUIRES: every group has all its changes up to rev.
func (s *Space) SetCompacted(rev int64) {
	s.RaiseFloor(rev)
	for _, st := range s.all {
		st.Compact(rev)
	}
}

// RaiseFloor refuses reads below rev, as Compacted tells from then on, without
// saying that every group has its changes up to it: a group is about to be given
// rows of which older versions may be gone.
func (s *Space) RaiseFloor(rev int64) {
	for {
		before := s.compacted.Load()
		if rev <= before || s.compacted.CompareAndSwap(before, rev) {
			return
		}
	}
}

func (s *Space) checkCompacted(rev int64) error {
	if rev < s.Compacted() {
		return mvcc.ErrCompacted
	}
	return nil
}

// Get returns the key as it was at main revision rev, nil if it was not there.
// The KeyValue belongs to the caller.
func (s *Space) Get(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	if err := s.checkCompacted(rev); err != nil {
		return nil, err
	}
	return s.of(key).Get(key, rev)
}

// Head returns the key's newest version of those applied so far, without its
// value; ok says whether the key is there.
func (s *Space) Head(key []byte) (h mvcc.Head, ok bool, err error) { return s.of(key).Head(key) }

// Latest is Get at the newest of the versions applied so far.
func (s *Space) Latest(key []byte) (*mvccpb.KeyValue, error) { return s.of(key).Latest(key) }

// Scan walks the keys of a span as they were at main revision rev.
func (s *Space) Scan(ctx context.Context, span mvcc.Span, rev int64) (mvcc.Cursor, error) {
	sc, err := s.scan(ctx, span, rev)
	if err != nil {
		return nil, err
	}
	return sc, nil
}

func (s *Space) scan(ctx context.Context, span mvcc.Span, rev int64) (*mvcc.Scanner, error) {
	if err := s.checkCompacted(rev); err != nil {
		return nil, err
	}
	if st := s.only(span); st != nil {
		return mvcc.ScanSegments(ctx, []mvcc.Segment{{Store: st, Span: span}}, rev)
	}
	parts := s.Segments(span, nil)
	segments := make([]mvcc.Segment, len(parts))
	for i, p := range parts {
		segments[i] = mvcc.Segment{Store: s.stores[p.Group], Span: p.Span}
	}
	return mvcc.ScanSegments(ctx, segments, rev)
}

// ScanLatest is Scan of everything applied so far.
func (s *Space) ScanLatest(ctx context.Context, span mvcc.Span) (*mvcc.Scanner, error) {
	return s.scan(ctx, span, mvcc.Latest)
}

// KnownCount returns the number of keys of span at rev if a page before has
// counted it. Nothing is known of a compacted revision: who counts is refused.
func (s *Space) KnownCount(span mvcc.Span, rev int64) (int64, bool) {
	if s.checkCompacted(rev) != nil {
		return 0, false
	}
	return s.counts.Known(span, rev)
}

// NoteCount remembers the number of keys of span at rev.
func (s *Space) NoteCount(span mvcc.Span, rev, n int64) { s.counts.Note(span, rev, n) }

// LeaseKeys returns the keys that are attached to a lease, in order.
func (s *Space) LeaseKeys(id int64) ([][]byte, error) {
	var keys [][]byte
	for _, st := range s.all {
		own, err := st.LeaseKeys(id)
		if err != nil {
			return nil, err
		}
		keys = append(keys, own...)
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys, nil
}

// Changes calls fn for every change of a key in span with main revision from
// up to and including to, in revision order and without PrevKv, until fn
// returns an error, which it returns. It returns mvcc.ErrCompacted, before the
// first call, if from is below the compacted revision.
func (s *Space) Changes(
	ctx context.Context, span mvcc.Span, from, to int64, fn func(*mvccpb.Event) error,
) error {
	if err := s.checkCompacted(from); err != nil {
		return err
	}
	if st := s.only(span); st != nil {
		return st.Changes(ctx, span, from, to, fn)
	}
	var stores []*mvcc.Store
	for mask := s.Touches(span); mask != 0; mask &= mask - 1 {
		stores = append(stores, s.stores[bits.TrailingZeros64(mask)])
	}
	return mvcc.Changes(ctx, stores, span, from, to, fn)
}

// HashKV returns a checksum over the versions at or below rev, as mvcc.Store's,
// and the compacted revision that it was made with.
func (s *Space) HashKV(ctx context.Context, rev int64) (hash uint32, compacted int64, err error) {
	return mvcc.HashKV(ctx, s.all, rev, s.Compacted())
}
