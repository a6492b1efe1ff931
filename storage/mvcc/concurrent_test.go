package mvcc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// TestReadersBesideWritersAndScrubs reads at random revisions while a writer
// applies and compacts and a scrub deletes. What is read is what was written, or
// the read is refused because its revision was compacted; and a walk of changes
// from one revision leads to the other.
func TestReadersBesideWritersAndScrubs(t *testing.T) {
	s := newScript(t)
	r := &readers{store: s.store}
	r.note(1, "")
	var wg sync.WaitGroup
	done := make(chan struct{})
	failures := make(chan error, 8)
	beside := func(work func(*rand.Rand) error) {
		seed := rand.Uint64()
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 0))
			for {
				if err := work(rng); err != nil {
					failures <- fmt.Errorf("seed %d: %w", seed, err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	beside(r.readTwice)
	beside(r.walkChanges)
	beside(r.hashTwice)
	beside(func(rng *rand.Rand) error {
		return s.store.Scrub(1+rng.IntN(20), func() bool { return rng.IntN(20) > 0 })
	})

	rng := rand.New(rand.NewPCG(1, 0))
	live := map[string]bool{}
	for range 3000 {
		head := s.store.Revision()
		// The next state is noted before it can be read.
		line := randomTxn(rng, live)
		r.noteNext(t, head+1, line)
		require.NotContains(t, s.apply([]string{line}), "error")
		if rng.IntN(30) == 0 {
			rev := max(1, s.store.Compacted()) + 1 + rng.Int64N(40)
			if rev <= head {
				require.NotContains(t, s.apply([]string{fmt.Sprintf("compact %d", rev)}), "error")
			}
		}
	}
	close(done)
	wg.Wait()
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
	require.Positive(t, r.served.Load())
	require.NoError(t, s.store.Scrub(100, func() bool { return true }))
	s.checkLayout(t)
}

// readers know what the store must show at each revision.
type readers struct {
	store  *mvcc.Store
	states sync.Map // int64 -> string
	// kvs is the newest state, for the writer.
	kvs map[string]string
	// served counts the reads that were answered.
	served atomic.Int64
}

func (r *readers) note(rev int64, state string) { r.states.Store(rev, state) }

func (r *readers) noteNext(t *testing.T, rev int64, line string) {
	t.Helper()
	if r.kvs == nil {
		r.kvs = map[string]string{}
	}
	for part := range strings.SplitSeq(line, ";") {
		args, err := words(part)
		require.NoError(t, err)
		if args[0] == "del" {
			delete(r.kvs, args[1])
		} else {
			r.kvs[args[1]] = args[2]
		}
	}
	r.note(rev, render(r.kvs))
}

func render(kvs map[string]string) string {
	var parts []string
	for k, v := range kvs {
		parts = append(parts, fmt.Sprintf("%q=%q", k, v))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

// revision picks one that was there a moment ago.
func (r *readers) revision(rng *rand.Rand) int64 {
	head := r.store.Revision()
	return max(1, head-rng.Int64N(60))
}

func (r *readers) at(rev int64) (map[string]string, error) {
	sc, err := r.store.Scan(context.Background(), mvcc.SpanOf([]byte{0}, []byte{0}), rev)
	if err != nil {
		return nil, err
	}
	kvs := map[string]string{}
	for sc.Next() {
		kv, err := sc.KV(false)
		if err != nil {
			return nil, errors.Join(err, sc.Close())
		}
		kvs[string(kv.Key)] = string(kv.Value)
	}
	return kvs, errors.Join(sc.Err(), sc.Close())
}

// refused says whether err is right for a read at rev.
func (r *readers) refused(err error, rev int64) bool {
	return errors.Is(err, mvcc.ErrCompacted) && rev < r.store.Compacted()
}

func (r *readers) readTwice(rng *rand.Rand) error {
	rev := r.revision(rng)
	want, _ := r.states.Load(rev)
	kvs, err := r.at(rev)
	if err != nil {
		if r.refused(err, rev) {
			return nil
		}
		return err
	}
	r.served.Add(1)
	if got := render(kvs); got != want {
		return fmt.Errorf("at %d:\n%s\nis not\n%s", rev, got, want)
	}
	for _, key := range []string{"a", "a\x00", "\xff"} {
		kv, err := r.store.Get([]byte(key), rev)
		if r.refused(err, rev) {
			return nil
		}
		value, ok := kvs[key]
		if err != nil || (kv != nil) != ok || string(kv.GetValue()) != value {
			return fmt.Errorf("key %q at %d: %s, want %q (%w)", key, rev, sim.FormatKV(kv), value, err)
		}
	}
	return nil
}

func (r *readers) walkChanges(rng *rand.Rand) error {
	to := r.revision(rng)
	from := max(1, to-rng.Int64N(20))
	kvs, err := r.at(from)
	if err != nil {
		if r.refused(err, from) {
			return nil
		}
		return err
	}
	err = r.store.Changes(context.Background(), mvcc.Span{}, from+1, to, func(e *mvccpb.Event) error {
		if e.Type == mvccpb.Event_DELETE {
			delete(kvs, string(e.Kv.Key))
		} else {
			kvs[string(e.Kv.Key)] = string(e.Kv.Value)
		}
		return nil
	})
	if err != nil {
		if r.refused(err, from+1) {
			return nil
		}
		return err
	}
	r.served.Add(1)
	want, _ := r.states.Load(to)
	if got := render(kvs); got != want {
		return fmt.Errorf("from %d to %d:\n%s\nis not\n%s", from, to, got, want)
	}
	return nil
}

// hashTwice compares two hashes with the same compaction: only a scrub can have
// come between them.
func (r *readers) hashTwice(rng *rand.Rand) error {
	rev := r.revision(rng)
	var hashes [2]uint32
	var compacted [2]int64
	for i := range hashes {
		var err error
		hashes[i], _, compacted[i], err = r.store.HashKV(context.Background(), rev)
		if err != nil {
			if r.refused(err, rev) {
				return nil
			}
			return err
		}
	}
	if compacted[0] == compacted[1] && hashes[0] != hashes[1] {
		return fmt.Errorf("the hash of %d, compacted at %d, was %x and is %x", rev, compacted[0], hashes[0], hashes[1])
	}
	r.served.Add(1)
	return nil
}
