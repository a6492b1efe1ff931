package mix

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/benchmarks/documents"
	"github.com/pebbledash/pebbledash/benchmarks/fill"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// The resources that are written.
const (
	leases = "leases"
	pods   = "pods"
	events = "events"
	nodes  = "nodes"
)

// quietResources is how many others there are, which are watched and never change.
const quietResources = 61

// resource is one of Kubernetes', with a connection of its own as kube-apiserver has.
type resource struct {
	name string
	conn *grpc.ClientConn
	kv   pb.KVClient
	// objects are there from the beginning.
	objects []*object
	// made is how many more there have been.
	made atomic.Int64
}

// object is one that is written again and again.
type object struct {
	key []byte
	mu  sync.Mutex // guards what follows, while a request is under way
	// mod is its revision, version how often it was written.
	mod     int64
	version int
}

func (r *resource) prefix() string { return "/registry/" + r.name + "/" }

// key is that of object i, as it was put in the beginning.
func (r *resource) key(i int) []byte { return fmt.Appendf(nil, "%snamespace/%08d", r.prefix(), i) }

// newKey is a key that there has not been before.
func (r *resource) newKey() []byte {
	return fmt.Appendf(nil, "%smade/%08d", r.prefix(), r.made.Add(1))
}

// dial connects to a resource's server.
func (r *resource) dial(address string) (err error) {
	if r.conn, err = process.Dial(address); err == nil {
		r.kv = pb.NewKVClient(r.conn)
	}
	return err
}

// populate puts n objects and learns their revisions.
func (r *resource) populate(ctx context.Context, address string, n int, value func(i int) []byte) error {
	err := fill.Run(ctx, fill.Config{Address: address, To: n, Key: r.key, Value: value, ValueBytes: len(value(0))})
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	const page = 5000
	for from := r.key(0); len(r.objects) < n; {
		answer, err := r.kv.Range(ctx, &pb.RangeRequest{Key: from, RangeEnd: r.key(n), KeysOnly: true, Limit: page})
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		if len(answer.Kvs) == 0 {
			return fmt.Errorf("there are %d %s, and not %d", len(r.objects), r.name, n)
		}
		for _, kv := range answer.Kvs {
			r.objects = append(r.objects, &object{key: kv.Key, mod: kv.ModRevision})
			from = append(kv.Key[:len(kv.Key):len(kv.Key)], 0)
		}
	}
	return nil
}

// population is what there is in the beginning.
func (r *run) population() []struct {
	name  string
	n     int
	value func(i int) []byte
} {
	allPods := r.cfg.Nodes * r.cfg.PodsPerNode
	return []struct {
		name  string
		n     int
		value func(i int) []byte
	}{
		{leases, r.cfg.Nodes, func(i int) []byte { return documents.Lease(i, 0) }},
		{nodes, r.cfg.Nodes, func(i int) []byte { return documents.Node(i, 0) }},
		{pods, allPods, func(i int) []byte { return documents.Pod(i, 0, documents.PodBytes) }},
		{events, allPods, documents.Event},
	}
}
