//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/kubemark/exposition"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// The first member's ports; another's are portStep above. The namespace is ours.
const (
	clientPort = 2379
	peerPort   = 2380
	portStep   = 100

	readyTimeout = 3 * time.Minute
)

// store is what is compared: one server, or the members of a cluster.
type store struct {
	name     string
	binaries binaries
	dir      string
	members  []*child
	urls     []string // for clients, of all that may be members

	// mu is held while a member is replaced, and while what it uses is read.
	mu sync.Mutex
	// ended is what processes had used that end ended, and the most memory of any.
	ended     process.Usage
	endedPeak [maxMembers]int64
}

// maxMembers is how many a store may grow to.
const maxMembers = 3

func memberName(i int) string { return fmt.Sprintf("m%d", i+1) }

func memberURL(port, i int) string { return fmt.Sprintf("http://127.0.0.1:%d", port+i*portStep) }

// initialCluster names the first n.
func initialCluster(n int) string {
	var initial []string
	for i := range n {
		initial = append(initial, memberName(i)+"="+memberURL(peerPort, i))
	}
	return strings.Join(initial, ",")
}

// dataDir is a member's in its folder.
func dataDir(folder string) string { return filepath.Join(folder, "data") }

func newStore(dir, name string, b binaries, members int) *store {
	s := &store{name: name, binaries: b, dir: dir}
	for i := range maxMembers {
		s.urls = append(s.urls, memberURL(clientPort, i))
	}
	for i := range members {
		s.members = append(s.members, s.member(i, "--initial-cluster="+initialCluster(members)))
	}
	return s
}

// member makes one, which is not started; more are flags of its own.
func (s *store) member(i int, more ...string) *child {
	name, folder, peer := memberName(i), filepath.Join(s.dir, memberName(i)), memberURL(peerPort, i)
	return &child{
		name: "store-" + name, binary: s.binaries[s.name], dir: s.dir, data: folder,
		args: append([]string{
			"--name=" + name, "--data-dir=" + dataDir(folder),
			"--listen-client-urls=" + s.urls[i], "--advertise-client-urls=" + s.urls[i],
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
			// kube-apiserver wants progress; kubeadm sets the same.
			"--watch-progress-notify-interval=5s",
		}, more...),
	}
}

// joins makes the i-th member one that joins those before it.
func (s *store) joins(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.member(i, "--initial-cluster="+initialCluster(i+1), "--initial-cluster-state=existing")
	s.members = append(s.members[:i], m)
}

func (s *store) start(ctx context.Context) error {
	for i := range s.members {
		if err := s.launch(i); err != nil {
			return err
		}
	}
	for i := range s.members {
		if err := s.waitMember(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) waitMember(ctx context.Context, i int) error {
	return s.members[i].wait(ctx, readyTimeout, func(ctx context.Context) bool { return s.healthy(ctx, i) })
}

func (s *store) healthy(ctx context.Context, i int) bool {
	body, err := fetch(ctx, s.urls[i]+"/health")
	if err != nil {
		return false
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, 1<<10))
	return err == nil && strings.Contains(string(text), `"health":"true"`)
}

// fetch opens what a URL has, if that is fine.
func fetch(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%s: %s", url, resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}

// begin starts a member, and returns when it serves.
func (s *store) begin(ctx context.Context, i int) error {
	if err := s.launch(i); err != nil {
		return err
	}
	return s.waitMember(ctx, i)
}

func (s *store) launch(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members[i].start()
}

// end ends a member, and keeps what it has used. What it uses while it ends is lost.
func (s *store) end(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.members[i]
	used, err := m.use.Usage()
	if err != nil {
		return err
	}
	peak, err := m.use.PeakBytes()
	if err != nil {
		return err
	}
	if err := m.stop(); err != nil {
		return err
	}
	s.ended.CPU += used.CPU
	s.ended.WrittenBytes += used.WrittenBytes
	s.endedPeak[i] = max(s.endedPeak[i], peak)
	return nil
}

// usage is the sum over members, with those that have ended.
func (s *store) usage() (process.Usage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.ended
	for _, m := range s.members {
		u, err := m.use.Usage()
		if err != nil {
			return sum, err
		}
		sum.CPU += u.CPU
		sum.WrittenBytes += u.WrittenBytes
	}
	return sum, nil
}

// peakBytes is the sum of what each member had resident at most.
func (s *store) peakBytes() (int64, error) {
	return s.sum(func(i int) (int64, error) {
		peak, err := s.members[i].use.PeakBytes()
		return max(peak, s.endedPeak[i]), err
	})
}

// residentBytes is the sum of what each member has resident now.
func (s *store) residentBytes() (int64, error) {
	return s.sum(func(i int) (int64, error) { return s.members[i].use.RSSBytes() })
}

// diskBytes is the space that all data takes.
func (s *store) diskBytes() (int64, error) {
	return s.sum(func(i int) (int64, error) { return s.members[i].use.DiskBytes() })
}

func (s *store) sum(of func(i int) (int64, error)) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum int64
	for i := range s.members {
		n, err := of(i)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// requests are how many the members have evaluated, by raft group; etcd has no groups.
// A restart counts from zero.
func (s *store) requests(ctx context.Context) (map[string]float64, error) {
	const evaluated = "pebbledash_group_evaluated_requests_total"
	sum := map[string]float64{}
	for _, url := range s.urls[:len(s.members)] {
		body, err := fetch(ctx, url+"/metrics")
		if err != nil {
			return nil, err
		}
		samples, err := exposition.Parse(body, func(name string) bool { return name == evaluated })
		if err := errors.Join(err, body.Close()); err != nil {
			return nil, err
		}
		for _, sample := range samples {
			sum[sample.Labels["group"]] += sample.Value
		}
	}
	return sum, nil
}
