package faults

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unique"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// item is a key and its state at some revision.
type item struct {
	key, value                  string
	create, mod, version, lease int64
}

// stored is an item that all who have seen it share: a history holds each many
// times. Two are equal if the items are.
type stored = unique.Handle[item]

func storedOf(kv *mvccpb.KeyValue) stored {
	return unique.Make(item{
		key: string(kv.Key), value: string(kv.Value),
		create: kv.CreateRevision, mod: kv.ModRevision, version: kv.Version, lease: kv.Lease,
	})
}

func storedAll(kvs []*mvccpb.KeyValue) []stored {
	all := make([]stored, 0, len(kvs))
	for _, kv := range kvs {
		all = append(all, storedOf(kv))
	}
	return all
}

func (i item) String() string {
	s := fmt.Sprintf("%s=%s@%d/%d/%d", i.key, brief(i.value), i.create, i.mod, i.version)
	if i.lease != 0 {
		s += fmt.Sprintf("/lease%x", i.lease)
	}
	return s
}

// event is a change of a key. Of one that was removed, only key and mod say
// anything.
type event struct {
	item
	removed bool
}

// told is an event that all who were told of it share.
type told = unique.Handle[event]

func toldOf(e *mvccpb.Event) told {
	return unique.Make(event{item: storedOf(e.Kv).Value(), removed: e.Type == mvccpb.Event_DELETE})
}

func (e event) String() string {
	if e.removed {
		return fmt.Sprintf("removed %s@%d", e.key, e.mod)
	}
	return "put " + e.item.String()
}

// everything, as a key and as the end of a range, stands for all keys.
const everything = "\x00"

// covers says that a key lies in the range that a request gives by key and end.
func covers(key, end, k string) bool {
	switch end {
	case "":
		return k == key
	case everything:
		return k >= key
	default:
		return key <= k && k < end
	}
}

// after is the end of the range of all keys with a prefix.
func after(prefix string) string {
	return prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1)
}

// verb is what a step does.
type verb int

const (
	put verb = iota
	remove
	get
)

// step is a part of a request.
type step struct {
	verb     verb
	key, end string // a put has no end
	value    string // of a put
	lease    int64  // of a put
	prev     bool   // a put or a removal that asks what was there
	rev      int64  // of a get alone, 0 for the newest
	limit    int64  // of a get, 0 for none
}

func (s step) String() string {
	what := s.key
	if s.end != "" {
		what = fmt.Sprintf("[%q, %q)", s.key, s.end)
	}
	switch s.verb {
	case put:
		what += "=" + brief(s.value)
		if s.lease != 0 {
			what += fmt.Sprintf("/lease%x", s.lease)
		}
		return "put " + what
	case remove:
		return "remove " + what
	default:
		if s.rev != 0 {
			what += fmt.Sprintf(" at %d", s.rev)
		}
		if s.limit != 0 {
			what += fmt.Sprintf(" limit %d", s.limit)
		}
		return "get " + what
	}
}

// guard has a request done only if a key's last change is mod; 0 if there is
// no such key.
type guard struct {
	key string
	mod int64
}

// request is what a client asks for. What is no transaction is treated as one
// of a single step, which is what it means.
type request struct {
	txn       bool // sent as a transaction
	guards    []guard
	then      []step
	otherwise []step

	serializable bool // a get that may be old

	grant  bool  // of a lease, and nothing else
	revoke int64 // the lease that this revokes, and nothing else
}

// puts says that the request may write a value, which tells of it.
func (q *request) puts() bool {
	return slices.ContainsFunc(append(q.then[:len(q.then):len(q.then)], q.otherwise...), func(s step) bool { return s.verb == put })
}

func (q *request) String() string {
	switch {
	case q.grant:
		return "grant"
	case q.revoke != 0:
		return fmt.Sprintf("revoke %x", q.revoke)
	case !q.txn:
		if q.serializable {
			return "serializable " + q.then[0].String()
		}
		return q.then[0].String()
	}
	var b strings.Builder
	b.WriteString("txn if{")
	for i, g := range q.guards {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s@%d", g.key, g.mod)
	}
	fmt.Fprintf(&b, "} then%v else%v", q.then, q.otherwise)
	return b.String()
}

// part is what an answer says of a step. A put's items are what was there
// before; a removal's as well.
type part struct {
	items []stored
	count int64 // of a get, or of what was removed
	more  bool
}

func (p part) equal(o part) bool {
	return p.count == o.count && p.more == o.more && slices.Equal(p.items, o.items)
}

func (p part) String() string {
	items := make([]item, 0, len(p.items))
	for _, i := range p.items {
		items = append(items, i.Value())
	}
	s := fmt.Sprintf("%d", p.count)
	if p.more {
		s += " more"
	}
	return fmt.Sprintf("%s %v", s, items)
}

// answer is what the server said.
type answer struct {
	rev   int64 // the header's
	held  bool  // the guards held; true if there are none
	parts []part
	lease int64 // granted
}

// outcome is what a client knows about its request.
type outcome int

const (
	// unknown is that of a request that failed in a way that leaves it open
	// whether it is done, or will yet be.
	unknown outcome = iota
	// answered is that of a request that was done, as its answer says.
	answered
	// refused is that of a request that surely was not done, nor will be.
	refused
)

// op is a request and what became of it. Its id is in every value that it puts.
type op struct {
	request
	answer
	id      int64
	client  string
	outcome outcome
	failure string // of what was not answered

	// call and ret are when it was sent and when the client knew its outcome,
	// since the beginning of the session. They are of a monotonic clock.
	call, ret time.Duration

	// place is the revision that it made, if the history tells; else 0.
	place int64
}

func (o *op) String() string {
	s := fmt.Sprintf("#%d of %s {%v} at %v..%v", o.id, o.client, &o.request, o.call, o.ret)
	switch o.outcome {
	case answered:
		return fmt.Sprintf("%s, answered at revision %d", s, o.rev)
	case refused:
		return fmt.Sprintf("%s, refused: %s", s, o.failure)
	default:
		return fmt.Sprintf("%s, unknown: %s", s, o.failure)
	}
}

// changes says that an answered request has made a revision of its own, which
// is then its header's. Of a revocation the answer does not tell.
func (o *op) changes() bool {
	if o.outcome != answered || o.grant || o.revoke != 0 {
		return false
	}
	for i, s := range o.branch(o.held) {
		if s.verb == put || s.verb == remove && o.parts[i].count > 0 {
			return true
		}
	}
	return false
}

// branch is the side of a transaction that is done.
func (q *request) branch(held bool) []step {
	if held {
		return q.then
	}
	return q.otherwise
}

// valueOf is an op's value; idIn takes the op's id from it.
func valueOf(id int64, filler string) string { return fmt.Sprintf("%d|%s", id, filler) }

func idIn(value string) int64 {
	var id int64
	if _, err := fmt.Sscanf(value, "%d|", &id); err != nil {
		return 0
	}
	return id
}

const maxShown = 12

// brief is the beginning of a value: the op's id, mostly.
func brief(value string) string {
	if id, _, ok := strings.Cut(value, "|"); ok {
		return id
	}
	if len(value) > maxShown {
		return value[:maxShown] + "..."
	}
	return value
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
