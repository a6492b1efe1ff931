package mvcc_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
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
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// TestDataDriven runs the stories in testdata. Each begins with a fresh store.
// After every command the layout's invariants are checked (doc.go).
func TestDataDriven(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := newScript(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out := s.run(t, d)
			s.checkLayout(t)
			return out
		})
	})
}

// A script plays a log against a store. It stands in for the room above: it
// works out what a put or a deletion means from the store's newest versions.
type script struct {
	fs    *engine.MemFS
	db    *engine.DB
	store *mvcc.Store
	// log has the effects of every entry ever applied; entry i has index i+1.
	log [][]byte
}

func newScript(tb testing.TB) *script {
	tb.Helper()
	s := &script{fs: engine.NewCrashableMem()}
	require.NoError(tb, s.open())
	tb.Cleanup(func() { require.NoError(tb, s.db.Close()) })
	return s
}

func (s *script) open() error {
	var err error
	if s.db, err = openDB(s.fs); err != nil {
		return err
	}
	s.store, err = mvcc.Open(s.db, mvcc.CoreGroup)
	return err
}

func openDB(fs engine.FS) (*engine.DB, error) {
	return engine.Open(engine.Config{
		Dir: "state", FS: fs, CacheBytes: 1 << 20, MemTableBytes: 256 << 10,
		Logger: slog.New(slog.DiscardHandler),
		Fatal:  func(err error) { panic(err) },
	})
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	switch d.Cmd {
	// apply applies the lines below, each an entry of its own, in one batch, and
	// prints what it tells those who watch. A line is a transaction or what else
	// an entry can hold, its parts separated by ";":
	//
	//	put KEY VALUE [lease=ID]    the new version's create revision, version and
	//	                            lease before are those that follow from the
	//	                            versions before it
	//	del KEY
	//	grant ID TTL, revoke ID, checkpoint ID REMAINING
	//	compact REVISION
	//	nothing                     an entry without effects
	//	@REVISION                   first in the line: the revision, if it is not
	//	                            to be the next one
	//
	// With times=N that is done so often, and only the end is printed.
	case "apply":
		times := 1
		d.MaybeScanArgs(t, "times", &times)
		for range times - 1 {
			s.apply(lines(d.Input))
		}
		return s.apply(lines(d.Input))

	// read answers the lines below, one by one:
	//
	//	get KEY [@REVISION]
	//	range KEY END [@REVISION] [limit=N] [keys-only]
	//	                            END is etcd's range_end: "" is the one key, "\x00"
	//	                            all from KEY on
	//	count KEY END [@REVISION]   counts by walking
	//	known-count KEY END @REVISION
	//	note-count KEY END @REVISION N
	//	changes FROM TO [KEY END]
	//	hash [@REVISION]
	//	leases                      with the keys that are attached to each
	//	revision                    the store's, and the compacted one
	//	durable                     the entry up to which a crash would keep all
	case "read":
		var out []string
		for _, line := range lines(d.Input) {
			out = append(out, s.read(line))
		}
		return strings.Join(out, "\n")

	// rows prints the versions of every key that are stored, newest first.
	case "rows":
		return s.rows(t)

	// scrub [rows=N] [steps=N] deletes what compactions have freed, rows (1000)
	// at a time, until it is done or has been told to stop after so many steps.
	case "scrub":
		rows, steps := 1000, -1
		d.MaybeScanArgs(t, "rows", &rows)
		d.MaybeScanArgs(t, "steps", &steps)
		return s.scrub(rows, steps)

	// restart closes the store in good order and opens it again.
	case "restart":
		require.NoError(t, s.db.Flush())
		require.NoError(t, s.db.Close())
		require.NoError(t, s.open())
		return fmt.Sprintf("applied to entry %d", s.store.Applied().Index)

	// flush makes what is applied durable.
	case "flush":
		require.NoError(t, s.db.Flush())
		return ""

	// crash loses what is not durable and replays the log, one entry to a batch.
	case "crash":
		lost := s.db
		s.fs = s.fs.CrashClone(engine.CrashCloneCfg{})
		require.NoError(t, s.open())
		require.NoError(t, lost.Close())
		first := s.store.Applied().Index
		for i := first; i < uint64(len(s.log)); i++ {
			b := s.store.NewBatch()
			require.NoError(t, b.Add(i+1, 1, s.log[i]))
			_, err := b.Commit()
			require.NoError(t, err)
		}
		return fmt.Sprintf("applied to entry %d, then replayed to %d", first, len(s.log))

	// adopt at=REVISION [revision=N] [compacted=N] makes the store that of a
	// new member, as it was at a revision.
	case "adopt":
		var a mvcc.Adoption
		d.ScanArgs(t, "at", &a.At)
		a.Revision = a.At
		d.MaybeScanArgs(t, "revision", &a.Revision)
		d.MaybeScanArgs(t, "compacted", &a.Compacted)
		found, err := mvcc.Adopt(t.Context(), s.db, []mvcc.GroupID{mvcc.CoreGroup}, a)
		if err != nil {
			return "error: " + err.Error()
		}
		s.store, err = mvcc.Open(s.db, mvcc.CoreGroup)
		require.NoError(t, err)
		s.log = nil
		_, err = s.store.Verify(t.Context(), func([]byte) bool { return true }, func(damage string) { t.Error(damage) })
		require.NoError(t, err)
		return fmt.Sprintf("dropped %d versions, %d leases had been revoked", found.Dropped, found.Revoked)

	default:
		t.Fatalf("unknown command %q", d.Cmd)
		return ""
	}
}

func lines(input string) []string {
	return slices.DeleteFunc(strings.Split(input, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
}

// words splits a line at its spaces; a word that begins with a quote is a Go
// string, and x*3 is xxx.
func words(line string) ([]string, error) {
	var out []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			if what, times, ok := strings.Cut(word, "*"); ok {
				n, err := strconv.Atoi(times)
				if err != nil {
					return nil, err
				}
				word = strings.Repeat(what, n)
			}
			out, line = append(out, word), rest
			continue
		}
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
		word, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
		out, line = append(out, word), line[len(quoted):]
	}
	return out, nil
}

// numbered takes the word that begins with prefix out of args.
func numbered(args []string, prefix string, otherwise int64) ([]string, int64, error) {
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, prefix) })
	if i < 0 {
		return args, otherwise, nil
	}
	n, err := strconv.ParseInt(args[i][len(prefix):], 10, 64)
	return slices.Delete(slices.Clone(args), i, i+1), n, err
}

// entry encodes the effects of one line. heads are the versions that lines of
// the same batch before it have made, and last its greatest revision.
type entry struct {
	s     *script
	heads map[string]mvcc.Head
	last  int64
}

func (s *script) apply(lines []string) string {
	batch := s.store.NewBatch()
	e := entry{s: s, heads: map[string]mvcc.Head{}, last: s.store.Revision()}
	log := s.log
	for _, line := range lines {
		effects, err := e.encode(line)
		if err == nil {
			log = append(log, effects)
			err = batch.Add(uint64(len(log)), 1, effects)
		}
		if err != nil {
			batch.Drop()
			return "error: " + err.Error()
		}
	}
	out, err := batch.Commit()
	if err != nil {
		return "error: " + err.Error()
	}
	s.log = log
	return formatOutcome(out)
}

func formatOutcome(out mvcc.Outcome) string {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(sim.FormatEvents(out.Events, false), strings.Repeat("a", 300), "a*300"))
	for _, l := range out.Leases {
		switch l.Kind {
		case mvcc.LeaseGranted:
			fmt.Fprintf(&b, "lease %d granted for %d s\n", l.ID, l.TTL)
		case mvcc.LeaseRevoked:
			fmt.Fprintf(&b, "lease %d revoked\n", l.ID)
		case mvcc.LeaseCheckpointed:
			fmt.Fprintf(&b, "lease %d has %d s left\n", l.ID, l.Remaining)
		case mvcc.LeaseJoined:
			fmt.Fprintf(&b, "lease %d joined by group %d\n", l.ID, l.Group)
		case mvcc.LeaseLeft:
			fmt.Fprintf(&b, "lease %d left by group %d\n", l.ID, l.Group)
		}
	}
	if out.Compacted != 0 {
		fmt.Fprintf(&b, "compacted at %d\n", out.Compacted)
	}
	fmt.Fprintf(&b, "revision %d", out.Revision)
	return b.String()
}

func (e *entry) encode(line string) ([]byte, error) {
	effects := mvcc.NewEffects(nil)
	main, named := e.last+1, false
	if at, ok := strings.CutPrefix(line, "@"); ok {
		number, rest, _ := strings.Cut(at, " ")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, err
		}
		main, named, line = n, true, rest
	}
	sub := int64(0)
	for part := range strings.SplitSeq(line, ";") {
		args, err := words(part)
		if err != nil {
			return nil, err
		}
		if args[0] == "put" || args[0] == "del" {
			if sub == 0 {
				effects.Revision(main)
				if !named {
					e.last = main
				}
			}
			e.last = max(e.last, main)
			err = e.change(effects, main, sub, args)
			sub++
		} else {
			err = special(effects, args)
		}
		if err != nil {
			return nil, err
		}
	}
	return effects.Bytes(), nil
}

func (e *entry) change(effects *mvcc.Effects, main, sub int64, args []string) error {
	args, lease, err := numbered(args, "lease=", 0)
	if err != nil {
		return err
	}
	key := []byte(args[1])
	before, ok := e.heads[string(key)]
	if !ok {
		if before, _, err = e.s.store.Head(key); err != nil {
			return err
		}
	}
	if args[0] == "del" {
		effects.Delete(sub, key, before.Lease)
		e.heads[string(key)] = mvcc.Head{}
		return nil
	}
	now := mvcc.Head{Mod: main, Create: cmp.Or(before.Create, main), Version: before.Version + 1, Lease: lease}
	effects.Put(sub, key, now, before.Lease, []byte(args[2]))
	e.heads[string(key)] = now
	return nil
}

func special(effects *mvcc.Effects, args []string) error {
	var n [2]int64
	for i, arg := range args[1:] {
		var err error
		if n[i], err = strconv.ParseInt(arg, 10, 64); err != nil {
			return err
		}
	}
	switch args[0] {
	case "grant":
		effects.LeaseGrant(n[0], n[1])
	case "revoke":
		effects.LeaseRevoke(n[0])
	case "checkpoint":
		effects.LeaseCheckpoint(n[0], n[1])
	case "compact":
		effects.Compact(n[0])
	case "nothing":
	default:
		return fmt.Errorf("unknown effect %q", args[0])
	}
	return nil
}

func (s *script) read(line string) string {
	out, err := s.readLine(line)
	if err != nil {
		return "error: " + err.Error()
	}
	for i := range out {
		out[i] = strings.ReplaceAll(out[i], strings.Repeat("a", 300), "a*300")
	}
	return strings.Join(out, "\n")
}

func (s *script) readLine(line string) (out []string, err error) {
	ctx := context.Background()
	args, err := words(line)
	if err != nil {
		return nil, err
	}
	cmd := args[0]
	args, rev, err := numbered(args[1:], "@", s.store.Revision())
	if err != nil {
		return nil, err
	}
	switch cmd {
	case "get":
		kv, err := s.store.Get([]byte(args[0]), rev)
		return []string{sim.FormatKV(kv)}, err
	case "range":
		return s.scan(ctx, args, rev)
	case "count":
		n, err := s.count(ctx, args, rev)
		return []string{fmt.Sprint(n)}, err
	case "known-count":
		n, ok := s.store.KnownCount(mvcc.SpanOf([]byte(args[0]), []byte(args[1])), rev)
		if !ok {
			return []string{"not known"}, nil
		}
		return []string{fmt.Sprint(n)}, nil
	case "note-count":
		n, err := strconv.ParseInt(args[2], 10, 64)
		s.store.NoteCount(mvcc.SpanOf([]byte(args[0]), []byte(args[1])), rev, n)
		return []string{"noted"}, err
	case "changes":
		return s.changes(ctx, args)
	case "hash":
		hash, at, compacted, err := s.store.HashKV(ctx, rev)
		return []string{fmt.Sprintf("hash %d at %d, compacted %d", hash, at, compacted)}, err
	case "leases":
		return s.leases()
	case "durable":
		durable, err := s.store.DurableApplied()
		return []string{fmt.Sprintf("durable to entry %d, term %d, revision %d", durable.Index, durable.Term, durable.Revision)}, err
	case "revision":
		return []string{fmt.Sprintf("revision %d, compacted %d", s.store.Revision(), s.store.Compacted())}, nil
	default:
		return nil, fmt.Errorf("unknown read %q", cmd)
	}
}

func (s *script) scan(ctx context.Context, args []string, rev int64) (out []string, err error) {
	args, limit, err := numbered(args, "limit=", -1)
	if err != nil {
		return nil, err
	}
	sc, err := s.store.Scan(ctx, mvcc.SpanOf([]byte(args[0]), []byte(args[1])), rev)
	if err != nil {
		return nil, err
	}
	for ; limit != 0 && sc.Next(); limit-- {
		kv, err := sc.KV(slices.Contains(args, "keys-only"))
		if err != nil {
			return out, err
		}
		if !bytes.Equal(kv.Key, sc.Key()) {
			return out, fmt.Errorf("the key is %q and %q", sc.Key(), kv.Key)
		}
		out = append(out, sim.FormatKV(kv))
	}
	if len(out) == 0 {
		out = []string{"none"}
	}
	if limit == 0 {
		rest, err := sc.CountRest()
		if err != nil {
			return out, err
		}
		out = append(out, fmt.Sprintf("and %d more", rest))
	}
	if err := sc.Err(); err != nil {
		return out, err
	}
	return out, sc.Close()
}

func (s *script) count(ctx context.Context, args []string, rev int64) (int64, error) {
	sc, err := s.store.Scan(ctx, mvcc.SpanOf([]byte(args[0]), []byte(args[1])), rev)
	if err != nil {
		return 0, err
	}
	n, err := sc.CountRest()
	if cerr := sc.Close(); err == nil {
		err = cerr
	}
	return n, err
}

func (s *script) changes(ctx context.Context, args []string) (out []string, err error) {
	from, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return nil, err
	}
	to, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return nil, err
	}
	span := mvcc.SpanOf([]byte{0}, []byte{0})
	if len(args) > 2 {
		span = mvcc.SpanOf([]byte(args[2]), []byte(args[3]))
	}
	err = s.store.Changes(ctx, span, from, to, func(e *mvccpb.Event) error {
		out = append(out, sim.FormatEvent(e, false))
		return nil
	})
	if err == nil && len(out) == 0 {
		out = []string{"none"}
	}
	return out, err
}

func (s *script) leases() (out []string, err error) {
	err = s.store.Leases(func(id, ttl, remaining int64) {
		keys, kerr := s.store.LeaseKeys(id)
		if kerr != nil {
			err = kerr
		}
		out = append(out, fmt.Sprintf("lease %d: granted for %d s, %d s left, keys %q", id, ttl, remaining, keys))
	})
	if len(out) == 0 {
		out = []string{"none"}
	}
	return out, err
}

func (s *script) scrub(rows, steps int) string {
	done := 0
	err := s.store.Scrub(rows, func() bool {
		done++
		return done != steps
	})
	if err != nil {
		return "error: " + err.Error()
	}
	state := "nothing pending"
	if s.store.ScrubPending() {
		state = "more pending"
	}
	return fmt.Sprintf("%d steps, scrubbed to %d, %s", done, s.store.Scrubbed(), state)
}

// A row is one stored version.
type row struct {
	key       string
	main, sub int64
	tombstone bool
	lease     int64
}

// table calls fn for each row of one table of the store, in order.
func (s *script) table(tb testing.TB, table byte, fn func(key, value []byte)) {
	tb.Helper()
	prefix := []byte{0, byte(mvcc.CoreGroup), table}
	it, err := s.db.NewIter(&engine.IterOptions{
		LowerBound: engine.AppendPrefix(bytes.Clone(prefix)),
		UpperBound: engine.AppendPrefix([]byte{0, byte(mvcc.CoreGroup), table + 1}),
	})
	require.NoError(tb, err)
	for ok := it.First(); ok; ok = it.Next() {
		fn(it.Key(), it.Value())
	}
	require.NoError(tb, it.Close())
}

func (s *script) versions(tb testing.TB) []row {
	tb.Helper()
	var out []row
	s.table(tb, 'k', func(k, v []byte) {
		key, main, sub, err := engine.SplitVersion(k)
		require.NoError(tb, err)
		r := row{key: string(key[3:]), main: main, sub: sub, tombstone: len(v) == 0}
		for range 3 {
			if len(v) > 0 {
				n, size := binary.Uvarint(v)
				r.lease, v = int64(n), v[size:]
			}
		}
		out = append(out, r)
	})
	return out
}

func (s *script) rows(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	last := ""
	for i, r := range s.versions(t) {
		if i == 0 || r.key != last {
			if i > 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "%q:", r.key)
			last = r.key
		}
		fmt.Fprintf(&b, " %d.%d", r.main, r.sub)
		if r.tombstone {
			b.WriteString("(tombstone)")
		}
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}

// checkLayout checks that what is stored agrees with itself: the second and the
// fifth invariant of the package, and that versions lie in order.
func (s *script) checkLayout(tb testing.TB) {
	tb.Helper()
	indexed := map[row]bool{}
	s.table(tb, 'r', func(k, v []byte) {
		indexed[row{
			key:  string(v),
			main: int64(binary.BigEndian.Uint64(k[3:])), sub: int64(binary.BigEndian.Uint32(k[11:])),
		}] = true
	})
	attached := map[string]bool{}
	s.table(tb, 'a', func(k, _ []byte) {
		attached[fmt.Sprintf("%d %q", int64(binary.BigEndian.Uint64(k[3:])), k[11:len(k)-1])] = true
	})
	rows := s.versions(tb)
	for i, r := range rows {
		bare := row{key: r.key, main: r.main, sub: r.sub}
		require.True(tb, indexed[bare], "version %+v has no row in the revision index", r)
		delete(indexed, bare)
		newest := i == 0 || rows[i-1].key != r.key
		if !newest {
			before := rows[i-1]
			require.Positive(tb, cmp.Or(cmp.Compare(before.main, r.main), cmp.Compare(before.sub, r.sub)),
				"%+v stands before %+v", before, r)
		}
		if newest && r.lease != 0 {
			name := fmt.Sprintf("%d %q", r.lease, r.key)
			require.True(tb, attached[name], "%s is not attached", name)
			delete(attached, name)
		}
	}
	require.Empty(tb, indexed, "rows of the revision index without a version")
	require.Empty(tb, attached, "attachments without a version")

	taken := int64(0)
	s.table(tb, 'k', func(k, v []byte) {
		key, _, _, err := engine.SplitVersion(k)
		require.NoError(tb, err)
		taken += int64(30 + 2*(len(key)-3) + len(v))
	})
	require.Equal(tb, taken, s.store.Bytes(), "what the versions take")
}
