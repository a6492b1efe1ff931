package crash_test

import (
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// item is a key and its state at some revision.
type item struct {
	key, value                  string
	create, mod, version, lease int64
}

// event is a change of a key. Of one that was removed, only key and mod say
// anything.
type event struct {
	item
	removed bool
}

func itemOf(kv *mvccpb.KeyValue) item {
	return item{
		key: string(kv.Key), value: string(kv.Value),
		create: kv.CreateRevision, mod: kv.ModRevision, version: kv.Version, lease: kv.Lease,
	}
}

func itemsOf(kvs []*mvccpb.KeyValue) []item {
	items := make([]item, 0, len(kvs))
	for _, kv := range kvs {
		items = append(items, itemOf(kv))
	}
	return items
}

func eventOf(e *mvccpb.Event) event {
	return event{item: itemOf(e.Kv), removed: e.Type == mvccpb.Event_DELETE}
}

func (i item) String() string {
	s := fmt.Sprintf("%s=%s@%d/%d/%d", i.key, brief(i.value), i.create, i.mod, i.version)
	if i.lease != 0 {
		s += fmt.Sprintf("/lease%d", i.lease)
	}
	return s
}

func (e event) String() string {
	if e.removed {
		return fmt.Sprintf("del %s@%d", e.key, e.mod)
	}
	return "put " + e.item.String()
}

const maxBriefBytes = 24

// brief shortens a value for a message. The request's id stands in front.
func brief(value string) string {
	if len(value) <= maxBriefBytes {
		return value
	}
	return fmt.Sprintf("%s...(%d bytes)", value[:maxBriefBytes], len(value))
}

// step is a part of a write: a put, or the removal of a key or of a range.
type step struct {
	remove   bool
	key, end string // end is empty for one key
	value    string
	lease    int64
}

// guard is the comparison of Kubernetes' transactions: key was last changed at
// mod, 0 if it must not exist.
type guard struct {
	key string
	mod int64
}

// op is a write, and what became of it.
type op struct {
	id    string // in front of every value that it writes
	life  int    // the run of the server that it was sent to
	guard *guard
	steps []step
	// revoke is a lease that the op ends, instead of guard and steps.
	revoke int64

	// told is the highest revision that anybody had been told before it was
	// sent, toldBy by which answer.
	told   int64
	toldBy string

	outcome outcome
	rev     int64    // of the answer's header
	was     [][]item // what each step replaced or removed, as the answer says
	found   []item   // what was there when the guard did not hold
}

type outcome int

const (
	unanswered outcome = iota
	applied
	refused // because of the guard
)

// changed says that by its answer the op made a revision. That is not known of
// a revocation.
func (o *op) changed() bool {
	if o.outcome != applied {
		return false
	}
	for i, s := range o.steps {
		if !s.remove || len(o.was[i]) > 0 {
			return true
		}
	}
	return false
}

func (o *op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s{", o.id)
	if o.guard != nil {
		fmt.Fprintf(&b, "if mod(%s)=%d: ", o.guard.key, o.guard.mod)
	}
	for i, s := range o.steps {
		if i > 0 {
			b.WriteString(", ")
		}
		switch {
		case s.remove && s.end != "":
			fmt.Fprintf(&b, "del [%s, %s)", s.key, s.end)
		case s.remove:
			fmt.Fprintf(&b, "del %s", s.key)
		default:
			fmt.Fprintf(&b, "put %s", s.key)
		}
		if s.lease != 0 {
			fmt.Fprintf(&b, " lease %d", s.lease)
		}
	}
	if o.revoke != 0 {
		fmt.Fprintf(&b, "revoke %d", o.revoke)
	}
	b.WriteString("}")
	switch o.outcome {
	case unanswered:
		b.WriteString(" (not answered)")
	case applied:
		fmt.Fprintf(&b, " (acknowledged at %d)", o.rev)
	case refused:
		fmt.Fprintf(&b, " (refused at %d)", o.rev)
	}
	return b.String()
}

// idEnds ends the id in a value.
const idEnds = "|"

// idIn is the id of the op that wrote a value.
func idIn(value string) string {
	id, _, _ := strings.Cut(value, idEnds)
	return id
}

// look is what somebody was shown of a range, at a revision.
type look struct {
	what     string // asked how
	key, end string
	rev      int64
	shown    []item
}

// everything is the range of all keys, as key and end.
const everything = "\x00"

// covers says that a request's key and end (empty for one key) mean k too.
func covers(key, end, k string) bool {
	switch end {
	case "":
		return k == key
	case everything:
		return k >= key
	default:
		return k >= key && k < end
	}
}

// after is the end of the range of all keys that begin with prefix. The
// prefixes here end in a slash.
func after(prefix string) string {
	return prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1)
}
