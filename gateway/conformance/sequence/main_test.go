package sequence

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

var (
	opsFlag    = flag.Int("ops", 500, "how many requests are sent")
	seedFlag   = flag.Uint64("seed", 0, "of the requests; 0 is any")
	shrinkFlag = flag.Duration("shrink", 2*time.Minute, "how long a shorter sequence with the same difference is looked for")
)

// kinds are what is compared with the reference, which is one member of etcd.
var kinds = []kind{
	{name: "one member", members: 1},
	{name: "three members", members: 3},
	{name: "three members, leaders spread", members: 3, args: []string{"--spread-leaders"}},
}

// TestSequence is the whole of it: see doc.go.
func TestSequence(t *testing.T) {
	if testing.Short() {
		t.Skip("builds etcd where it is not cached")
	}
	etcd, err := server.ResolvePeer(t.Context(), "etcd")
	require.NoError(t, err)
	under, err := server.Resolve(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, under.Close()) }()

	every := fmt.Sprintf("--max-request-bytes=%d", requestBytes)
	reference := kind{name: "etcd", members: 1, args: []string{every, "--unsafe-no-fsync"}, binary: etcd.Path}
	var others []kind
	for _, k := range kinds {
		k.binary = under.Path
		if under.Target == server.Etcd {
			if len(k.args) > 0 {
				continue
			}
			k.args, k.lax = []string{"--unsafe-no-fsync"}, true
		}
		k.args = append([]string{every}, k.args...)
		others = append(others, k)
	}

	seed := *seedFlag
	if seed == 0 {
		seed = 1 + rand.Uint64N(1_000_000_000)
	}
	steps := newPlanner(seed).plan(*opsFlag)
	r := newRunner(t, append([]kind{reference}, others...))
	defer r.close()
	d, err := r.run(t.Context(), steps)
	if err == nil {
		t.Logf("seed %d: %v", seed, r.tally)
	}
	if d == nil && err == nil {
		return
	}
	t.Logf("replay: go test ./gateway/conformance/sequence -run TestSequence -count=1 -ops %d -seed %d", *opsFlag, seed)
	require.NoError(t, err)
	t.Error(d)
	r.close()
	if *shrinkFlag > 0 {
		var other kind
		for _, k := range others {
			if k.name == d.system {
				other = k
			}
		}
		t.Log(shrink(t, reference, other, steps[:d.step+1], *shrinkFlag))
	}
}

// tally counts what was done, so that a run can show that it was not idle.
type tally struct {
	requests, errors, watches, events, fragments, progress, hashes, canceled, behind int
}

func (c tally) String() string {
	return fmt.Sprintf("%d requests, %d of them refused; %d watches with %d events, %d responses in fragments, "+
		"%d ended by compactions; %d notes of progress; %d hashes; a member was behind %d times",
		c.requests, c.errors, c.watches, c.events, c.fragments, c.canceled, c.progress, c.hashes, c.behind)
}
