package migrate

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/gateway/migrationpb"
)

const (
	// batchBytes is how much is mirrored at once, messageBytes how much of it goes in a
	// message: less than what a server takes by default. A revision may be more.
	batchBytes   = 4 << 20
	messageBytes = 1 << 20
	// changeBytes is about what a change takes beside its key and value.
	changeBytes = 64
	// maxUnanswered bounds the batches that are under way.
	maxUnanswered = 2
	// lostTTL is that of a lease which a key of before names and which is gone at the
	// source: it goes when its last key does.
	lostTTL = 3600
)

// batch gathers revisions for the destination, and sends them.
type batch struct {
	m      *mirror
	stream grpc.BidiStreamingClient[migrationpb.MirrorRequest, migrationpb.MirrorResponse]
	// next is what is sent next, size about how much it is.
	next *migrationpb.MirrorRequest
	size int
	// after is the last revision that was added, sent the last that was sent, and
	// answered what the destination has.
	after, answered int64
	unanswered      int
	// oldest is when the first change of next came, and of those under way.
	oldest   time.Time
	underway []time.Time
	// known has the leases that the destination was told of.
	known map[int64]bool
	// ttls has leases of which the source need not be asked.
	ttls map[int64]int64
}

func (m *mirror) newBatch(ctx context.Context, head int64) (*batch, error) {
	stream, err := m.dst.migration.Mirror(ctx)
	if err != nil {
		return nil, err
	}
	b := &batch{m: m, stream: stream, after: head, answered: head, known: map[int64]bool{}, ttls: map[int64]int64{}}
	b.begin()
	return b, nil
}

func (b *batch) begin() {
	b.next, b.size, b.oldest = &migrationpb.MirrorRequest{ClusterId: b.m.source.ClusterId, After: b.after}, 0, time.Time{}
}

// add adds a change, at sub of its revision; it may send what was added before.
func (b *batch) add(ctx context.Context, revision, sub int64, kv *mvccpb.KeyValue, deleted bool, came time.Time) error {
	if revision <= b.answered {
		return nil // it was there when this began
	}
	if revision < b.after {
		return fmt.Errorf("the source has sent revision %d after %d", revision, b.after)
	}
	if revision > b.after {
		if err := b.jump(ctx, revision); err != nil {
			return err
		}
	}
	c := &migrationpb.Change{Sub: sub, Key: kv.Key, Deleted: deleted}
	if !deleted {
		c.Value, c.CreateRevision, c.Version, c.Lease = kv.Value, kv.CreateRevision, kv.Version, kv.Lease
		if err := b.needLease(ctx, kv.Lease); err != nil {
			return err
		}
	}
	if b.oldest.IsZero() {
		b.oldest = came
	}
	last := b.next.Revisions[len(b.next.Revisions)-1]
	last.Changes = append(last.Changes, c)
	b.size += changeBytes + len(kv.Key) + len(kv.Value)
	return nil
}

// jump begins a revision.
func (b *batch) jump(ctx context.Context, revision int64) error {
	if b.size >= batchBytes {
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	b.after = revision
	b.next.Revisions = append(b.next.Revisions, &migrationpb.Revision{Revision: revision})
	b.size += changeBytes
	return nil
}

// needLease grants a lease that a key names, if the destination was not told of it.
func (b *batch) needLease(ctx context.Context, id int64) error {
	if id == 0 || b.known[id] {
		return nil
	}
	ttl, ok := b.ttls[id]
	if !ok {
		var err error
		if ttl, err = b.m.src.ttl(ctx, id); err != nil {
			return err
		}
		if ttl <= 0 {
			ttl = lostTTL
		}
	}
	b.grant(id, ttl)
	return nil
}

func (b *batch) grant(id, ttl int64) {
	b.known[id] = true
	b.next.Grants = append(b.next.Grants, &migrationpb.Lease{Id: id, Ttl: ttl})
}

// revoke ends a lease that is gone at the source. A key that names it may still come.
func (b *batch) revoke(id int64) {
	delete(b.known, id)
	delete(b.ttls, id)
	b.next.Revokes = append(b.next.Revokes, id)
}

func (b *batch) isEmpty() bool {
	n := b.next
	return len(n.Grants)+len(n.Revisions)+len(n.Revokes) == 0 && n.CompactRevision == 0
}

// flush sends what was added.
func (b *batch) flush(context.Context) error {
	if b.isEmpty() {
		return nil
	}
	for _, r := range split(b.next) {
		if err := b.stream.Send(r); err != nil {
			return b.receive(err)
		}
	}
	b.unanswered++
	b.underway = append(b.underway, b.oldest)
	b.begin()
	if b.unanswered < maxUnanswered {
		return nil
	}
	return b.receive(nil)
}

// drain sends what was added, and returns when the destination has it.
func (b *batch) drain(ctx context.Context) error {
	if err := b.flush(ctx); err != nil {
		return err
	}
	for b.unanswered > 0 {
		if err := b.receive(nil); err != nil {
			return err
		}
	}
	return nil
}

// receive takes one answer. A stream that can't be sent on says why when it is read.
func (b *batch) receive(failed error) error {
	for {
		r, err := b.stream.Recv()
		if err != nil {
			return err
		}
		b.unanswered--
		b.answered = max(b.answered, r.Revision)
		if came := b.underway[0]; !came.IsZero() {
			b.m.lag = b.m.cfg.Clock.Since(came)
		}
		b.underway = b.underway[1:]
		if failed == nil {
			return nil
		}
	}
}

// split cuts a request into messages that a server takes.
func split(r *migrationpb.MirrorRequest) []*migrationpb.MirrorRequest {
	revisions := r.Revisions
	r.Revisions = nil
	all := []*migrationpb.MirrorRequest{r}
	last, size := r, changeBytes*(len(r.Grants)+len(r.Revokes))
	for _, rev := range revisions {
		to := &migrationpb.Revision{Revision: rev.Revision}
		last.Revisions = append(last.Revisions, to)
		size += changeBytes
		for _, c := range rev.Changes {
			n := changeBytes + len(c.Key) + len(c.Value)
			if size > 0 && size+n > messageBytes {
				last.More = true
				to = &migrationpb.Revision{Revision: rev.Revision}
				last, size = &migrationpb.MirrorRequest{Revisions: []*migrationpb.Revision{to}}, 0
				all = append(all, last)
			}
			to.Changes = append(to.Changes, c)
			size += n
		}
	}
	return all
}
