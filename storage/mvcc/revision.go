package mvcc

import "errors"

// Revision is the place of a change: Main counts transactions, Sub the changes
// within one.
type Revision struct{ Main, Sub int64 }

// FirstRevision is the revision of an empty store; its first write is the next.
const FirstRevision = 1

var (
	// ErrCompacted says that the revision asked for is below the last compaction.
	ErrCompacted = errors.New("mvcc: required revision has been compacted")
	// ErrFutureRevision says that the revision asked for is not written yet.
	ErrFutureRevision = errors.New("mvcc: required revision is a future revision")
)

// Span is the interval [Key, End) of user keys; a nil End is no bound.
type Span struct{ Key, End []byte }

// SpanOf makes a Span of etcd's key and range_end: an empty end means the one
// key, "\x00" every key from key on.
func SpanOf(key, end []byte) Span {
	switch {
	case len(end) == 0:
		next := make([]byte, len(key)+1)
		copy(next, key)
		return Span{key, next}
	case len(end) == 1 && end[0] == 0:
		return Span{key, nil}
	default:
		return Span{key, end}
	}
}

// Contains says whether key lies in the span.
func (s Span) Contains(key []byte) bool {
	return string(key) >= string(s.Key) && (s.End == nil || string(key) < string(s.End))
}

// single says whether the span is of one key.
func (s Span) single() bool {
	n := len(s.Key)
	return len(s.End) == n+1 && s.End[n] == 0 && string(s.End[:n]) == string(s.Key)
}

// Empty says whether no key can lie in the span.
func (s Span) Empty() bool { return s.End != nil && string(s.Key) >= string(s.End) }
