package evaluate_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// TestDataDriven runs the stories in testdata/evaluator. Each begins with an empty
// store, whose leases have a least TTL of 2 s.
func TestDataDriven(t *testing.T) {
	datadriven.Walk(t, "testdata/evaluator", func(t *testing.T, path string) {
		s := newScript(t)
		datadriven.RunTest(t, path, s.run)
	})
}

// script is an Evaluator, a store, and what lies between them.
type script struct {
	tb    testing.TB
	db    *engine.DB
	store *mvcc.Store
	eval  *evaluate.Evaluator
	// flight are the entries that are sealed and not applied.
	flight [][]byte
	// revision is the last that was handed out.
	revision int64
	// leases are those that are applied.
	leases map[int64]bool
	// index is that of the last applied entry.
	index    uint64
	panicked []string
}

func newScript(tb testing.TB) *script {
	tb.Helper()
	s := &script{tb: tb, leases: map[int64]bool{}, revision: mvcc.FirstRevision}
	var err error
	s.db, err = engine.Open(engine.Config{
		Dir: "state", FS: engine.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 256 << 10,
		Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { panic(err) },
	})
	require.NoError(tb, err)
	s.store, err = mvcc.Open(s.db, mvcc.CoreGroup)
	require.NoError(tb, err)
	s.eval = evaluate.New(evaluate.Config{
		Store: s.store, Group: mvcc.CoreGroup, Leases: s, MinTTL: 2,
		Next:     func() int64 { s.revision++; return s.revision },
		GiveBack: func(r int64) { require.Equal(tb, s.revision, r); s.revision-- },
		Panicked: func(_ evaluate.Op, cause any, _ []byte) { s.panicked = append(s.panicked, fmt.Sprint(cause)) },
	})
	return s
}

// Exists implements evaluate.Leases.
func (s *script) Exists(id int64) bool { return s.leases[id] }

// Joined implements evaluate.Leases.
func (s *script) Joined(int64, mvcc.GroupID) bool { return false }

// Groups implements evaluate.Leases.
func (s *script) Groups(int64) []mvcc.GroupID { return nil }

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	switch d.Cmd {
	// entry evaluates the lines below into one entry, and puts it in flight if it
	// holds anything. A line is a request:
	//
	//	put KEY VALUE [lease=ID] [prev] [ignore-value] [ignore-lease]
	//	del KEY [END] [prev]
	//	range KEY [END] [@REVISION] [limit=N] [keys-only] [count-only]
	//	      [sort=key|version|create|mod|value/none|ascend|descend]
	//	      [min-mod=N] [max-mod=N] [min-create=N] [max-create=N]
	//	txn { COMPARE; ... } { REQUEST; ... } { REQUEST; ... }
	//	      a COMPARE is: value|version|create|mod|lease KEY [END] =|!=|<|> X
	//	compact REVISION, grant ID TTL, revoke ID, checkpoint ID SECONDS
	//	panic [KEY]         a txn that puts KEY, else "panic", and then panics
	//
	// A word that begins with a quote is a Go string.
	case "entry":
		return s.entry(t, d.Input)

	// apply [entries=N] applies the oldest entries in flight, by default all.
	case "apply":
		n := len(s.flight)
		d.MaybeScanArgs(t, "entries", &n)
		s.apply(n)
		return s.state()

	// refuse takes the newest entry in flight back, as raft does. reset begins
	// again from what is applied, and from its revision.
	case "refuse":
		s.flight = s.flight[:len(s.flight)-1]
		s.eval.Refused()
		return s.state()
	case "reset":
		s.eval.Reset()
		s.revision = s.store.Revision()
		return s.state()

	// read answers ranges, and txns of ranges, from what is applied; stream
	// answers a range in chunks of so many bytes.
	case "read":
		return s.read(t, d.Input)
	case "stream":
		size := 0
		d.ScanArgs(t, "bytes", &size)
		return s.stream(t, d.Input, size)

	default:
		t.Fatalf("unknown command %q", d.Cmd)
		return ""
	}
}

func (s *script) state() string {
	return fmt.Sprintf("applied to %d, in flight to %d in %d entries", s.store.Revision(), s.eval.Head(), s.eval.InFlight())
}

func (s *script) entry(t *testing.T, input string) string {
	t.Helper()
	var out []string
	s.eval.Begin([]byte("prefix"))
	for line := range strings.Lines(input) {
		op := parseLine(t, line)
		res, err := s.eval.Do(context.Background(), op)
		out = append(out, sim.FormatResult(op, res, err))
	}
	encoded, ok := s.eval.Seal(len("prefix"))
	if !ok {
		return strings.Join(append(out, "no entry"), "\n")
	}
	require.Equal(t, "prefix", string(encoded[:6]))
	s.flight = append(s.flight, encoded[6:])
	require.Equal(t, len(s.flight), s.eval.InFlight())
	return strings.Join(out, "\n")
}

// apply applies the oldest n entries in flight, and tells the evaluator after
// each of them.
func (s *script) apply(n int) {
	for range n {
		s.index++
		b := s.store.NewBatch()
		require.NoError(s.tb, b.Add(s.index, 1, s.flight[0]))
		out, err := b.Commit()
		require.NoError(s.tb, err)
		s.flight = s.flight[1:]
		for _, l := range out.Leases {
			switch l.Kind {
			case mvcc.LeaseGranted:
				s.leases[l.ID] = true
			case mvcc.LeaseRevoked:
				delete(s.leases, l.ID)
			case mvcc.LeaseCheckpointed, mvcc.LeaseJoined, mvcc.LeaseLeft:
			}
		}
		s.eval.Applied()
	}
}

func (s *script) read(t *testing.T, input string) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(input) {
		op := parseLine(t, line)
		var res evaluate.Result
		var err error
		if r, ok := op.(*evaluate.Range); ok {
			res, err = evaluate.Read(context.Background(), s.store, s.store.Revision(), r)
		} else {
			res, err = evaluate.ReadTxn(context.Background(), s.store, s.store.Revision(), op.(*evaluate.Txn))
		}
		out = append(out, sim.FormatResult(op, res, err))
	}
	return strings.Join(out, "\n")
}

func (s *script) stream(t *testing.T, input string, size int) string {
	t.Helper()
	r := parseLine(t, input).(*evaluate.Range)
	var out []string
	res, err := evaluate.Stream(context.Background(), s.store, s.store.Revision(), r, size, func(kvs []*mvccpb.KeyValue) error {
		chunk := "chunk:"
		for _, kv := range kvs {
			chunk += " " + sim.FormatKV(kv)
		}
		out = append(out, chunk)
		return nil
	})
	return strings.Join(append(out, sim.FormatResult(r, res, err)), "\n")
}

// A parser reads the words of one request.
type parser struct {
	t     *testing.T
	words []string
}

func parseLine(t *testing.T, line string) evaluate.Op {
	t.Helper()
	p := &parser{t: t}
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] != '"' {
			end := strings.IndexAny(line, " ;\n")
			if end == 0 {
				end = 1 // a semicolon
			}
			if end < 0 {
				end = len(line)
			}
			p.words, line = append(p.words, line[:end]), line[end:]
			continue
		}
		quoted, err := strconv.QuotedPrefix(line)
		require.NoError(t, err)
		word, err := strconv.Unquote(quoted)
		require.NoError(t, err)
		p.words, line = append(p.words, "\x00string"+word), line[len(quoted):]
	}
	op := p.op()
	require.Empty(t, p.words, "%s", line)
	return op
}

func (p *parser) peek() string {
	if len(p.words) == 0 {
		return ""
	}
	return p.words[0]
}

func (p *parser) next() string {
	p.t.Helper()
	require.NotEmpty(p.t, p.words, "the line is too short")
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *parser) bytes() []byte { return []byte(strings.TrimPrefix(p.next(), "\x00string")) }

func (p *parser) number(s string) int64 {
	p.t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	require.NoError(p.t, err)
	return n
}

// options calls take with each word up to the end of the request, cut at "=".
func (p *parser) options(take func(name, value string)) {
	for p.peek() != "" && p.peek() != ";" && p.peek() != "}" {
		name, value, _ := strings.Cut(p.next(), "=")
		take(name, value)
	}
}

func (p *parser) op() evaluate.Op {
	p.t.Helper()
	switch kind := p.next(); kind {
	case "put":
		return p.put()
	case "del":
		d := &evaluate.DeleteRange{Key: p.bytes()}
		p.options(func(name, _ string) {
			if name == "prev" {
				d.PrevKV = true
			} else {
				d.End = []byte(strings.TrimPrefix(name, "\x00string"))
			}
		})
		return d
	case "range":
		return p.rang()
	case "txn":
		t := &evaluate.Txn{}
		p.list(func() { t.Compare = append(t.Compare, p.compare()) })
		p.list(func() { t.Success = append(t.Success, p.op()) })
		p.list(func() { t.Failure = append(t.Failure, p.op()) })
		return t
	case "compact":
		return &evaluate.Compact{Revision: p.number(p.next())}
	case "grant":
		return &evaluate.LeaseGrant{ID: p.number(p.next()), TTL: p.number(p.next())}
	case "revoke":
		return &evaluate.LeaseRevoke{ID: p.number(p.next())}
	case "checkpoint":
		return &evaluate.LeaseCheckpoint{Remaining: []evaluate.LeaseRemaining{{ID: p.number(p.next()), Seconds: p.number(p.next())}}}
	case "panic":
		key := []byte("panic")
		if p.peek() != "" {
			key = p.bytes()
		}
		return &evaluate.Txn{Success: []evaluate.Op{&evaluate.Put{Key: key}, (*evaluate.DeleteRange)(nil)}}
	default:
		p.t.Fatalf("unknown request %q", kind)
		return nil
	}
}

// list calls one for each part of { a; b }.
func (p *parser) list(one func()) {
	p.t.Helper()
	require.Equal(p.t, "{", p.next())
	for p.peek() != "}" {
		one()
		if p.peek() == ";" {
			p.next()
		}
	}
	p.next()
}

func (p *parser) put() *evaluate.Put {
	put := &evaluate.Put{Key: p.bytes()}
	if p.peek() != "ignore-value" {
		put.Value = p.bytes()
	}
	p.options(func(name, value string) {
		switch name {
		case "lease":
			put.Lease = p.number(value)
		case "prev":
			put.PrevKV = true
		case "ignore-value":
			put.IgnoreValue = true
		case "ignore-lease":
			put.IgnoreLease = true
		default:
			p.t.Fatalf("unknown option %q", name)
		}
	})
	return put
}

func (p *parser) rang() *evaluate.Range {
	r := &evaluate.Range{Key: p.bytes()}
	numbers := map[string]*int64{
		"limit": &r.Limit, "min-mod": &r.MinMod, "max-mod": &r.MaxMod, "min-create": &r.MinCreate, "max-create": &r.MaxCreate,
	}
	p.options(func(name, value string) {
		switch {
		case numbers[name] != nil:
			*numbers[name] = p.number(value)
		case name[0] == '@':
			r.Revision = p.number(name[1:])
		case name == "keys-only":
			r.KeysOnly = true
		case name == "count-only":
			r.CountOnly = true
		case name == "sort":
			by, order, _ := strings.Cut(value, "/")
			r.SortTarget = evaluate.SortTarget(slices.Index([]string{"key", "version", "create", "mod", "value"}, by))
			r.SortOrder = evaluate.SortOrder(slices.Index([]string{"none", "ascend", "descend"}, order))
		default:
			r.End = []byte(strings.TrimPrefix(name, "\x00string"))
		}
	})
	return r
}

func (p *parser) compare() evaluate.Compare {
	p.t.Helper()
	c := evaluate.Compare{
		Target: evaluate.CompareTarget(slices.Index([]string{"version", "create", "mod", "value", "lease"}, p.next())),
		Key:    p.bytes(),
	}
	relations := []string{"=", ">", "<", "!="}
	if !slices.Contains(relations, p.peek()) {
		c.End = p.bytes()
	}
	c.Result = evaluate.CompareResult(slices.Index(relations, p.next()))
	if c.Target == evaluate.CompareValue {
		c.Value = p.bytes()
	} else {
		c.Number = p.number(p.next())
	}
	return c
}

// A reader whose context ends is told so.
func TestReadsEndWithTheirContext(t *testing.T) {
	s := newScript(t)
	s.eval.Begin(nil)
	for i := range 3000 {
		_, err := s.eval.Do(t.Context(), &evaluate.Put{Key: fmt.Appendf(nil, "k%04d", i)})
		require.NoError(t, err)
	}
	encoded, _ := s.eval.Seal(0)
	s.flight = append(s.flight, encoded)
	s.apply(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	all := &evaluate.Range{Key: []byte{0}, End: []byte{0}}
	count := &evaluate.Range{Key: []byte{0}, End: []byte{0}, CountOnly: true}
	for _, r := range []*evaluate.Range{all, count} {
		_, err := evaluate.Read(ctx, s.store, s.store.Revision(), r)
		require.ErrorIs(t, err, context.Canceled)
		_, err = evaluate.Stream(ctx, s.store, s.store.Revision(), r, 100, func([]*mvccpb.KeyValue) error { return nil })
		require.ErrorIs(t, err, context.Canceled)
		s.eval.Begin(nil)
		_, err = s.eval.Do(ctx, &evaluate.Txn{Success: []evaluate.Op{&evaluate.Put{Key: []byte("new")}, r}})
		require.ErrorIs(t, err, context.Canceled)
		_, ok := s.eval.Seal(0)
		require.False(t, ok, "it had no effect")
	}
	broken := errors.New("the client is gone")
	_, err := evaluate.Stream(t.Context(), s.store, s.store.Revision(), all, 100, func([]*mvccpb.KeyValue) error { return broken })
	require.ErrorIs(t, err, broken)
}
