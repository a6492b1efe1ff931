package engine_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// A version of a prefix, or the prefix alone if main is 0.
type version struct {
	prefix    string
	main, sub int64
}

func (v version) key() []byte {
	if v.main == 0 {
		return engine.AppendPrefix([]byte(v.prefix))
	}
	return engine.AppendVersion([]byte(v.prefix), v.main, v.sub)
}

// compare is the order that keys are to have: by prefix, the one without a
// version first, then from the newest version to the oldest.
func compare(a, b version) int {
	if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
		return c
	}
	if a.main == 0 || b.main == 0 {
		return cmp.Compare(min(a.main, 1), min(b.main, 1))
	}
	return cmp.Or(cmp.Compare(b.main, a.main), cmp.Compare(b.sub, a.sub))
}

// odd are prefixes that look like parts of other keys.
var odd = []string{
	"", "\x00", "\x00\x00", "a", "a\x00", "a\x00\x00", "a\x00\x00\x00\x00\x00\x00\x00\x00\x01\x09",
	"a\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x0d", "a\x01", "a\t", "a\r", "aa", "b", "\x09", "\x0d", "\xff", "\xff\xff",
}

var (
	mains = []int64{1, 2, 255, 256, 1 << 32, math.MaxInt64}
	subs  = []int64{0, 1, 256, 1<<32 - 1}
)

func oddVersions() []version {
	var all []version
	for _, p := range odd {
		all = append(all, version{p, 0, 0})
		for _, m := range mains {
			for _, s := range subs {
				all = append(all, version{p, m, s})
			}
		}
	}
	return all
}

func checkOrder(t *testing.T, a, b version) {
	t.Helper()
	ka, kb := a.key(), b.key()
	require.Equal(t, compare(a, b), sign(engine.Compare(ka, kb)), "%+v (%x) and %+v (%x)", a, ka, b, kb)
}

func sign(n int) int { return cmp.Compare(n, 0) }

func TestKeyOrder(t *testing.T) {
	all := oddVersions()
	for _, a := range all {
		for _, b := range all {
			if compare(a, b) != sign(engine.Compare(a.key(), b.key())) {
				checkOrder(t, a, b)
			}
		}
	}
}

func FuzzKeyOrder(f *testing.F) {
	f.Add("a", uint64(1), uint32(0), "a\x00", uint64(1), uint32(0))
	f.Add("a", uint64(1), uint32(0), "a", uint64(1), uint32(1))
	f.Add("a", uint64(0), uint32(0), "a", uint64(1), uint32(1))
	f.Add("a\x00", uint64(1<<40), uint32(7), "a\x00\x00\x01", uint64(2), uint32(0))
	f.Fuzz(func(t *testing.T, p string, pm uint64, ps uint32, q string, qm uint64, qs uint32) {
		const top = uint64(math.MaxInt64)
		checkOrder(t, version{p, int64(pm & top), int64(ps)}, version{q, int64(qm & top), int64(qs)})
	})
}

func TestSplitVersion(t *testing.T) {
	for _, v := range oddVersions() {
		prefix, main, sub, err := engine.SplitVersion(v.key())
		if v.main == 0 {
			require.Error(t, err, "%x", v.key())
			continue
		}
		require.NoError(t, err)
		require.Equal(t, version{string(prefix), main, sub}, v)
		require.LessOrEqual(t, len(v.key()), len(v.prefix)+engine.MaxSuffix)
	}
	// The greatest number of bytes is that of a key.
	require.Len(t, version{"abc", 1, 1}.key(), 3+engine.MaxSuffix)
}

// FuzzSplitVersion takes any bytes apart: they are refused, or are the key of
// what came out.
func FuzzSplitVersion(f *testing.F) {
	for _, key := range []string{"", "\x00", "\x09", "\x0d", "123456789\x09", "12345678\x09", "1234567890123\x0d", "a\x00\x00\x00\x00\x00\x00\x00\x00\x01\x09"} {
		f.Add([]byte(key))
	}
	f.Fuzz(func(t *testing.T, key []byte) {
		prefix, main, sub, err := engine.SplitVersion(key)
		if err != nil {
			return
		}
		n := len(prefix)
		require.Equal(t, key[:n], prefix)
		if sub == 0 && len(key)-n == 14 {
			return // a sub revision of 0 that is written out: never made by us
		}
		again := engine.AppendVersion(bytes.Clone(prefix), main, sub)
		again[n] = key[n] // what closes the prefix is 0 in every key of ours
		require.Equal(t, key, again)
	})
}

// TestWalk reads versions back from a database, in memory and from files.
func TestWalk(t *testing.T) {
	db := open(t, engine.NewMem(), false)
	// No key of ours has an empty prefix, and Pebble's files would not take it.
	all := slices.DeleteFunc(oddVersions(), func(v version) bool { return v.prefix == "" })
	rng := rand.New(rand.NewPCG(1, 2))
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i, v := range all {
		require.NoError(t, db.Set(v.key(), binary.BigEndian.AppendUint32(nil, uint32(i)), engine.NoSync))
		if i == len(all)/2 {
			require.NoError(t, db.Flush())
		}
	}
	sorted := slices.SortedFunc(slices.Values(all), compare)
	it, err := db.NewIter(nil)
	require.NoError(t, err)

	// Forwards, and from each key on.
	var got []string
	for ok := it.First(); ok; ok = it.Next() {
		got = append(got, string(it.Key()))
	}
	var want []string
	for _, v := range sorted {
		want = append(want, string(v.key()))
	}
	require.Equal(t, want, got)
	for _, v := range sorted {
		require.True(t, it.SeekGE(v.key()))
		require.Equal(t, v.key(), it.Key())
		require.True(t, it.SeekPrefixGE(v.key()))
		require.Equal(t, v.key(), it.Key())
	}

	// NextPrefix goes over the versions of a prefix.
	prefixes := slices.Sorted(slices.Values(odd))[1:]
	i := 0
	for ok := it.First(); ok; ok = it.NextPrefix() {
		require.Equal(t, version{prefixes[i], 0, 0}.key(), it.Key())
		i++
	}
	require.Len(t, prefixes, i)
	require.NoError(t, it.Close())
}

func open(t *testing.T, fs engine.FS, log bool) *engine.DB {
	t.Helper()
	db, err := engine.Open(config(fs, log))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func config(fs engine.FS, log bool) engine.Config {
	return engine.Config{
		Dir: "db", FS: fs, Log: log, CacheBytes: 1 << 20, MemTableBytes: 64 << 10,
		Logger: slog.New(slog.DiscardHandler),
		Fatal:  func(err error) { panic(err) },
	}
}
