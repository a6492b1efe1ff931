package mvcc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// A rawRow is a row as it is stored.
type rawRow struct{ key, value string }

// dump returns the rows of a group, but for those that are the member's.
func dump(t *testing.T, db *engine.DB, g mvcc.GroupID) (rows []rawRow) {
	t.Helper()
	it, err := db.NewIter(&engine.IterOptions{
		LowerBound: engine.AppendPrefix([]byte{byte(g >> 8), byte(g), 0}),
		UpperBound: engine.AppendPrefix([]byte{byte(g >> 8), byte(g), 0xff}),
	})
	require.NoError(t, err)
	for ok := it.First(); ok; ok = it.Next() {
		if name := string(it.Key()[3:]); name != "closed\x00" && name != "restored\x00" {
			rows = append(rows, rawRow{string(it.Key()), string(it.Value())})
		}
	}
	require.NoError(t, it.Close())
	return rows
}

// sameRows fails with the first row that is not as wanted.
func sameRows(t *testing.T, want, got []rawRow) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		require.Equal(t, want[i], got[i])
	}
	require.Len(t, got, len(want))
}

// chunks exports a store.
func chunks(t *testing.T, s *mvcc.Store, maxBytes int) (out [][]byte) {
	t.Helper()
	e, err := s.Export(maxBytes)
	require.NoError(t, err)
	for {
		c, err := e.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		out = append(out, bytes.Clone(c))
	}
	_, err = e.Next()
	require.Equal(t, io.EOF, err)
	require.Equal(t, s.Applied(), e.Applied())
	conf, err := s.ConfState()
	require.NoError(t, err)
	require.Equal(t, conf, e.ConfState())
	require.NoError(t, e.Close())
	return out
}

// ingest puts chunks in place of the state of a store.
func ingest(t *testing.T, db *engine.DB, fs engine.FS, s *mvcc.Store, g mvcc.GroupID, tableBytes uint64, chunks [][]byte) {
	t.Helper()
	in, err := mvcc.NewIngest(db, fs, "ingest", g)
	require.NoError(t, err)
	in.SetTableBytes(tableBytes)
	for _, c := range chunks {
		require.NoError(t, in.Add(c))
	}
	require.NoError(t, in.Finish())
	require.NoError(t, in.Commit(context.Background(), s))
	require.Equal(t, in.Applied(), s.Applied())
	conf, err := s.ConfState()
	require.NoError(t, err)
	require.Equal(t, in.ConfState(), conf)
	in.Drop()
	left, err := fs.List("ingest")
	require.NoError(t, err)
	require.Empty(t, left)
}

// fill applies entries at random, of every kind, and scrubs a bit.
func fill(t *testing.T, s *mvcc.Store, rng *rand.Rand, entries int) {
	t.Helper()
	heads := map[string]mvcc.Head{}
	key := func() []byte { return bytes.Repeat([]byte{byte('a' + rng.IntN(3)), byte(rng.IntN(3))}, 1+rng.IntN(9)) }
	compacted := s.Compacted()
	for range entries {
		b := s.NewBatch()
		e := mvcc.NewEffects(nil)
		main := max(s.Revision(), s.Applied().Revision) + 1 + rng.Int64N(3)
		lease := rng.Int64N(5)
		switch n := rng.IntN(20); {
		case n < 14:
			e.Revision(main)
			for sub := range int64(1 + rng.IntN(3)) {
				k := key()
				before := heads[string(k)]
				if n < 3 && before.Mod != 0 && before.Mod != main {
					e.Delete(sub, k, before.Lease)
					delete(heads, string(k))
					continue
				}
				now := mvcc.Head{Mod: main, Create: main, Version: before.Version + 1, Lease: lease}
				value := make([]byte, rng.IntN(300))
				for i := range value {
					value[i] = byte(rng.Uint32())
				}
				e.Put(sub, k, now, before.Lease, value)
				heads[string(k)] = now
			}
		case n == 14:
			e.LeaseGrant(lease, 60)
			e.LeaseCheckpoint(lease, 30)
		case n == 15:
			e.LeaseJoin(lease, mvcc.GroupID(rng.IntN(1<<16)))
		case n == 16 && s.Revision() > compacted+1:
			compacted += 1 + rng.Int64N(s.Revision()-compacted-1)
			e.Compact(compacted)
		case n == 17:
			require.NoError(t, b.SetConfState([]byte{byte(rng.IntN(256))}))
		case n == 18:
			require.NoError(t, b.SetDecision(rng.Uint64(), []byte("parts")))
			require.NoError(t, b.SetMember(rng.Uint64(), []byte("member")))
			b.SetPart(rng.Uint64())
		default:
			require.NoError(t, b.SetClosed(s.Revision()))
		}
		b.SetPlace(rng.Uint64N(9), rng.Uint64N(99))
		require.NoError(t, b.Add(s.Applied().Index+1, 7, e.Bytes()))
		_, err := b.Commit()
		require.NoError(t, err)
		if rng.IntN(20) == 0 {
			steps := 1 + rng.IntN(3)
			require.NoError(t, s.Scrub(1+rng.IntN(10), func() bool { steps--; return steps > 0 }))
		}
	}
}

func openStore(t *testing.T, db *engine.DB, g mvcc.GroupID) *mvcc.Store {
	t.Helper()
	s, err := mvcc.Open(db, g)
	require.NoError(t, err)
	return s
}

func openMem(t *testing.T) (*engine.DB, *engine.MemFS) {
	t.Helper()
	fs := engine.NewMem()
	db, err := openDB(fs)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db, fs
}

// TestExportAndIngest sends stores at random to others that have something
// already: nothing of that is left, all else is there, byte for byte, and other
// groups are as they were.
func TestExportAndIngest(t *testing.T) {
	tables := map[byte]bool{}
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			groups := []mvcc.GroupID{1, 2, 0x0100, 0xfffe, 0xffff}
			from, _ := openMem(t)
			to, fs := openMem(t)
			for _, g := range groups {
				fill(t, openStore(t, from, g), rng, 30+rng.IntN(300))
				// A part of the state is in files, and part in memory.
				if rng.IntN(2) == 0 {
					require.NoError(t, from.Flush())
				}
				if rng.IntN(4) > 0 {
					fill(t, openStore(t, to, g), rng, rng.IntN(30))
				}
				if rng.IntN(2) == 0 {
					require.NoError(t, to.Flush())
				}
			}
			want := map[mvcc.GroupID][]rawRow{}
			for _, g := range groups {
				want[g] = dump(t, to, g)
			}
			for _, i := range rng.Perm(len(groups)) {
				g := groups[i]
				source, s := openStore(t, from, g), openStore(t, to, g)
				compacted := max(s.Compacted(), source.Compacted())
				closed, err := s.Closed()
				require.NoError(t, err)
				ingest(t, to, fs, s, g, 1+rng.Uint64N(1<<rng.IntN(18)), chunks(t, source, 1+rng.IntN(1<<rng.IntN(16))))
				want[g] = dump(t, from, g)
				for _, g := range groups {
					sameRows(t, want[g], dump(t, to, g))
				}
				for _, r := range want[g] {
					tables[r.key[2]] = true
				}
				// The store knows what it would if it was opened now.
				for _, s := range []*mvcc.Store{s, openStore(t, to, g)} {
					require.Contains(t, []int64{compacted, source.Compacted()}, s.Compacted())
					require.Equal(t, source.Applied(), s.Applied())
					require.Equal(t, source.Revision(), s.Revision())
					require.Equal(t, source.Scrubbed(), s.Scrubbed())
					index, term, err := s.Restored()
					require.NoError(t, err)
					require.Equal(t, []uint64{source.Applied().Index, 7}, []uint64{index, term})
					now, err := s.Closed()
					require.NoError(t, err)
					require.Equal(t, closed, now, "a fact of the member")
				}
				wantHash, _, _, err := source.HashKV(t.Context(), 0)
				require.NoError(t, err)
				hash, _, _, err := openStore(t, to, g).HashKV(t.Context(), 0)
				require.NoError(t, err)
				require.Equal(t, wantHash, hash)
				// Both go on alike. Here the two have nothing in common, so that what was
				// compacted before may be more.
				if s.Compacted() > source.Compacted() {
					s = openStore(t, to, g)
				}
				goOn := rng.Uint64()
				fill(t, source, rand.New(rand.NewPCG(goOn, 0)), 50)
				fill(t, s, rand.New(rand.NewPCG(goOn, 0)), 50)
				want[g] = dump(t, from, g)
				sameRows(t, want[g], dump(t, to, g))
			}
		})
	}
	require.Len(t, tables, 7, "not every table was filled: %v", tables)
}

// TestExportKeepsItsView: what is applied and scrubbed meanwhile does not show,
// nor that the exporting member's own state is replaced.
func TestExportKeepsItsView(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	db, fs := openMem(t)
	s := openStore(t, db, 1)
	fill(t, s, rng, 200)
	want, applied := dump(t, db, 1), s.Applied()
	other, _ := openMem(t)
	ahead := openStore(t, other, 1)
	fill(t, ahead, rng, 900)

	e, err := s.Export(500)
	require.NoError(t, err)
	require.Equal(t, applied, e.Applied())
	var got [][]byte
	for i := 0; ; i++ {
		c, err := e.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		got = append(got, bytes.Clone(c))
		switch i {
		case 2:
			fill(t, s, rng, 200)
			require.NoError(t, s.Scrub(1000, func() bool { return true }))
			require.NoError(t, db.Flush())
			require.NoError(t, db.Compact(t.Context(), []byte{0}, []byte{0xff, 0}, false))
		case 4:
			ingest(t, db, fs, s, 1, 1<<20, chunks(t, ahead, 1000))
		}
	}
	require.NoError(t, e.Close())
	sameRows(t, dump(t, other, 1), dump(t, db, 1))
	to, toFS := openMem(t)
	ingest(t, to, toFS, openStore(t, to, 1), 1, 1<<20, got)
	sameRows(t, want, dump(t, to, 1))
}

// TestIteratorsOutliveIngest: who reads while the state is replaced goes on with
// what there was.
func TestIteratorsOutliveIngest(t *testing.T) {
	s := newScript(t)
	s.apply([]string{"put a 1", "put b 1", "put c 1", "put d 1"})
	from := newScript(t)
	from.apply([]string{"put a 1", "put b 1", "put c 1", "put d 1", "put b 2", "del c", "put d 3", "put e 1", "compact 8"})
	from.scrub(100, -1)

	sc, err := s.store.Scan(t.Context(), mvcc.Span{}, 5)
	require.NoError(t, err)
	require.True(t, sc.Next())
	var seen []string
	err = s.store.Changes(t.Context(), mvcc.Span{}, 2, 5, func(e *mvccpb.Event) error {
		seen = append(seen, fmt.Sprintf("%s@%d", e.Kv.Key, e.Kv.ModRevision))
		if len(seen) == 1 {
			ingest(t, s.db, s.fs, s.store, 1, 100, chunks(t, from.store, 100))
			require.NoError(t, s.db.Compact(t.Context(), []byte{0}, []byte{0xff, 0}, false))
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []string{"a@2", "b@3", "c@4", "d@5"}, seen)
	keys := []string{string(sc.Key())}
	for sc.Next() {
		kv, err := sc.KV(false)
		require.NoError(t, err)
		require.Equal(t, "1", string(kv.Value))
		keys = append(keys, string(kv.Key))
	}
	require.NoError(t, sc.Err())
	require.NoError(t, sc.Close())
	require.Equal(t, []string{"a", "b", "c", "d"}, keys)

	// Who begins now is refused where the new rows have nothing.
	_, err = s.store.Scan(t.Context(), mvcc.Span{}, 5)
	require.ErrorIs(t, err, mvcc.ErrCompacted)
	kv, err := s.store.Get([]byte("b"), 8)
	require.NoError(t, err)
	require.Equal(t, "2", string(kv.Value))
	s.checkLayout(t)
}

// seal makes a chunk of content, as it would follow others.
type sealer struct{ sum uint32 }

func (s *sealer) seal(content []byte) []byte {
	s.sum = crc32.Update(s.sum, crc32.MakeTable(crc32.Castagnoli), content)
	return binary.BigEndian.AppendUint32(bytes.Clone(content), s.sum)
}

// rowsChunk makes the content of a chunk of rows.
func rowsChunk(rows ...rawRow) []byte {
	out := []byte{1}
	for _, r := range rows {
		out = binary.AppendUvarint(out, uint64(len(r.key)))
		out = append(out, r.key...)
		out = binary.AppendUvarint(out, uint64(len(r.value)))
		out = append(out, r.value...)
	}
	return out
}

func endChunk(rows uint64) []byte { return binary.BigEndian.AppendUint64([]byte{2}, rows) }

// TestChunksAreAsAgreed: members of different versions talk to each other, so
// that the chunks can't change.
func TestChunksAreAsAgreed(t *testing.T) {
	s := newScript(t)
	s.apply([]string{"grant 7 60", "put a 1 lease=7"})
	b := s.store.NewBatch()
	require.NoError(t, b.SetClosed(1))
	require.NoError(t, b.SetConfState([]byte("conf")))
	require.NoError(t, b.Add(3, 9, nil))
	_, err := b.Commit()
	require.NoError(t, err)

	var seal sealer
	num := func(vs ...uint64) (out string) {
		for _, v := range vs {
			out += string(binary.BigEndian.AppendUint64(nil, v))
		}
		return out
	}
	want := [][]byte{
		seal.seal(rowsChunk(
			rawRow{"\x00\x01a" + num(7) + "a\x00", ""},
			rawRow{"\x00\x01ka\x00" + num(2) + "\x09", "\x02\x01\x071"},
			rawRow{"\x00\x01l" + num(7) + "\x00", "\x3c\x00"},
			rawRow{"\x00\x01mapplied\x00", num(3, 9, 2, 0, 0, 0, 36)},
			rawRow{"\x00\x01mconfstate\x00", "conf"},
			rawRow{"\x00\x01r" + num(2) + "\x00\x00\x00\x00\x00", "a"},
		)),
		seal.seal(endChunk(6)),
	}
	require.Equal(t, want, chunks(t, s.store, 1<<20))

	// As few rows to a chunk as may be.
	small := chunks(t, s.store, 1)
	require.Len(t, small, 7)
	// As many as go in.
	for _, c := range chunks(t, s.store, 150) {
		require.LessOrEqual(t, len(c), 150)
	}
	require.Len(t, chunks(t, s.store, 150), 3)
}

// TestIngestRefuses gives an ingest what no export makes.
func TestIngestRefuses(t *testing.T) {
	row := func(key, value string) rawRow { return rawRow{key, value} }
	applied := row("\x00\x01mapplied\x00", strings.Repeat("\x00\x00\x00\x00\x00\x00\x00\x05", 7))
	version := func(key string, main, sub int64) string {
		return string(engine.AppendVersion([]byte("\x00\x01k"+key), main, sub))
	}
	long := func(key string, main, sub uint64) string {
		out := binary.BigEndian.AppendUint64([]byte("\x00\x01k"+key+"\x00"), main)
		return string(binary.BigEndian.AppendUint32(out, uint32(sub))) + "\x0d"
	}
	for _, c := range []struct {
		name, want string
		chunks     [][]byte
	}{
		{"rows out of order", "follows row", [][]byte{rowsChunk(applied, row("\x00\x01l12345678\x00", ""))}},
		{"a row twice", "follows row", [][]byte{rowsChunk(applied, applied)}},
		{"a row twice, in two chunks", "follows row", [][]byte{rowsChunk(applied), rowsChunk(applied)}},
		{"versions out of order", "follows row", [][]byte{rowsChunk(row(version("a", 4, 0), ""), row(version("a", 5, 0), ""))}},
		{"a version twice", "follows row", [][]byte{rowsChunk(row(version("a", 4, 0), ""), row(version("a", 4, 0), ""))}},
		{"the group before", "is not of group 1", [][]byte{rowsChunk(row("\x00\x00mapplied\x00", applied.value))}},
		{"the group after", "is not of group 1", [][]byte{rowsChunk(applied, row("\x00\x02mapplied\x00", applied.value))}},
		{"another group", "is not of group 1", [][]byte{rowsChunk(row("\x01\x01mapplied\x00", applied.value))}},
		{"an empty key", "is not of group 1", [][]byte{rowsChunk(row("", ""))}},
		{"no table", "is not of group 1", [][]byte{rowsChunk(row("\x00\x01\x00", ""))}},
		{"a table that is not known", "is of a table that is not known", [][]byte{rowsChunk(row("\x00\x01b\x00", ""))}},
		{"a version in a table without", "has a version", [][]byte{rowsChunk(row("\x00\x01l\x00\x00\x00\x00\x00\x00\x00\x00\x01\x09", ""))}},
		{"a key that ends beyond its beginning", "has a version", [][]byte{rowsChunk(row("\x00\x01l\xff", ""))}},
		{"no version in a table with", "is no version of a key", [][]byte{rowsChunk(row("\x00\x01ka\x00", ""))}},
		{"a version of another length", "is no version of a key", [][]byte{rowsChunk(row("\x00\x01k12345678901234\x0a", ""))}},
		{"a version that reaches into the table", "is no version of a key", [][]byte{rowsChunk(row("\x00\x01k45678\x00\x00\x09", ""))}},
		{"a version without a separator", "is no version of a key", [][]byte{rowsChunk(row("\x00\x01ka\x01\x00\x00\x00\x00\x00\x00\x00\x01\x09", ""))}},
		{"version 0", "is no version of a key", [][]byte{rowsChunk(row(long("a", 0, 1), ""))}},
		{"a negative version", "is no version of a key", [][]byte{rowsChunk(row(long("a", 1<<63, 1), ""))}},
		{"a sub revision of 0 that is written out", "is no version of a key", [][]byte{rowsChunk(row(long("a", 1, 0), ""))}},
		{"a sub revision that is none", "is no version of a key", [][]byte{rowsChunk(row(long("a", 1, 1<<32-1), ""))}},
		{"another's closed revision", "is another member's own", [][]byte{rowsChunk(applied, row("\x00\x01mclosed\x00", "12345678"))}},
		{"another's mark", "is another member's own", [][]byte{rowsChunk(applied, row("\x00\x01mrestored\x00", "1234567812345678"))}},
		{"a short applied index", "bad row of the applied index", [][]byte{rowsChunk(row(applied.key, "1"))}},
		{"an applied index of 0", "nothing was applied", [][]byte{rowsChunk(row(applied.key, strings.Repeat("\x00", 56)))}},
		{"a short scrubbed revision", "bad row scrubbed", [][]byte{rowsChunk(applied, row("\x00\x01mscrubbed\x00", "1"))}},
		{"no applied index", "no row says how far the log was applied", [][]byte{rowsChunk(row("\x00\x01r123456781234\x00", "a"))}},
		{"a key that is cut short", "a row is cut short", [][]byte{rowsChunk(applied)[:9]}},
		{"a row without a value", "a row is cut short", [][]byte{append(rowsChunk(applied), "\x02\x00\x01"...)}},
		{"a value that is cut short", "a row is cut short", [][]byte{rowsChunk(applied)[:30]}},
		{"a length beyond all", "a row is cut short", [][]byte{append([]byte{1}, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"...)}},
		{"a length without an end", "a row is cut short", [][]byte{append([]byte{1}, "\xff\xff\xff"...)}},
		{"an unknown kind", "unknown kind of chunk 3", [][]byte{{3}}},
		{"a kind only", "a last chunk of 5 bytes", [][]byte{{2}}},
		{"an end that is too long", "a last chunk of 14 bytes", [][]byte{append(endChunk(0), 0)}},
		{"too few rows", "1 rows have come of 2", [][]byte{rowsChunk(applied), endChunk(2)}},
		{"too many rows", "1 rows have come of 0", [][]byte{rowsChunk(applied), endChunk(0)}},
		{"rows after the end", "a chunk after the last", [][]byte{rowsChunk(applied), endChunk(1), rowsChunk()}},
		{"two ends", "a chunk after the last", [][]byte{rowsChunk(applied), endChunk(1), endChunk(1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			s.apply([]string{"put a 1"})
			want := dump(t, s.db, 1)
			in, err := mvcc.NewIngest(s.db, s.fs, "ingest", 1)
			require.NoError(t, err)
			var seal sealer
			for i, content := range c.chunks {
				err := in.Add(seal.seal(content))
				if i < len(c.chunks)-1 {
					require.NoError(t, err)
					continue
				}
				require.ErrorContains(t, err, "mvcc: ingest: ")
				require.ErrorContains(t, err, c.want)
				require.Equal(t, err, in.Add(seal.seal(endChunk(uint64(i)))), "it stays refused")
				require.Equal(t, err, in.Finish())
				require.Equal(t, err, in.Commit(t.Context(), s.store))
			}
			in.Drop()
			sameRows(t, want, dump(t, s.db, 1))
		})
	}
}

// TestIngestNeedsTheEnd: without its last chunk, or with none, it is refused, as
// is one of a state that is older.
func TestIngestNeedsTheEnd(t *testing.T) {
	from := newScript(t)
	from.apply([]string{"put a 1", "put a 2"})
	all := chunks(t, from.store, 60)
	s := newScript(t)
	s.apply([]string{"put a 1", "put a 2", "put a 3"})
	for n := range len(all) {
		in, err := mvcc.NewIngest(s.db, s.fs, "ingest", 1)
		require.NoError(t, err)
		for _, c := range all[:n] {
			require.NoError(t, in.Add(c))
		}
		require.ErrorContains(t, in.Finish(), "before the last chunk")
		in.Drop()
		require.ErrorContains(t, in.Add(all[n]), "before the last chunk")
		in.Drop()
	}
	in, err := mvcc.NewIngest(s.db, s.fs, "ingest", 1)
	require.NoError(t, err)
	for _, c := range all {
		require.NoError(t, in.Add(c))
	}
	require.ErrorContains(t, in.Commit(t.Context(), s.store), "rows of entry 2 are to replace those of entry 3")
	require.Panics(t, func() { _ = in.Commit(t.Context(), from.store) }, "another database")
	in.Drop()
	require.ErrorContains(t, in.Commit(t.Context(), s.store), "dropped")

	// A group to which nothing was ever applied has nothing to send.
	empty := newScript(t)
	in, err = mvcc.NewIngest(s.db, s.fs, "ingest", 1)
	require.NoError(t, err)
	for _, c := range chunks(t, empty.store, 60) {
		require.NoError(t, in.Add(c))
	}
	require.ErrorContains(t, in.Finish(), "no row says how far the log was applied")
	in.Drop()
}

// TestIngestNoticesDamage changes every byte of every chunk, cuts each short,
// leaves one out, has one come twice, two in the wrong order, and one of another
// export.
func TestIngestNoticesDamage(t *testing.T) {
	from := newScript(t)
	fill(t, from.store, rand.New(rand.NewPCG(3, 0)), 12)
	all := chunks(t, from.store, 300)
	require.Greater(t, len(all), 4)
	other := newScript(t)
	fill(t, other.store, rand.New(rand.NewPCG(4, 0)), 25)
	others := chunks(t, other.store, 300)

	s := newScript(t)
	s.apply([]string{"put a 1"})
	want := dump(t, s.db, 1)
	// refused gives chunks, of which only the last is bad.
	refused := func(chunks ...[]byte) {
		t.Helper()
		in, err := mvcc.NewIngest(s.db, s.fs, "ingest", 1)
		require.NoError(t, err)
		defer in.Drop()
		for _, c := range chunks[:len(chunks)-1] {
			require.NoError(t, in.Add(c))
		}
		require.Error(t, in.Add(chunks[len(chunks)-1]))
		require.Error(t, in.Finish())
	}
	with := func(n int, chunks ...[]byte) [][]byte { return slices.Concat(all[:n], chunks) }
	for i, c := range all {
		for at := range c {
			damaged := bytes.Clone(c)
			damaged[at] ^= 1 << (at % 8)
			refused(with(i, damaged)...)
			refused(with(i, c[:at])...)
		}
		refused(with(i, append(bytes.Clone(c), 0))...)
		refused(with(i, c, c)...)
		if i+1 < len(all) {
			refused(with(i, all[i+1])...)
		}
		if i > 0 && i < len(others) {
			refused(with(i, others[i])...)
		}
	}
	sameRows(t, want, dump(t, s.db, 1))
}

// TestReadersBesideAnIngest reads at the moment at which the new rows are there
// and the store does not know of them: no read is answered by rows that do not
// have it all.
func TestReadersBesideAnIngest(t *testing.T) {
	for _, deferred := range []bool{true, false} {
		t.Run(fmt.Sprintf("deferred=%t", deferred), func(t *testing.T) {
			mem := engine.NewMem()
			var during func()
			fs := engine.WrapFaulty(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				// Pebble removes the files when it has taken them.
				if op.Kind == errorfs.OpRemove && strings.HasPrefix(op.Path, "ingest/") && during != nil {
					work := during
					during = nil
					work()
				}
				return nil
			}))
			db, err := openDB(fs)
			require.NoError(t, err)
			s := openStore(t, db, 1)
			if deferred {
				s.DeferCompactions()
			}
			to, from := &script{db: db, store: s}, newScript(t)
			states := map[int64]string{1: ""}
			kvs := map[string]string{}
			for i := range 40 {
				key, value := fmt.Sprint("key", i%7), fmt.Sprint(i)
				line := "put " + key + " " + value
				if i%5 == 4 {
					line = "del " + key
					delete(kvs, key)
				} else {
					kvs[key] = value
				}
				from.apply([]string{line})
				states[int64(i+2)] = render(kvs)
				if i < 25 {
					to.apply([]string{line})
				}
			}
			old := s.Revision()
			from.apply([]string{"compact 33"})
			from.scrub(3, 4)
			require.Equal(t, "more pending", strings.Split(from.scrub(3, 1), ", ")[2])
			scrubbed := from.store.Scrubbed()
			require.Greater(t, scrubbed, int64(3))
			require.Less(t, scrubbed, old)

			r := readers{store: s}
			read := func(newest int64, least int64) {
				for rev := int64(1); rev <= newest; rev++ {
					kvs, err := r.at(rev)
					if rev < least {
						require.ErrorIs(t, err, mvcc.ErrCompacted, "at %d", rev)
						err = s.Changes(t.Context(), mvcc.Span{}, rev, newest, func(*mvccpb.Event) error { return nil })
						require.ErrorIs(t, err, mvcc.ErrCompacted)
						continue
					}
					require.NoError(t, err)
					require.Equal(t, states[rev], render(kvs), "at %d", rev)
					var revs []int64
					err = s.Changes(t.Context(), mvcc.Span{}, rev+1, newest, func(e *mvccpb.Event) error {
						revs = append(revs, e.Kv.ModRevision)
						return nil
					})
					require.NoError(t, err)
					require.Len(t, revs, int(newest-rev))
				}
			}
			read(old, 0)
			during = func() {
				// The rows are the new ones already.
				kv, err := s.Latest([]byte("key0"))
				require.NoError(t, err)
				require.EqualValues(t, 37, kv.ModRevision)
				require.Equal(t, old, s.Revision())
				read(old, scrubbed)
				require.True(t, s.Scrubbing(), "a scrub could begin")
			}
			ingest(t, db, fs, s, 1, 300, chunks(t, from.store, 200))
			require.Nil(t, during, "nobody looked")
			least := scrubbed
			if !deferred {
				least = 33
			}
			require.Equal(t, least, s.Compacted())
			require.EqualValues(t, 41, s.Revision())
			read(41, least)
			s.Compact(33)
			require.NoError(t, s.Scrub(100, func() bool { return true }))
			from.scrub(100, -1)
			sameRows(t, dump(t, from.db, 1), dump(t, db, 1))
			require.NoError(t, db.Close())
		})
	}
}

// TestScrubBesideAnIngest: a scrub that is under way does not go on with what it
// knows of the old rows.
func TestScrubBesideAnIngest(t *testing.T) {
	s, from := newScript(t), newScript(t)
	var lines []string
	for i := range 30 {
		lines = append(lines, fmt.Sprintf("put a%d %d", i%3, i))
	}
	s.apply(append(slices.Clone(lines[:20]), "compact 15"))
	from.apply(append(slices.Clone(lines[:20]), "compact 15"))
	from.apply(append(slices.Clone(lines[20:]), "compact 25"))
	from.scrub(100, -1)
	steps := 0
	require.NoError(t, s.store.Scrub(1, func() bool {
		if steps++; steps == 3 {
			ingest(t, s.db, s.fs, s.store, 1, 1<<20, chunks(t, from.store, 1000))
		}
		return true
	}))
	sameRows(t, dump(t, from.db, 1), dump(t, s.db, 1))
	require.EqualValues(t, 25, s.store.Scrubbed())
	require.Equal(t, 3, steps)
}

// TestOldIngestsAreRemoved: what a crash leaves is removed, and two ingests of a
// group do not get into each other's way.
func TestOldIngestsAreRemoved(t *testing.T) {
	from := newScript(t)
	fill(t, from.store, rand.New(rand.NewPCG(3, 0)), 25)
	s := newScript(t)
	require.NoError(t, mvcc.RemoveIngests(s.fs, "ingest"), "there is none")
	require.NoError(t, s.fs.MkdirAll("ingest/other", 0o700))
	var ins []*mvcc.Ingest
	for range 3 {
		in, err := mvcc.NewIngest(s.db, s.fs, "ingest", 1)
		require.NoError(t, err)
		in.SetTableBytes(200)
		ins = append(ins, in)
	}
	for _, c := range chunks(t, from.store, 300) {
		for _, in := range ins {
			require.NoError(t, in.Add(c))
		}
	}
	ins[1].Drop()
	require.NoError(t, ins[0].Commit(t.Context(), s.store))
	sameRows(t, dump(t, from.db, 1), dump(t, s.db, 1))
	left, err := s.fs.List("ingest")
	require.NoError(t, err)
	require.Len(t, left, 1+2)
	require.NoError(t, mvcc.RemoveIngests(s.fs, "ingest"))
	left, err = s.fs.List("ingest")
	require.NoError(t, err)
	require.Equal(t, []string{"other"}, left)
	s.checkLayout(t)
	ins[2].Drop()
}

// TestIngestFailsWithItsDisk: each file operation fails once. Either the state
// is as it was, or as it should be.
func TestIngestFailsWithItsDisk(t *testing.T) {
	from := newScript(t)
	fill(t, from.store, rand.New(rand.NewPCG(3, 0)), 25)
	all := chunks(t, from.store, 300)
	failed := 0
	for at := int64(1); ; at++ {
		var armed atomic.Bool
		var count atomic.Int64
		fs := engine.WrapFaulty(engine.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if armed.Load() && strings.Contains(op.Path, "ingest") && count.Add(1) == at {
				return errors.New("the disk says no")
			}
			return nil
		}))
		db, err := openDB(fs)
		require.NoError(t, err)
		s := openStore(t, db, 1)
		fill(t, s, rand.New(rand.NewPCG(5, 0)), 10)
		old := dump(t, db, 1)
		armed.Store(true)
		err = func() error {
			in, err := mvcc.NewIngest(db, fs, "ingest", 1)
			if err != nil {
				return err
			}
			defer in.Drop()
			in.SetTableBytes(500)
			for _, c := range all {
				if err := in.Add(c); err != nil {
					return err
				}
			}
			return in.Commit(t.Context(), s)
		}()
		armed.Store(false)
		done := count.Load() < at
		if err != nil {
			failed++
			require.ErrorContains(t, err, "the disk says no")
			sameRows(t, old, dump(t, db, 1))
		} else {
			sameRows(t, dump(t, from.db, 1), dump(t, db, 1))
		}
		require.NoError(t, db.Close())
		if done {
			break
		}
	}
	require.Greater(t, failed, 20)
}

// TestBigIngest sends 200 MB from one database on disk to another, and measures
// what memory that takes: it must not grow with the group.
func TestBigIngest(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 400 MB to the disk")
	}
	const total, valueSize = 200 << 20, 8 << 10
	open := func() (*engine.DB, string) {
		dir := t.TempDir()
		db, err := engine.Open(engine.Config{
			Dir: dir, CacheBytes: 8 << 20, MemTableBytes: 4 << 20,
			Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { panic(err) },
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		return db, dir
	}
	from, _ := open()
	source := openStore(t, from, 1)
	rng := rand.NewChaCha8([32]byte{1})
	value := make([]byte, valueSize)
	for i := int64(0); i < total/valueSize; i += 64 {
		b := source.NewBatch()
		e := mvcc.NewEffects(nil)
		for j := i; j < i+64; j++ {
			_, _ = rng.Read(value)
			e.Revision(j + 2)
			e.Put(0, fmt.Appendf(nil, "/registry/pods/%08d", j*7919%100000), mvcc.Head{Mod: j + 2, Create: j + 2, Version: 1}, 0, value)
		}
		require.NoError(t, b.Add(source.Applied().Index+1, 1, e.Bytes()))
		_, err := b.Commit()
		require.NoError(t, err)
	}
	to, dir := open()
	s := openStore(t, to, 1)
	fill(t, s, rand.New(rand.NewPCG(1, 0)), 100)
	require.NoError(t, from.Flush())

	debug.FreeOSMemory()
	before, most := residentBytes(t), 0
	measure := func() { most = max(most, residentBytes(t)) }
	e, err := source.Export(1 << 20)
	require.NoError(t, err)
	in, err := mvcc.NewIngest(to, engine.OSFS(), dir+"/ingest", 1)
	require.NoError(t, err)
	sent := 0
	for i := 0; ; i++ {
		c, err := e.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.LessOrEqual(t, len(c), 1<<20)
		sent += len(c)
		require.NoError(t, in.Add(c))
		if i%20 == 0 {
			measure()
		}
	}
	require.NoError(t, e.Close())
	require.NoError(t, in.Finish())
	files, err := engine.OSFS().List(dir + "/ingest")
	require.NoError(t, err)
	require.Len(t, files, 1)
	tables, err := engine.OSFS().List(dir + "/ingest/" + files[0])
	require.NoError(t, err)
	for _, table := range tables {
		info, err := os.Stat(dir + "/ingest/" + files[0] + "/" + table)
		require.NoError(t, err)
		require.LessOrEqual(t, info.Size(), int64(64<<20))
	}
	require.NoError(t, in.Commit(t.Context(), s))
	measure()
	in.Drop()
	t.Logf("sent %d MB in %d tables; resident before %d MB, at most %d MB", sent>>20, len(tables), before>>20, most>>20)
	require.Greater(t, sent, total)
	require.Len(t, tables, 4)
	require.Less(t, most-before, 64<<20)

	want, _, _, err := source.HashKV(t.Context(), 0)
	require.NoError(t, err)
	got, _, _, err := s.HashKV(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

var residentLine = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

// residentBytes returns what memory the process has, that outside of Go's heap
// included. Garbage does not count.
func residentBytes(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	m := residentLine.FindSubmatch(status)
	require.NotNil(t, m)
	kb, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	return kb << 10
}
