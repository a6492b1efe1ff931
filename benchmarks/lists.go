//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/benchmarks/fill"
	"github.com/pebbledash/pebbledash/benchmarks/listing"
	"github.com/pebbledash/pebbledash/benchmarks/openloop"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

const (
	listed = "/registry/pods/"
	// listWrites is how many puts a second go on beside a list.
	listWrites = 200
	// listsAtOnce is how many lists there are together.
	listsAtOnce = 4
	// listRepeats is how often a list is made at most.
	listRepeats = 5
)

// The columns of lists.
var (
	listMs    = &metric{"list ms"}
	firstMs   = &metric{"first answer ms"}
	listPut99 = &metric{"put p99 ms"}

	listSheet = sheet{
		"lists", "lists of all objects of a resource, of so many bytes each, on a server that was just started",
		"objects, how",
		[]*metric{listMs, firstMs, perKey, aboveMiB, listPut99},
	}
)

// listSet is what is listed.
type listSet struct{ keys, bytes int }

func (s listSet) name() string { return fmt.Sprintf("%s × %d KiB", count(s.keys), s.bytes>>10) }

// count writes thousands and millions shortly.
func count(n int) string {
	switch {
	case n >= 1_000_000 && n%100_000 == 0:
		return fmt.Sprintf("%gM", float64(n)/1_000_000)
	case n >= 1000 && n%100 == 0:
		return fmt.Sprintf("%gk", float64(n)/1000)
	}
	return fmt.Sprint(n)
}

func listSets(most int) []listSet {
	sets := []listSet{{1000, 1 << 10}, {10_000, 1 << 10}, {100_000, 1 << 10}, {1000, 15 << 10}, {10_000, 15 << 10}}
	return slices.DeleteFunc(sets, func(s listSet) bool { return s.keys > most })
}

// runLists has a server of its own for each set, and starts that again for each way to
// list: what is above idle is not what another list has left behind.
func runLists(ctx context.Context, t *turn) error {
	for _, set := range listSets(t.keys) {
		if err := runListSet(ctx, t, set); err != nil {
			return fmt.Errorf("%s: %w", set.name(), err)
		}
	}
	return nil
}

func runListSet(ctx context.Context, t *turn, set listSet) (err error) {
	server, stop, err := t.start(ctx, t.roomy())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	l := lister{t: t, set: set, server: server}
	err = fill.Run(ctx, fill.Config{Address: server[0].Address, To: set.keys, Key: l.key, ValueBytes: set.bytes, Progress: t.progress})
	if err != nil {
		return err
	}
	for _, how := range listing.Methods {
		if err := errors.Join(server.Stop(), server[0].Restart(ctx)); err != nil {
			return err
		}
		if l.idle, err = settled(server, settleTimeout); err != nil {
			return err
		}
		for _, c := range []struct {
			suffix       string
			atOnce, rate int
		}{{"", 1, 0}, {", beside puts", 1, listWrites}, {fmt.Sprintf(", %d at once", listsAtOnce), listsAtOnce, 0}} {
			one, err := l.run(ctx, how, c.atOnce, c.rate)
			if err != nil {
				return fmt.Errorf("%s%s: %w", how, c.suffix, err)
			}
			t.add(listSheet, fmt.Sprintf("%s, %s%s", set.name(), how, c.suffix), one)
		}
	}
	return nil
}

// lister lists one set.
type lister struct {
	t      *turn
	set    listSet
	server process.Cluster
	// idle is what is resident without any list.
	idle int64
}

func (l *lister) key(i int) []byte {
	return fmt.Appendf(nil, "%snamespace-%02d/pod-%08d", listed, i%50, i)
}

// run lists so many times at once, again and again for a while, beside so many puts a
// second.
func (l *lister) run(ctx context.Context, how listing.Method, atOnce, rate int) (sample, error) {
	conn, err := process.Dial(l.server[0].Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := l.server.ResetPeak(); err != nil {
		return nil, err
	}
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	puts := openloop.NewRecorder(time.Now(), time.Now().Add(time.Hour))
	wrote := make(chan error, 1)
	go func() {
		w := openloop.Puts{KV: pb.NewKVClient(conn), Rate: float64(rate), Keys: l.set.keys, Key: l.key, ValueBytes: l.set.bytes}
		wrote <- w.RunUntil(writing, time.Now(), puts)
	}()
	var took, first []time.Duration
	keys := 0
	usage, _, err := used(l.server, func() error {
		for began := time.Now(); len(took) == 0 || time.Since(began) < l.t.measure && len(took) < listRepeats*atOnce; {
			results, errs := make([]listing.Result, atOnce), make(chan error, atOnce)
			for i := range atOnce {
				go func() {
					own, err := process.Dial(l.server[0].Address)
					if err == nil {
						results[i], err = listing.List(ctx, own, how, listed)
						err = errors.Join(err, own.Close())
					}
					errs <- err
				}()
			}
			var failed error
			for range atOnce {
				failed = errors.Join(failed, <-errs)
			}
			if failed != nil {
				return failed
			}
			for _, r := range results {
				if r.Keys != l.set.keys {
					return fmt.Errorf("a list of %d keys has %d", l.set.keys, r.Keys)
				}
				took, first, keys = append(took, r.Took), append(first, r.First), keys+r.Keys
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	stopWriting()
	if err := <-wrote; err != nil {
		return nil, err
	}
	peak, err := l.server.PeakBytes()
	if err != nil {
		return nil, err
	}
	slices.Sort(took)
	slices.Sort(first)
	return sample{
		listMs: milliseconds(took, 0.5), firstMs: milliseconds(first, 0.5), perKey: per(usage.CPU, keys),
		aboveMiB: mib(peak - l.idle), listPut99: milliseconds(puts.Latencies(), 0.99),
	}, nil
}
