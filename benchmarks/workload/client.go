package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/benchmarks/requests"
)

// The keys. They look like Kubernetes' and lie in folders of their own, so that
// no load changes what another one uses.
const (
	// readKeys are there from the beginning, putKeys come to be.
	readKeys = 10_000
	putKeys  = 10_000
	// txnKeys are of one client each, which must know their revisions.
	txnKeys = 16

	keyDigits = 8

	// readFolder has the keys that Prepare puts.
	readFolder = "read"
)

// client sends requests one after another. It uses the same request messages
// again and again.
type client struct {
	kv     pb.KVClient
	random *rand.Rand
	values []byte // random; see value
	// keys are one a folder, the last keyDigits of which are set anew each time;
	// key is the latest.
	keys [][]byte
	key  []byte

	putRequest   pb.PutRequest
	rangeRequest pb.RangeRequest

	txnRequest *pb.TxnRequest
	compare    *pb.Compare
	expected   *pb.Compare_ModRevision
	mods       [txnKeys]int64
}

// valuesBytes is how much random data there is to cut values from.
const valuesBytes = 4 << 20

// newClient makes client number n of the load.
func newClient(ctx context.Context, l Load, conn *grpc.ClientConn, n int, values []byte) (*client, func(context.Context) error, error) {
	c := &client{kv: pb.NewKVClient(conn), random: rand.New(rand.NewPCG(uint64(n), 0)), values: values}
	folder := l.folder
	switch l.kind {
	case put:
		if folder == "" {
			folder = l.Name
		}
		c.setFolders(l, folder)
		n := cmp.Or(l.keys, putKeys)
		return c, func(ctx context.Context) error { return c.put(ctx, l.valueBytes, c.random.IntN(n)) }, nil
	case txn:
		c.setFolders(l, fmt.Sprintf("%s/%04d", l.Name, n))
		return c, func(ctx context.Context) error { return c.txn(ctx, l.valueBytes) }, c.beginTxn(ctx)
	case get, serializableGet:
		if folder == "" {
			folder = readFolder
		}
		c.setFolders(l, folder)
		c.rangeRequest.Serializable = l.kind == serializableGet
		n := cmp.Or(l.keys, readKeys)
		return c, func(ctx context.Context) error { return c.get(ctx, l.valueBytes, c.random.IntN(n)) }, nil
	}
	panic("workload: a load of no kind")
}

func (c *client) setFolders(l Load, name string) {
	c.keys = nil
	for _, root := range l.folders() {
		c.keys = append(c.keys, fmt.Appendf(nil, "%s%s/%0*d", root, name, keyDigits, 0))
	}
}

// setKey makes key the i-th of all folders, in turn.
func (c *client) setKey(i int) {
	c.key = c.keys[i%len(c.keys)]
	var digits [20]byte
	number := strconv.AppendInt(digits[:0], int64(i), 10)
	end := c.key[len(c.key)-keyDigits:]
	for j := range end {
		end[j] = '0'
	}
	copy(end[keyDigits-len(number):], number)
}

// value is random: neither server shall win by compressing zeros.
func (c *client) value(size int) []byte {
	at := c.random.IntN(len(c.values) - size)
	return c.values[at : at+size]
}

func (c *client) put(ctx context.Context, size, i int) error {
	c.setKey(i)
	c.putRequest.Key, c.putRequest.Value = c.key, c.value(size)
	_, err := c.kv.Put(ctx, &c.putRequest)
	return err
}

func (c *client) get(ctx context.Context, size, i int) error {
	c.setKey(i)
	c.rangeRequest.Key, c.rangeRequest.Limit = c.key, 1
	r, err := c.kv.Range(ctx, &c.rangeRequest)
	if err != nil {
		return err
	}
	if len(r.Kvs) != 1 || len(r.Kvs[0].Value) != size {
		return fmt.Errorf("%s is not there as it should be", c.key)
	}
	return nil
}

// create is how kube-apiserver makes an object: if there is none, then PUT. kine takes
// no other way.
func (c *client) create(ctx context.Context, size, i int) error {
	c.setKey(i)
	_, err := c.kv.Txn(ctx, requests.Create(c.key, c.value(size), 0))
	return err
}

// beginTxn learns the revisions of the client's own keys, which may have been
// written before.
func (c *client) beginTxn(ctx context.Context) error {
	for _, key := range c.keys {
		prefix := key[:len(key)-keyDigits]
		end := append([]byte(nil), prefix...)
		end[len(end)-1]++ // From '/' to the character after it.
		r, err := c.kv.Range(ctx, &pb.RangeRequest{Key: prefix, RangeEnd: end})
		if err != nil {
			return err
		}
		for _, kv := range r.Kvs {
			i, err := strconv.Atoi(string(kv.Key[len(prefix):]))
			if err != nil || i >= txnKeys {
				return fmt.Errorf("the store has a key %s", kv.Key)
			}
			c.mods[i] = kv.ModRevision
		}
	}
	c.expected = &pb.Compare_ModRevision{}
	c.compare = &pb.Compare{Result: pb.Compare_EQUAL, Target: pb.Compare_MOD, TargetUnion: c.expected}
	c.txnRequest = &pb.TxnRequest{
		Compare: []*pb.Compare{c.compare},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &c.putRequest}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &c.rangeRequest}}},
	}
	return nil
}

// errCompare is a transaction that did not do its work: it would be measured as
// a cheap success.
var errCompare = errors.New("a transaction's compare failed, though nobody else writes its key")

func (c *client) txn(ctx context.Context, size int) error {
	i := c.random.IntN(txnKeys)
	c.setKey(i)
	c.compare.Key, c.expected.ModRevision = c.key, c.mods[i]
	c.putRequest.Key, c.putRequest.Value = c.key, c.value(size)
	c.rangeRequest.Key = c.key
	r, err := c.kv.Txn(ctx, c.txnRequest)
	if err != nil {
		return err
	}
	if !r.Succeeded {
		return errCompare
	}
	c.mods[i] = r.Header.Revision
	return nil
}
