package mvcc

import "sync"

// A client that pages through n keys asks for each page at the same revision
// and wants with each the count of what is left. Counting anew for each would
// cost n²/page, so that what one page has counted is kept for the next: after
// a page that ended with key k, the count of [k+"\x00", end) at that revision
// is what the page counted less what it returned.

// countsSize bounds the pagers that can be under way at once before they push
// each other out, which costs them one walk.
const countsSize = 1024

type countKey struct {
	rev        int64
	start, end string
}

// Counts remembers counts of spans at fixed revisions, which never change. It
// forgets in the order of arrival. The zero Counts is empty; it may be used
// concurrently.
type Counts struct {
	mu     sync.Mutex // guards the fields below; nothing is taken after it
	counts map[countKey]int64
	order  []countKey
	next   int
}

func spanCountKey(span Span, rev int64) countKey {
	k := countKey{rev: rev, start: string(span.Key), end: string(span.End)}
	if span.End == nil {
		k.end = "\x00" // no real end: every End is greater than its Key
	}
	return k
}

// Known returns the number of keys of span at rev if it was noted.
func (c *Counts) Known(span Span, rev int64) (int64, bool) {
	k := spanCountKey(span, rev)
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.counts[k]
	return n, ok
}

// Note remembers the number of keys of span at rev.
// REQUIRES: no change at rev or before it is to come.
func (c *Counts) Note(span Span, rev, n int64) {
	k := spanCountKey(span, rev)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.counts[k]; ok {
		return
	}
	if c.counts == nil {
		c.counts = make(map[countKey]int64)
	}
	c.counts[k] = n
	if len(c.order) < countsSize {
		c.order = append(c.order, k)
		return
	}
	delete(c.counts, c.order[c.next])
	c.order[c.next] = k
	c.next = (c.next + 1) % countsSize
}

// KnownCount returns the number of keys of span at rev if a page before has
// counted it. Nothing is known of a compacted revision: who counts is refused.
func (s *Store) KnownCount(span Span, rev int64) (int64, bool) {
	if s.checkCompacted(rev) != nil {
		return 0, false
	}
	return s.counts.Known(span, rev)
}

// NoteCount remembers the number of keys of span at rev. rev must be a
// revision that readers may see.
func (s *Store) NoteCount(span Span, rev, n int64) { s.counts.Note(span, rev, n) }
