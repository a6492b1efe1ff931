package crash_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// How much of what could be asked is asked after each kill.
	randomRevisions = 3
	lastHashes      = 20
	someLeases      = 20

	// spreadSeconds is how much longer than granted a lease may have after a
	// restart: a server gives leases the full TTL again, and more to some where
	// too many would end in the same second, as etcd does.
	spreadSeconds = 60
)

// verify compares the restarted server with what was told. No writer is at
// work; leases may end meanwhile.
func (s *session) verify(t *testing.T) {
	t.Helper()
	upTo := s.ledger.lives[len(s.ledger.lives)-1].mark
	s.verifyUpTo(t, upTo)
	if s.over() { // The model is wrong, too.
		return
	}
	c := newClient(s.ledger, s.conn)
	for _, verify := range []func(context.Context, *client, int64) error{
		s.verifyHistory, s.verifyStates, s.verifyCompacted, s.verifyHashes, s.verifyLeases,
	} {
		if err := verify(t.Context(), c, upTo); err != nil {
			s.violation("%v", err)
		}
	}
	s.figures.verified++
}

// verifyUpTo checks everything that was told by now against the history that
// watchers were told.
func (s *session) verifyUpTo(t *testing.T, upTo int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestTimeout)
	defer cancel()
	for _, w := range s.watches {
		if err := w.wait(ctx, upTo); err != nil {
			s.violation("%v", err)
			return
		}
	}
	s.checker.advance(upTo)
	for _, w := range s.watches {
		w.check(s.checker, s.verified, upTo)
	}
	s.verified = upTo
}

// verifyHistory reads all the history that there still is, again. It also
// settles what is compacted.
func (s *session) verifyHistory(ctx context.Context, _ *client, upTo int64) error {
	from := s.ledger.compactedAtLeast()
	same := func(rev int64, events []event) {
		if err := s.checker.history.add(rev, events); err != nil {
			s.violation("after a restart: %v", err)
		}
	}
	next := max(from, firstRevision)
	whole := func(rev int64, events []event) {
		for ; next < rev; next++ {
			if seen, ok := s.checker.history.at(next); ok {
				s.violation("after a restart revision %d, %v, is not in the history", next, seen.events)
			}
		}
		next = rev + 1
		same(rev, events)
	}
	err := replay(ctx, s.conn, max(from, 1), upTo, whole)
	var compacted errCompacted
	if errors.As(err, &compacted) { // By a request that was not answered.
		from = compacted.rev
		next = from
		err = replay(ctx, s.conn, from, upTo, whole)
	}
	if err != nil {
		return fmt.Errorf("reading history again from revision %d: %w", from, err)
	}
	s.figures.replayed += int(upTo - max(from, 1))
	return s.ledger.settleCompactions(from)
}

// verifyStates lists all keys now and at old revisions.
func (s *session) verifyStates(ctx context.Context, c *client, upTo int64) error {
	low := max(s.ledger.compactedAtLeast(), firstRevision-1)
	revisions := []int64{low, upTo}
	for range randomRevisions {
		revisions = append(revisions, low+s.random.Int64N(upTo-low+1))
	}
	for _, rev := range revisions {
		_, err := c.read(ctx, "a list after a restart", &pb.RangeRequest{
			Key: []byte(everything), RangeEnd: []byte(everything), Revision: rev,
		})
		if err != nil {
			return fmt.Errorf("a list at revision %d: %w", rev, err)
		}
	}
	s.checker.advance(upTo) // For the looks that were just added.
	return nil
}

// verifyCompacted asks for what has been compacted.
func (s *session) verifyCompacted(ctx context.Context, c *client, _ int64) error {
	at := s.ledger.compactedAtLeast()
	if at < firstRevision {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := c.kv.Range(ctx, &pb.RangeRequest{Key: []byte(root), Revision: at - 1})
	if status.Code(err) != codes.OutOfRange || !strings.Contains(err.Error(), "compacted") {
		return fmt.Errorf("a get at revision %d, compacted at %d, is answered by %v, %w", at-1, at, r, err)
	}
	err = replay(ctx, s.conn, at-1, at, func(int64, []event) {})
	if want := (errCompacted{at}); !errors.Is(err, want) {
		return fmt.Errorf("a watch from revision %d ends with %w, want %w", at-1, err, want)
	}
	return nil
}

// verifyHashes compares HashKV with what it said before. Answers depend on what
// is compacted, so only those of the same compaction are compared.
func (s *session) verifyHashes(ctx context.Context, c *client, upTo int64) error {
	first, err := c.hash(ctx, upTo)
	if err != nil {
		return fmt.Errorf("HashKV up to %d: %w", upTo, err)
	}
	if at := s.ledger.compactedAtLeast(); first.compacted != at && (at > 0 || first.compacted > 0) {
		s.violation("HashKV says that revision %d is compacted, and %d is", first.compacted, at)
	}
	s.ledger.hashes = append(s.ledger.hashes, first)
	before := s.ledger.hashes[max(0, len(s.ledger.hashes)-lastHashes):]
	for _, was := range before {
		if was.rev < first.compacted || was.compacted != first.compacted {
			continue
		}
		is, err := c.hash(ctx, was.rev)
		switch {
		case err != nil:
			return fmt.Errorf("HashKV up to %d: %w", was.rev, err)
		case is != was:
			s.violation("HashKV was %+v, and is %+v", was, is)
		}
		s.figures.hashes++
	}
	return nil
}

// verifyLeases wants all leases that were not revoked to be there, and no
// others.
func (s *session) verifyLeases(ctx context.Context, c *client, upTo int64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := c.lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return err
	}
	there := map[int64]bool{}
	for _, l := range r.Leases {
		there[l.ID] = true
		if known := s.ledger.leases[l.ID]; known == nil || known.revoked {
			s.violation("lease %d is there, and should not: %+v", l.ID, known)
		}
	}
	var alive []*lease
	for _, id := range sortedKeys(s.ledger.leases) {
		l := s.ledger.leases[id]
		if !l.granted || l.revoking || l.short() {
			continue
		}
		if !there[id] {
			s.violation("lease %+v is gone", *l)
		}
		alive = append(alive, l)
	}
	s.random.Shuffle(len(alive), func(i, j int) { alive[i], alive[j] = alive[j], alive[i] })
	for _, l := range alive[:min(someLeases, len(alive))] {
		if err := s.verifyLease(ctx, c, l, upTo); err != nil {
			return err
		}
	}
	return nil
}

// verifyLease asks for a long lease, which has the keys that it had at upTo.
func (s *session) verifyLease(ctx context.Context, c *client, l *lease, upTo int64) error {
	r, err := c.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: l.id, Keys: true})
	if err != nil {
		return fmt.Errorf("lease %d: %w", l.id, err)
	}
	var want, got []string
	for _, i := range s.checker.model.attached(l.id, upTo) {
		want = append(want, i.key)
	}
	for _, key := range r.Keys {
		got = append(got, string(key))
	}
	slices.Sort(got)
	if !slices.Equal(want, got) {
		s.violation("lease %d has the keys %q, want %q", l.id, got, want)
	}
	if r.GrantedTTL != l.ttl || r.TTL <= 0 || r.TTL > l.ttl+spreadSeconds {
		s.violation("lease %d has %d of %d s left, it was granted for %d s", l.id, r.TTL, r.GrantedTTL, l.ttl)
	}
	s.figures.leases++
	return c.keepAlive(ctx, l)
}
