package mvcc

import "sync"

// A client that pages through n keys asks for each page at the same revision
// and wants with each the count of what is left. Counting anew for each would
// cost n²/page, so that what one page has counted is kept for the next: after
// a page that ended with key k, the count of [k+"\x00", end) at that revision
// is what the page counted less what it returned.

// countCacheSize bounds the pagers that can be under way at once before they
// push each other out, which costs them one walk.
const countCacheSize = 1024

type countKey struct {
	rev        int64
	start, end string
}

// countCache remembers counts of ranges at fixed revisions, which never change.
// It forgets in the order of arrival.
type countCache struct {
	mu     sync.Mutex // guards the fields below; nothing is taken after it
	counts map[countKey]int64
	order  []countKey
	next   int
}

func (c *countCache) init() {
	c.counts = make(map[countKey]int64)
	c.order = make([]countKey, 0, countCacheSize)
}

func spanCountKey(span Span, rev int64) countKey {
	k := countKey{rev: rev, start: string(span.Key), end: string(span.End)}
	if span.End == nil {
		k.end = "\x00" // no real end: every End is greater than its Key
	}
	return k
}

func (c *countCache) get(k countKey) (int64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.counts[k]
	return n, ok
}

func (c *countCache) put(k countKey, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.counts[k]; ok {
		return
	}
	c.counts[k] = n
	if len(c.order) < countCacheSize {
		c.order = append(c.order, k)
		return
	}
	delete(c.counts, c.order[c.next])
	c.order[c.next] = k
	c.next = (c.next + 1) % countCacheSize
}

// KnownCount returns the number of keys of span at rev if a page before has
// counted it. Nothing is known of a compacted revision: who counts is refused.
func (s *Store) KnownCount(span Span, rev int64) (int64, bool) {
	if s.checkCompacted(rev) != nil {
		return 0, false
	}
	return s.counts.get(spanCountKey(span, rev))
}

// NoteCount remembers the number of keys of span at rev. rev must be a
// revision that readers may see.
func (s *Store) NoteCount(span Span, rev, n int64) {
	s.counts.put(spanCountKey(span, rev), n)
}
