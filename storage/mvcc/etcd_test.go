package mvcc_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// etcdVariable holds the path of the etcd that hashes are compared with.
const etcdVariable = "PEBBLEDASH_ETCD"

// TestHashesAreEtcdsAtRandom runs random histories with compactions against the
// store, which is scrubbed now and then, and an etcd.
func TestHashesAreEtcdsAtRandom(t *testing.T) {
	for range 3 {
		seed := rand.Uint64()
		if s := os.Getenv("PEBBLEDASH_SEED"); s != "" {
			var err error
			seed, err = strconv.ParseUint(s, 10, 64)
			require.NoError(t, err)
		}
		t.Run(fmt.Sprintf("PEBBLEDASH_SEED=%d", seed), func(t *testing.T) {
			compareHashes(t, newEtcdScript(t), newScript(t), rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func compareHashes(t *testing.T, etcd *etcdScript, s *script, rng *rand.Rand) {
	t.Helper()
	run := func(line string) {
		require.NoError(t, etcd.apply(t.Context(), line), line)
		require.NotContains(t, s.apply([]string{line}), "error", line)
	}
	compacted := map[int64]bool{}
	run("grant 1 3600")
	live := map[string]bool{}
	for i := range 600 {
		run(randomTxn(rng, live))
		head := s.store.Revision()
		if rng.IntN(25) == 0 {
			low := max(1, s.store.Compacted()) + 1
			if rev := low + rng.Int64N(max(1, head+1-low)); rev <= head {
				run(fmt.Sprintf("compact %d", rev))
				compacted[rev] = true
			}
		}
		if rng.IntN(10) == 0 {
			s.scrub(1+rng.IntN(10), 1+rng.IntN(5))
		}
		low := max(1, s.store.Compacted())
		rev := low + rng.Int64N(head+1-low)
		if compacted[rev] {
			continue // etcd remembers what it was before the compaction
		}
		ask := fmt.Sprintf("hash @%d", rev)
		require.Equal(t, etcd.hash(t.Context(), rev), s.read(ask), "transaction %d: %s", i, ask)
	}
	s.checkLayout(t)
}

// randomTxn changes some keys, each at most once, and tells live.
func randomTxn(rng *rand.Rand, live map[string]bool) string {
	keys := []string{"a", "aa", `"a\x00"`, "b", `"\xff"`, "c"}
	rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	var parts []string
	for _, k := range keys[:1+rng.IntN(3)] {
		switch {
		case live[k] && rng.IntN(2) == 0:
			parts = append(parts, "del "+k)
			delete(live, k)
			continue
		case rng.IntN(5) == 0:
			parts = append(parts, fmt.Sprintf("put %s %d lease=1", k, rng.IntN(1000)))
		default:
			parts = append(parts, fmt.Sprintf("put %s %d", k, rng.IntN(1000)))
		}
		live[k] = true
	}
	return strings.Join(parts, "; ")
}

// etcdScript sends the lines of a script to an etcd.
type etcdScript struct {
	server *server.Server
	client *clientv3.Client
}

func newEtcdScript(tb testing.TB) *etcdScript {
	tb.Helper()
	binary := os.Getenv(etcdVariable)
	if binary == "" {
		tb.Skipf("%s does not name an etcd", etcdVariable)
	}
	srv := server.Run(tb, server.Config{Binary: binary, Args: []string{"--unsafe-no-fsync"}})
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{srv.Endpoint()}})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, client.Close()) })
	return &etcdScript{server: srv, client: client}
}

// TestHashesAreEtcds holds the hashes that testdata/hash.txt expects to a real
// etcd.
func TestHashesAreEtcds(t *testing.T) {
	s := newEtcdScript(t)
	datadriven.RunTest(t, filepath.Join("testdata", "hash.txt"), func(t *testing.T, d *datadriven.TestData) string {
		switch d.Cmd {
		case "apply":
			for _, line := range lines(d.Input) {
				require.NoError(t, s.apply(t.Context(), line), line)
			}
		case "restart":
			_, err := s.server.Stop()
			require.NoError(t, err)
			require.NoError(t, s.server.Restart(t.Context()))
		case "read":
			return s.hashes(t, lines(d.Input))
		}
		return d.Expected
	})
}

func (s *etcdScript) hashes(t *testing.T, lines []string) string {
	t.Helper()
	var out []string
	for _, line := range lines {
		_, rev, err := numbered(strings.Fields(line), "@", 0)
		require.NoError(t, err)
		out = append(out, s.hash(t.Context(), rev))
	}
	return strings.Join(out, "\n") + "\n"
}

// apply runs one line of a script's apply.
func (s *etcdScript) apply(ctx context.Context, line string) error {
	var ops []clientv3.Op
	for part := range strings.SplitSeq(line, ";") {
		args, err := words(part)
		if err != nil {
			return err
		}
		args, lease, err := numbered(args, "lease=", 0)
		if err != nil {
			return err
		}
		switch args[0] {
		case "put":
			ops = append(ops, clientv3.OpPut(args[1], args[2], clientv3.WithLease(clientv3.LeaseID(lease))))
		case "del":
			ops = append(ops, clientv3.OpDelete(args[1]))
		default:
			if err := s.special(ctx, args); err != nil {
				return err
			}
		}
	}
	if len(ops) == 0 {
		return nil
	}
	_, err := s.client.Txn(ctx).Then(ops...).Commit()
	return err
}

func (s *etcdScript) special(ctx context.Context, args []string) error {
	n, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	switch args[0] {
	case "compact":
		_, err = s.client.Compact(ctx, n, clientv3.WithCompactPhysical())
	case "grant":
		var ttl int64
		if ttl, err = strconv.ParseInt(args[2], 10, 64); err != nil {
			return err
		}
		lease := pb.NewLeaseClient(s.client.ActiveConnection())
		_, err = lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: n, TTL: ttl})
	default:
		err = fmt.Errorf("%q is not for etcd", args[0])
	}
	return err
}

// hash answers as the script's read does.
func (s *etcdScript) hash(ctx context.Context, rev int64) string {
	res, err := s.client.HashKV(ctx, s.client.Endpoints()[0], rev)
	if err != nil {
		return "error: " + strings.Replace(err.Error(), "etcdserver: mvcc:", "mvcc:", 1)
	}
	return fmt.Sprintf("hash %d at %d, compacted %d", res.Hash, res.HashRevision, max(0, res.CompactRevision))
}
