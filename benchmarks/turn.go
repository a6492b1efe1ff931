//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/openloop"
	"github.com/pebbledash/pebbledash/benchmarks/process"
	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

// turn is one server's: its number, who it is, and where it goes with what it has
// measured.
type turn struct {
	*plan
	book        *book
	number, who int
	// dir is for its data; it does not exist yet.
	dir      string
	progress io.Writer

	starts int // how often it has started a server
}

func (t *turn) peer() peer { return t.peers[t.who] }

func (t *turn) add(s sheet, row string, one sample) { t.book.add(s, row, t.who, one) }

// start starts the server on an empty directory, with further arguments; stop stops it
// and removes that.
func (t *turn) start(ctx context.Context, more ...string) (server process.Cluster, stop func() error, err error) {
	t.starts++
	dir := filepath.Join(t.dir, fmt.Sprint(t.starts))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	args := slices.Concat(more, t.peer().args)
	if t.profiles != "" {
		args = append([]string{"--enable-pprof"}, args...)
	}
	server, err = process.Start(ctx, t.peer().binary, dir, t.members, args...)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return server, func() error { return errors.Join(server.Stop(), os.RemoveAll(dir)) }, nil
}

// roomy lets a server hold what etcd holds at most by its own advice, 8 GiB, or, of one
// that has no such limit, anything.
func (t *turn) roomy() string {
	if process.IsEtcd(t.peer().binary) {
		return "--quota-backend-bytes=8589934592"
	}
	return "--quota-backend-bytes=-1"
}

// settleTimeout bounds the wait for a server to finish what it has put off.
const settleTimeout = 10 * time.Second

// settle waits until the server is idle, if that is soon.
func settle(server process.Cluster, within time.Duration) (process.Usage, error) {
	const interval, idle = 250 * time.Millisecond, 0.04
	for end := time.Now().Add(within); ; {
		before, err := server.Usage()
		if err != nil {
			return process.Usage{}, err
		}
		time.Sleep(interval)
		after, err := server.Usage()
		if err != nil {
			return process.Usage{}, err
		}
		if (after.CPU-before.CPU).Seconds() < idle*interval.Seconds() || time.Now().After(end) {
			return after, nil
		}
	}
}

// settled is what is resident when the server is idle, from where its peak counts anew.
func settled(server process.Cluster, within time.Duration) (int64, error) {
	if _, err := settle(server, within); err != nil {
		return 0, err
	}
	if err := server.ResetPeak(); err != nil {
		return 0, err
	}
	return server.RSSBytes()
}

// settledOnDisk is what the server has used once it is idle, and the space it takes.
func settledOnDisk(server process.Cluster) (process.Usage, int64, error) {
	usage, err := settle(server, settleTimeout)
	if err != nil {
		return process.Usage{}, 0, err
	}
	space, err := server.DiskBytes()
	return usage, space, err
}

// peakAndIdle is what was resident at most until now, and what is once the server is
// idle.
func peakAndIdle(server process.Cluster) (peak, idle int64, err error) {
	if peak, err = server.PeakBytes(); err != nil {
		return 0, 0, err
	}
	idle, err = settled(server, settleTimeout)
	return peak, idle, err
}

// restTime is for how long a server has nothing to do before its memory counts as idle:
// what a busy time has left it may give back later.
const restTime = 30 * time.Second

// peakAndRest is peakAndIdle after restTime.
func peakAndRest(ctx context.Context, server process.Cluster) (peak, idle int64, err error) {
	if peak, _, err = peakAndIdle(server); err != nil {
		return 0, 0, err
	}
	if err := openloop.Sleep(ctx, restTime); err != nil {
		return 0, 0, err
	}
	_, idle, err = peakAndIdle(server)
	return peak, idle, err
}

// used calls do, and returns what the server has used meanwhile, and how long it took.
func used(server process.Cluster, do func() error) (process.Usage, time.Duration, error) {
	before, err := server.Usage()
	if err != nil {
		return process.Usage{}, 0, err
	}
	began := time.Now()
	if err := do(); err != nil {
		return process.Usage{}, 0, err
	}
	took := time.Since(began)
	after, err := server.Usage()
	return after.Since(before), took, err
}

// milliseconds is a quantile, NaN of none.
func milliseconds(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return stats.Quantile(sorted, q).Seconds() * 1000
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// per divides a time by a number of things, in microseconds.
func per(cpu time.Duration, n int) float64 { return cpu.Seconds() * 1e6 / float64(max(n, 1)) }
