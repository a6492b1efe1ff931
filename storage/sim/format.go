package sim

import (
	"fmt"
	"hash/crc32"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// FormatOp writes a request as one line.
func FormatOp(op evaluate.Op) string {
	var b strings.Builder
	formatOp(&b, op)
	return b.String()
}

func formatOp(b *strings.Builder, op evaluate.Op) {
	switch op := op.(type) {
	case *evaluate.Range:
		fmt.Fprintf(b, "range %s", span(op.Key, op.End))
		number(b, " rev=", op.Revision)
		number(b, " limit=", op.Limit)
		if op.SortTarget != 0 || op.SortOrder != 0 {
			fmt.Fprintf(b, " sort=%s/%s",
				[]string{"key", "version", "create", "mod", "value"}[op.SortTarget],
				[]string{"none", "ascend", "descend"}[op.SortOrder])
		}
		flag(b, " keys-only", op.KeysOnly)
		flag(b, " count-only", op.CountOnly)
		number(b, " min-mod=", op.MinMod)
		number(b, " max-mod=", op.MaxMod)
		number(b, " min-create=", op.MinCreate)
		number(b, " max-create=", op.MaxCreate)
	case *evaluate.Put:
		fmt.Fprintf(b, "put %q=%s", op.Key, value(op.Value))
		number(b, " lease=", op.Lease)
		flag(b, " prev", op.PrevKV)
		flag(b, " ignore-value", op.IgnoreValue)
		flag(b, " ignore-lease", op.IgnoreLease)
	case *evaluate.DeleteRange:
		fmt.Fprintf(b, "delete %s", span(op.Key, op.End))
		flag(b, " prev", op.PrevKV)
	case *evaluate.Txn:
		b.WriteString("txn if[")
		for i, c := range op.Compare {
			formatCompare(b, i, c)
		}
		b.WriteString("] then")
		formatOps(b, op.Success)
		b.WriteString(" else")
		formatOps(b, op.Failure)
	case *evaluate.Compact:
		fmt.Fprintf(b, "compact %d", op.Revision)
	case *evaluate.LeaseGrant:
		fmt.Fprintf(b, "grant %d ttl=%d", op.ID, op.TTL)
	case *evaluate.LeaseRevoke:
		fmt.Fprintf(b, "revoke %d", op.ID)
	default:
		fmt.Fprintf(b, "%T%+v", op, op)
	}
}

func formatOps(b *strings.Builder, ops []evaluate.Op) {
	b.WriteString("[")
	for i, op := range ops {
		if i > 0 {
			b.WriteString("; ")
		}
		formatOp(b, op)
	}
	b.WriteString("]")
}

func formatCompare(b *strings.Builder, i int, c evaluate.Compare) {
	if i > 0 {
		b.WriteString(" && ")
	}
	fmt.Fprintf(b, "%s(%s) %s ",
		[]string{"version", "create", "mod", "value", "lease"}[c.Target],
		span(c.Key, c.End), []string{"==", ">", "<", "!="}[c.Result])
	if c.Target == evaluate.CompareValue {
		b.WriteString(value(c.Value))
	} else {
		fmt.Fprint(b, c.Number)
	}
}

// FormatResult writes all of the answer to op as one line: two answers are
// equal if their lines are. A nested txn's own revision is left out, because
// etcd does not answer it.
func FormatResult(op evaluate.Op, r evaluate.Result, err error) string {
	if err != nil {
		return FormatError(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "rev=%d ", r.Revision)
	formatResult(&b, op, r)
	return b.String()
}

func formatResult(b *strings.Builder, op evaluate.Op, r evaluate.Result) {
	b.WriteString("{")
	var branch []evaluate.Op
	if t, ok := op.(*evaluate.Txn); ok {
		if branch = t.Failure; r.Succeeded {
			branch = t.Success
		}
		fmt.Fprintf(b, "succeeded=%t", r.Succeeded)
	} else {
		fmt.Fprintf(b, "rev=%d", r.Revision)
	}
	for _, kv := range r.KVs {
		b.WriteString(" " + FormatKV(kv))
	}
	number(b, " count=", r.Count)
	flag(b, " more", r.More)
	for _, kv := range r.PrevKVs {
		b.WriteString(" prev:" + FormatKV(kv))
	}
	number(b, " deleted=", r.Deleted)
	number(b, " ttl=", r.TTL)
	if len(branch) != len(r.Responses) {
		fmt.Fprintf(b, " %d responses to %d ops", len(r.Responses), len(branch))
	} else {
		for i, r := range r.Responses {
			b.WriteString(" ")
			formatResult(b, branch[i], r)
		}
	}
	b.WriteString("}")
}

// FormatError writes a failure; how a semantic one is wrapped is left out.
func FormatError(err error) string {
	if e := Semantic(err); e != nil {
		err = e
	}
	return fmt.Sprintf("error: %v", err)
}

// FormatKV writes a key's state.
func FormatKV(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "none"
	}
	s := fmt.Sprintf("%q=%s c%d m%d v%d", kv.Key, value(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version)
	if kv.Lease != 0 {
		s += fmt.Sprintf(" lease%d", kv.Lease)
	}
	return s
}

// FormatEvent writes an event, with the state before it if prev is set.
func FormatEvent(e *mvccpb.Event, prev bool) string {
	s := e.Type.String() + " " + FormatKV(e.Kv)
	if prev {
		s += " prev:" + FormatKV(e.PrevKv)
	}
	return s
}

// FormatEvents writes each event on a line of its own.
func FormatEvents(events []*mvccpb.Event, prev bool) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString(FormatEvent(e, prev) + "\n")
	}
	return b.String()
}

// value quotes a value, or names a big one by its length and checksum.
func value(v []byte) string {
	if len(v) > 40 {
		return fmt.Sprintf("<%d bytes %08x>", len(v), crc32.ChecksumIEEE(v))
	}
	return fmt.Sprintf("%q", v)
}

func span(key, end []byte) string {
	if len(end) == 0 {
		return fmt.Sprintf("%q", key)
	}
	return fmt.Sprintf("[%q,%q)", key, end)
}

func number(b *strings.Builder, name string, n int64) {
	if n != 0 {
		fmt.Fprintf(b, "%s%d", name, n)
	}
}

func flag(b *strings.Builder, name string, set bool) {
	if set {
		b.WriteString(name)
	}
}
