package evaluate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// A source is a state that a Range reads.
type source interface {
	get(key []byte) (*mvccpb.KeyValue, error)
	scan(ctx context.Context, span mvcc.Span) (mvcc.Cursor, error)
	knownCount(span mvcc.Span) (int64, bool)
	noteCount(span mvcc.Span, n int64)
}

// snapshot reads a state at one revision.
type snapshot struct {
	state Reader
	rev   int64
}

func (s snapshot) get(key []byte) (*mvccpb.KeyValue, error) { return s.state.Get(key, s.rev) }

func (s snapshot) scan(ctx context.Context, span mvcc.Span) (mvcc.Cursor, error) {
	return s.state.Scan(ctx, span, s.rev)
}

func (s snapshot) knownCount(span mvcc.Span) (int64, bool) { return s.state.KnownCount(span, s.rev) }
func (s snapshot) noteCount(span mvcc.Span, n int64)       { s.state.NoteCount(span, s.rev, n) }

// at returns the snapshot that a Range at revision rev reads; head is what the
// revision "now" stands for. The order of the checks is etcd's.
func at(state Reader, rev, head int64) (snapshot, error) {
	switch {
	case rev > head:
		return snapshot{}, mvcc.ErrFutureRevision
	case rev <= 0:
		rev = head
	}
	return snapshot{state, rev}, nil
}

// Read answers a Range from the state at revision head or at the one that r
// names; head must be a revision that readers may see, and nothing up to it may
// be missing in the groups that r touches. The result shows head.
func Read(ctx context.Context, state Reader, head int64, r *Range) (Result, error) {
	src, err := at(state, r.Revision, head)
	if err != nil {
		return Result{Revision: head}, err
	}
	res, err := runRange(ctx, src, r)
	res.Revision = head
	return res, err
}

// Stream is Read in chunks of about maxBytes, in ascending order of keys: emit
// is called with each, and what it returns ends the stream. The result has the
// count and no keys. A range with a sort or revision filters can't be streamed
// and must be refused before.
func Stream(
	ctx context.Context, state Reader, head int64, r *Range, maxBytes int,
	emit func([]*mvccpb.KeyValue) error,
) (Result, error) {
	res := Result{Revision: head}
	src, err := at(state, r.Revision, head)
	if err != nil {
		return res, err
	}
	span := mvcc.SpanOf(r.Key, r.End)
	if r.CountOnly {
		res.Count, err = countAll(ctx, src, span)
		return res, err
	}
	cur, err := src.scan(ctx, span)
	if err != nil {
		return res, err
	}
	defer func() { _ = cur.Close() }()

	var chunk []*mvccpb.KeyValue
	var n int64
	size := 0
	var last []byte
	for (r.Limit <= 0 || n < r.Limit) && cur.Next() {
		Yield(int(n))
		kv, err := cur.KV(r.KeysOnly)
		if err != nil {
			return res, err
		}
		if kvSize := proto.Size(kv) + 4; size+kvSize > maxBytes && len(chunk) > 0 {
			if err := emit(chunk); err != nil {
				return res, err
			}
			chunk, size = nil, 0
		}
		chunk = append(chunk, kv)
		size += proto.Size(kv) + 4
		n, last = n+1, kv.Key
	}
	if err := cur.Err(); err != nil {
		return res, err
	}
	if len(chunk) > 0 {
		if err := emit(chunk); err != nil {
			return res, err
		}
	}
	res.Count, err = countFrom(src, cur, span, n, last)
	res.More = res.Count > n
	return res, err
}

// yieldEvery is how many keys a list reads before others have their turn. The
// scheduler would take a processor away only after some milliseconds, in which a
// write of ten microseconds waits at each of the goroutines that it passes.
const yieldEvery = 64

// Yield lets others run, now and then, after n keys of a list.
func Yield(n int) {
	if n%yieldEvery == yieldEvery-1 {
		runtime.Gosched()
	}
}

// runRange answers r from src, whatever revision it names.
func runRange(ctx context.Context, src source, r *Range) (Result, error) {
	if len(r.End) == 0 {
		return runGet(src, r)
	}
	span := mvcc.SpanOf(r.Key, r.End)
	if r.CountOnly {
		n, err := countAll(ctx, src, span)
		return Result{Count: n}, err
	}
	cur, err := src.scan(ctx, span)
	if err != nil {
		return Result{}, err
	}
	res, err := collect(src, cur, span, r)
	if cerr := cur.Close(); err == nil {
		err = cerr
	}
	return res, err
}

func runGet(src source, r *Range) (Result, error) {
	kv, err := src.get(r.Key)
	if err != nil || kv == nil {
		return Result{}, err
	}
	res := Result{Count: 1}
	if r.CountOnly || !passes(r, kv) {
		return res, nil
	}
	if r.KeysOnly {
		kv = mvcc.WithoutValue(kv)
	}
	res.KVs = []*mvccpb.KeyValue{kv}
	return res, nil
}

// collect gathers the keys of a range. A sort or a filter needs all of them
// before the limit can be applied, as in etcd.
func collect(src source, cur mvcc.Cursor, span mvcc.Span, r *Range) (Result, error) {
	// etcd sorts by another target than the key even when no order is given.
	sorted := r.SortTarget != SortByKey || r.SortOrder == SortDescend
	filtered := r.MinMod != 0 || r.MaxMod != 0 || r.MinCreate != 0 || r.MaxCreate != 0
	limit := r.Limit
	if sorted || filtered {
		limit = 0
	}
	keysOnly := r.KeysOnly && r.SortTarget != SortByValue

	var res Result
	for (limit <= 0 || int64(len(res.KVs)) < limit) && cur.Next() {
		Yield(len(res.KVs))
		kv, err := cur.KV(keysOnly)
		if err != nil {
			return Result{}, err
		}
		res.KVs = append(res.KVs, kv)
	}
	if err := cur.Err(); err != nil {
		return Result{}, err
	}
	n := int64(len(res.KVs))
	var last []byte
	if n > 0 {
		last = res.KVs[n-1].Key
	}
	var err error
	if res.Count, err = countFrom(src, cur, span, n, last); err != nil {
		return Result{}, err
	}
	res.More = res.Count > n
	if filtered {
		res.KVs = slices.DeleteFunc(res.KVs, func(kv *mvccpb.KeyValue) bool { return !passes(r, kv) })
	}
	if sorted {
		sortKVs(res.KVs, r)
	}
	if (sorted || filtered) && r.Limit > 0 && int64(len(res.KVs)) > r.Limit {
		res.KVs, res.More = res.KVs[:r.Limit], true
	}
	if r.KeysOnly && !keysOnly {
		for i, kv := range res.KVs {
			res.KVs[i] = mvcc.WithoutValue(kv)
		}
	}
	return res, nil
}

// countFrom returns the number of keys in span of which cur has given n, the
// last being last, and keeps what a next page will ask for. It ends the walk.
func countFrom(src source, cur mvcc.Cursor, span mvcc.Span, n int64, last []byte) (int64, error) {
	total, known := src.knownCount(span)
	if !known {
		rest, err := cur.CountRest()
		if err != nil {
			return 0, err
		}
		total = n + rest
	}
	if n > 0 && total > n {
		src.noteCount(mvcc.Span{Key: append(bytes.Clone(last), 0), End: span.End}, total-n)
	}
	return total, nil
}

func countAll(ctx context.Context, src source, span mvcc.Span) (int64, error) {
	if n, ok := src.knownCount(span); ok {
		return n, nil
	}
	cur, err := src.scan(ctx, span)
	if err != nil {
		return 0, err
	}
	n, err := cur.CountRest()
	if cerr := cur.Close(); err == nil {
		err = cerr
	}
	return n, err
}

func passes(r *Range, kv *mvccpb.KeyValue) bool {
	return (r.MinMod == 0 || kv.ModRevision >= r.MinMod) &&
		(r.MaxMod == 0 || kv.ModRevision <= r.MaxMod) &&
		(r.MinCreate == 0 || kv.CreateRevision >= r.MinCreate) &&
		(r.MaxCreate == 0 || kv.CreateRevision <= r.MaxCreate)
}

func sortKVs(kvs []*mvccpb.KeyValue, r *Range) {
	var by func(a, b *mvccpb.KeyValue) int
	switch r.SortTarget {
	case SortByKey:
		by = func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) }
	case SortByVersion:
		by = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) }
	case SortByCreate:
		by = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) }
	case SortByMod:
		by = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) }
	case SortByValue:
		by = func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }
	}
	if r.SortOrder == SortDescend {
		up := by
		by = func(a, b *mvccpb.KeyValue) int { return up(b, a) }
	}
	slices.SortStableFunc(kvs, by)
}

// ErrInternal says that evaluating a request failed by a fault of ours. Nothing
// was changed.
var ErrInternal = errors.New("evaluate: internal error, the request had no effect")

// ErrKeyNotFound says that a put with ignore_value or ignore_lease found no key.
var ErrKeyNotFound = errors.New("evaluate: key not found")
