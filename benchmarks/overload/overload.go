//go:build linux

// Package overload has the clients of the overload benchmark: the nodes, whose
// leases must be renewed in time whatever else goes on, and those who are in their
// way. Each kind is a process of its own, so that a node's answer does not wait for
// the generator of the storm.
package overload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/benchmarks/openloop"
	"github.com/pebbledash/pebbledash/benchmarks/process"
	"github.com/pebbledash/pebbledash/benchmarks/raw"
	"github.com/pebbledash/pebbledash/benchmarks/requests"
)

const (
	// nodes renew their leases every period: fifty renewals a second. Kubernetes'
	// nodes take ten seconds; the figures of a percentile need more of them.
	nodes      = 100
	period     = 2 * time.Second
	leaseBytes = 512
	// nodesNice has the nodes' process run when it wants to. The others run only
	// while neither it nor the server wants to (idle): in a cluster they all have
	// machines of their own.
	nodesNice = -10

	// writers create events, each as soon as the last one is there: ten times as
	// many at once as a kube-apiserver's default limit lets through.
	writers      = 2000
	writersConns = 20
	eventBytes   = 1 << 10
	// backoff is how long a writer waits on average that was told to come later.
	backoff = 100 * time.Millisecond

	// lists read all pods at once, again and again.
	lists    = 10
	pods     = 10_000
	podBytes = 2 << 10
)

// Report is what a process has seen.
type Report struct {
	// Latencies are those of the renewals, sorted; nothing of the others.
	Latencies []time.Duration `json:",omitempty"`
	// Done are requests that were answered, Refused those told to come later.
	Done, Refused int64
	// Bytes were received by lists.
	Bytes int64 `json:",omitempty"`
	// Priority is what the process has.
	Priority string
}

// The kinds of clients.
const (
	Nodes = "nodes"
	Storm = "storm"
	Lists = "lists"
)

// Main is a client process: args are its kind, the address, and how long it warms
// up and measures. It writes a Report.
func Main(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 4 {
		return errors.New("want: kind address warmup measure")
	}
	warmup, err1 := time.ParseDuration(args[2])
	measure, err2 := time.ParseDuration(args[3])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	run, ok := map[string]func(context.Context, *client) error{Nodes: renew, Storm: storm, Lists: list}[args[0]]
	if !ok {
		return fmt.Errorf("there are no clients of kind %q", args[0])
	}
	c := &client{address: args[1]}
	c.report.Priority = "normal"
	if args[0] == Nodes {
		if err := syscall.Setpriority(syscall.PRIO_PGRP, 0, nodesNice); err == nil {
			c.report.Priority = "nice " + strconv.Itoa(nodesNice)
		}
	} else if err := idle(); err != nil {
		return err
	} else {
		c.report.Priority = "idle"
	}
	begin := time.Now()
	c.from, c.to = begin.Add(warmup), begin.Add(warmup+measure)
	ctx, cancel := context.WithDeadline(ctx, c.to.Add(30*time.Second))
	defer cancel()
	if err := run(ctx, c); err != nil {
		return err
	}
	slices.Sort(c.report.Latencies)
	c.report.Done, c.report.Refused, c.report.Bytes = c.done.Load(), c.refused.Load(), c.bytes.Load()
	return json.NewEncoder(out).Encode(&c.report)
}

// idle has all threads run only when no other process wants to. Those to come are
// like the ones that start them.
func idle() error {
	for range 2 { // Some may have been started while we looked.
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			err = unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}

// client is one process's clients.
type client struct {
	address string
	// from and to are when it is measured.
	from, to time.Time

	done, refused, bytes atomic.Int64
	// mu guards report.Latencies.
	mu     sync.Mutex
	report Report
}

// answered counts an answer; an error that is not a refusal is returned.
func (c *client) answered(err error, began time.Time) error {
	counts := !began.Before(c.from) && began.Before(c.to)
	switch {
	case status.Code(err) == codes.ResourceExhausted:
		if counts {
			c.refused.Add(1)
		}
		return nil
	case err == nil && counts:
		c.done.Add(1)
	}
	return err
}

// together runs n and returns the first error.
func together(n int, run func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- run(i) }()
	}
	for range n {
		if err := <-errs; err != nil {
			return err // The process ends; so do the others.
		}
	}
	return nil
}

func value(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// renew is the nodes: one transaction a period each, as kube-apiserver sends it.
func renew(ctx context.Context, c *client) error {
	conn, err := process.Dial(c.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	return together(nodes, func(i int) error {
		key := fmt.Appendf(nil, "/registry/leases/kube-node-lease/node-%03d", i)
		r, err := kv.Range(ctx, &pb.RangeRequest{Key: key, Limit: 1})
		if err != nil {
			return err
		}
		var mod int64
		if len(r.Kvs) > 0 {
			mod = r.Kvs[0].ModRevision
		}
		lease := value(leaseBytes)
		next := time.Now().Add(period * time.Duration(i) / nodes)
		for next.Before(c.to) {
			if err := openloop.Until(ctx, next); err != nil {
				return err
			}
			began := time.Now()
			t, err := kv.Txn(ctx, requests.Update(key, mod, lease, 0))
			took := time.Since(began)
			switch {
			case err == nil && !t.Succeeded:
				return fmt.Errorf("%s was written by somebody else", key)
			case err == nil:
				mod = t.Header.Revision
			}
			if err := c.answered(err, began); err != nil {
				return err
			}
			if !began.Before(c.from) {
				c.mu.Lock()
				c.report.Latencies = append(c.report.Latencies, took)
				c.mu.Unlock()
			}
			next = next.Add(period)
		}
		return nil
	})
}

// storm is the writers of events. To connect can take them long: they wait for it.
func storm(ctx context.Context, c *client) error {
	conns, err := dial(c.address, writersConns)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	event := value(eventBytes + writers)
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	return together(writers, func(i int) error {
		kv := pb.NewKVClient(conns[i%len(conns)])
		for n := 0; time.Now().Before(c.to); n++ {
			began := time.Now()
			key := fmt.Appendf(nil, "/registry/events/default/%s.%04d.%d", run, i, n)
			_, err := kv.Txn(ctx, requests.Update(key, 0, event[i:i+eventBytes], 0), grpc.WaitForReady(true))
			if err := c.answered(err, began); err != nil {
				return err
			}
			if err != nil { // It was refused.
				if err := openloop.Until(ctx, time.Now().Add(time.Duration(rand.Int64N(int64(2*backoff))))); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// list reads all pods, over a connection for each that reads.
func list(ctx context.Context, c *client) error {
	conns, err := dial(c.address, lists)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	return together(lists, func(i int) error {
		for time.Now().Before(c.to) {
			began := time.Now()
			var m raw.Message
			err := conns[i].Invoke(ctx, pb.KV_Range_FullMethodName, allPods(), &m, raw.Option(),
				grpc.MaxCallRecvMsgSize(1<<30), grpc.WaitForReady(true))
			got := m.Size()
			m.Free()
			if err := c.answered(err, began); err != nil {
				return err
			}
			if !began.Before(c.from) {
				c.bytes.Add(int64(got))
			}
			if err != nil {
				if err := openloop.Until(ctx, time.Now().Add(backoff)); err != nil {
					return err
				}
			} else if got < pods*podBytes {
				return fmt.Errorf("a list of all pods has %d bytes", got)
			}
		}
		return nil
	})
}

func allPods() *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte("/registry/pods/"), RangeEnd: []byte("/registry/pods0")}
}

func dial(address string, n int) ([]*grpc.ClientConn, error) {
	var conns []*grpc.ClientConn
	for range n {
		conn, err := process.Dial(address)
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func closeAll(conns []*grpc.ClientConn) {
	for _, conn := range conns {
		_ = conn.Close() // Nothing is under way on it.
	}
}

// Prepare puts what lists read.
func Prepare(ctx context.Context, address string) error {
	conn, err := process.Dial(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	const at = 64
	return together(at, func(i int) error {
		for n := i; n < pods; n += at {
			key := fmt.Appendf(nil, "/registry/pods/default/pod-%06d", n)
			if _, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: value(podBytes)}); err != nil {
				return err
			}
		}
		return nil
	})
}
