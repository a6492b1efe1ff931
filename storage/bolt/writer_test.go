package bolt_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/pebbledash/pebbledash/storage/bolt"
)

var seedFlag = flag.Uint64("seed", 0, "replay the contents of this seed; 0 is new ones in every run")

type row struct{ key, value []byte }

type bucket struct {
	name string
	rows []row
}

func fillWith(buckets []bucket) func(*bolt.Writer) error {
	return func(w *bolt.Writer) error {
		for _, b := range buckets {
			if err := w.Bucket(b.name); err != nil {
				return err
			}
			for _, r := range b.rows {
				if err := w.Set(r.key, r.value); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// write writes a file, with some bytes behind it as a snapshot has them.
func write(t *testing.T, fill func(*bolt.Writer) error) string {
	t.Helper()
	layout, err := bolt.Plan(fill)
	require.NoError(t, err)
	return writePlanned(t, layout, fill)
}

func writePlanned(t *testing.T, layout bolt.Layout, fill func(*bolt.Writer) error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	require.NoError(t, bolt.Write(f, layout, fill))
	at, err := f.Seek(0, io.SeekCurrent)
	require.NoError(t, err)
	require.Equal(t, layout.Size(), at)
	_, err = f.Write(make([]byte, 32))
	require.NoError(t, err)
	require.NoError(t, bolt.Check(f, at+32))
	require.ErrorContains(t, bolt.Check(f, at-1), "cut short")
	require.NoError(t, f.Close())
	return path
}

func open(t *testing.T, path string, readOnly bool) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: readOnly, PreLoadFreelist: true, NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func checkFile(t *testing.T, db *bbolt.DB) {
	t.Helper()
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		return nil
	}))
}

func same(t *testing.T, db *bbolt.DB, buckets []bucket) {
	t.Helper()
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		i := 0
		require.NoError(t, tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			want := buckets[i]
			i++
			require.Equal(t, want.name, string(name))
			n := 0
			require.NoError(t, b.ForEach(func(k, v []byte) error {
				if !bytes.Equal(k, want.rows[n].key) || !bytes.Equal(v, want.rows[n].value) {
					t.Fatalf("bucket %s, row %d: %x = %d bytes", name, n, k, len(v))
				}
				require.Equal(t, v, b.Get(k))
				n++
				return nil
			}))
			require.Len(t, want.rows, n)
			return nil
		}))
		require.Len(t, buckets, i)
		return nil
	}))
}

// random returns buckets of rows; keys of some are so long that a branch has room
// for one or none.
func random(rng *rand.Rand) []bucket {
	var buckets []bucket
	for i := range rng.IntN(6) {
		b := bucket{name: fmt.Sprintf("b%d", i)}
		rows := rng.IntN([]int{1, 4, 300, 3000}[rng.IntN(4)])
		long := rng.IntN(4) == 0
		sizes := []int{1, 40, 500, 5000, 100_000}
		most := rng.IntN(len(sizes))
		for n := range rows {
			key := fmt.Appendf(nil, "%08d", n)
			if long && rng.IntN(2) == 0 {
				key = append(key, bytes.Repeat([]byte("k"), rng.IntN(9000))...)
			}
			size := rng.IntN(sizes[rng.IntN(most+1)])
			b.rows = append(b.rows, row{key, bytes.Repeat([]byte{byte(n)}, size)})
			if n > 500 && most == len(sizes)-1 {
				break
			}
		}
		buckets = append(buckets, b)
	}
	return buckets
}

func TestRandom(t *testing.T) {
	seeds := 60
	first := rand.Uint64()
	if *seedFlag != 0 {
		first, seeds = *seedFlag, 1
	}
	for i := range seeds {
		seed := first + uint64(i)
		t.Run("", func(t *testing.T) {
			t.Logf("go test ./storage/bolt -run TestRandom -seed=%d", seed)
			buckets := random(rand.New(rand.NewPCG(seed, 1)))
			path := write(t, fillWith(buckets))
			db := open(t, path, true)
			checkFile(t, db)
			same(t, db, buckets)
		})
	}
}

// TestGoOn deletes and writes in a file with bbolt, as an etcd that was restored
// from it does.
func TestGoOn(t *testing.T) {
	// A page has 30 rows, a branch 123 pages: of 3691 to 3720 rows there is a page
	// that would be alone.
	for _, rows := range []int{1, 2, 100, 3690, 3691, 3720, 8000} {
		b := bucket{name: "key"}
		for n := range rows {
			b.rows = append(b.rows, row{fmt.Appendf(nil, "%017d", n), bytes.Repeat([]byte("v"), 100)})
		}
		buckets := []bucket{{name: "empty"}, b}
		db := open(t, write(t, fillWith(buckets)), false)
		for n := 0; n < rows; {
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
				for range 7 { // a page is not emptied at once
					if n < rows {
						// From the end: the last pages are alone first.
						require.NoError(t, tx.Bucket([]byte("key")).Delete(b.rows[rows-1-n].key))
						n++
					}
				}
				return tx.Bucket([]byte("empty")).Put([]byte("n"), fmt.Appendf(nil, "%d", n))
			}))
		}
		checkFile(t, db)
		f, err := os.Open(db.Path())
		require.NoError(t, err)
		info, err := f.Stat()
		require.NoError(t, err)
		require.NoError(t, bolt.Check(f, info.Size()), "what bbolt itself has written")
		require.NoError(t, f.Close())
	}
}

// TestBulk plans rows of which it knows no more than how many and how long they are;
// the file is sound, and not much longer than one that was planned row by row.
func TestBulk(t *testing.T) {
	seeds, first := 60, rand.Uint64()
	if *seedFlag != 0 {
		first, seeds = *seedFlag, 1
	}
	for i := range seeds {
		seed := first + uint64(i)
		t.Run("", func(t *testing.T) {
			t.Logf("go test ./storage/bolt -run TestBulk -seed=%d", seed)
			rng := rand.New(rand.NewPCG(seed, 2))
			big := bucket{name: "big"}
			var bytes int64
			size := []int{1, 100, 1200, 4000, 9000, 100_000}[rng.IntN(6)]
			for n := range rng.IntN(3000) {
				r := row{fmt.Appendf(nil, "%0*d", 17+rng.IntN(2), n*2), make([]byte, rng.IntN(size))}
				if rng.IntN(2) == 0 {
					r.value = make([]byte, size) // all the same: the worst or the best there is
				}
				big.rows = append(big.rows, r)
			}
			slices.SortFunc(big.rows, func(a, b row) int { return strings.Compare(string(a.key), string(b.key)) })
			for _, r := range big.rows {
				bytes += int64(len(r.key) + len(r.value))
			}
			buckets := []bucket{{name: "a"}, big}
			if rng.IntN(2) == 0 {
				buckets = append(buckets, random(rng)...)
				for i := range buckets[2:] {
					buckets[2+i].name = fmt.Sprint("c", i)
				}
			}
			layout, err := bolt.Plan(func(w *bolt.Writer) error {
				require.NoError(t, fillWith(buckets[:1])(w))
				require.NoError(t, w.Bucket("big"))
				require.NoError(t, w.Bulk(int64(len(big.rows)), bytes, 18))
				return fillWith(buckets[2:])(w)
			})
			require.NoError(t, err)
			exact, err := bolt.Plan(fillWith(buckets))
			require.NoError(t, err)
			require.GreaterOrEqual(t, layout.Size(), exact.Size())
			require.LessOrEqual(t, layout.Size(), exact.Size()*16/15+10*bolt.PageSize)

			db := open(t, writePlanned(t, layout, fillWith(buckets)), false)
			checkFile(t, db)
			same(t, db, buckets)
			// What is left over becomes free with the page that it continues.
			last := buckets[len(buckets)-1]
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte(last.name)).Put([]byte("zz"), []byte("1"))
			}))
			checkFile(t, db)
			if spare := (layout.Size() - exact.Size()) / bolt.PageSize; len(buckets) > 2 {
				require.GreaterOrEqual(t, int64(db.Stats().FreePageN+db.Stats().PendingPageN), spare)
			}
		})
	}
	w := func(w *bolt.Writer) error {
		_ = w.Bucket("b")
		return w.Bulk(1, 1, 10_000)
	}
	_, err := bolt.Plan(w)
	require.ErrorContains(t, err, "in bulk")
	layout, err := bolt.Plan(func(w *bolt.Writer) error {
		_ = w.Bucket("b")
		return w.Bulk(3, 3000, 17)
	})
	require.NoError(t, err)
	many := bucket{name: "b"}
	for n := range 30 {
		many.rows = append(many.rows, row{fmt.Appendf(nil, "%017d", n), make([]byte, 1000)})
	}
	require.ErrorContains(t, bolt.Write(io.Discard, layout, fillWith([]bucket{many})), "were planned")
}

func TestMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("a million rows")
	}
	const rows = 1_000_000
	fill := func(w *bolt.Writer) error {
		if err := w.Bucket("key"); err != nil {
			return err
		}
		for n := range rows {
			if err := w.Set(fmt.Appendf(nil, "%017d", n), fmt.Appendf(nil, "value %d", n)); err != nil {
				return err
			}
		}
		return nil
	}
	db := open(t, write(t, fill), true)
	checkFile(t, db)
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		n := 0
		return tx.Bucket([]byte("key")).ForEach(func(k, v []byte) error {
			if string(k) != fmt.Sprintf("%017d", n) || string(v) != fmt.Sprintf("value %d", n) {
				t.Fatalf("row %d: %s = %s", n, k, v)
			}
			n++
			return nil
		})
	}))
}

func TestRefused(t *testing.T) {
	set := func(keys ...string) func(*bolt.Writer) error {
		return func(w *bolt.Writer) error {
			if err := w.Bucket("b"); err != nil {
				return err
			}
			for _, k := range keys {
				if err := w.Set([]byte(k), nil); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, c := range []struct {
		name string
		fill func(*bolt.Writer) error
	}{
		{"no bucket", func(w *bolt.Writer) error { return w.Set([]byte("a"), nil) }},
		{"order", set("b", "a")},
		{"twice", set("a", "a")},
		{"empty", set("")},
		{"long", set(string(make([]byte, 40_000)))},
		{"buckets", func(w *bolt.Writer) error { _ = w.Bucket("b"); _ = w.Bucket("a"); return w.Bucket("c") }},
	} {
		_, err := bolt.Plan(c.fill)
		require.Error(t, err, c.name)
	}
	layout, err := bolt.Plan(set("a"))
	require.NoError(t, err)
	var rows []string
	for n := range 1000 {
		rows = append(rows, fmt.Sprintf("%04d", n))
	}
	require.ErrorContains(t, bolt.Write(io.Discard, layout, set(rows...)), "planned")
	require.ErrorContains(t, bolt.Write(io.Discard, layout, func(w *bolt.Writer) error {
		_ = w.Bucket("b")
		return w.Put([]byte("a"), 3, func(dst []byte) []byte { return append(dst, 1) })
	}), "was to have")
}
