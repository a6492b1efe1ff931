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
	members []*child
	urls    []string // for clients, by member

	// mu is held while a member is replaced, and while what it uses is read.
	mu sync.Mutex
	// ended is what processes had used that restart ended, and the most memory of any.
	ended     process.Usage
	endedPeak []int64 // by member
}

func newStore(dir, binary string, members int) *store {
	s := &store{endedPeak: make([]int64, members)}
	url := func(port, i int) string { return fmt.Sprintf("http://127.0.0.1:%d", port+i*portStep) }
	var initial []string
	for i := range members {
		initial = append(initial, fmt.Sprintf("m%d=%s", i+1, url(peerPort, i)))
		s.urls = append(s.urls, url(clientPort, i))
	}
	for i := range members {
		name := fmt.Sprintf("m%d", i+1)
		folder := filepath.Join(dir, name)
		s.members = append(s.members, &child{
			name: "store-" + name, binary: binary, dir: dir, data: folder,
			args: []string{
				"--name=" + name, "--data-dir=" + filepath.Join(folder, "data"),
				"--listen-client-urls=" + s.urls[i], "--advertise-client-urls=" + s.urls[i],
				"--listen-peer-urls=" + url(peerPort, i), "--initial-advertise-peer-urls=" + url(peerPort, i),
				"--initial-cluster=" + strings.Join(initial, ","),
				// kube-apiserver wants progress; kubeadm sets the same.
				"--watch-progress-notify-interval=5s",
			},
		})
	}
	return s
}

func (s *store) start(ctx context.Context) error {
	for _, m := range s.members {
		if err := m.start(); err != nil {
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

// restart ends one member as an operator would, and returns when it serves again, with
// how long the one and the other took.
func (s *store) restart(ctx context.Context, i int) (stopped, served time.Duration, err error) {
	began := time.Now()
	if err := s.end(i); err != nil {
		return 0, 0, err
	}
	ended := time.Now()
	if err := s.begin(i); err != nil {
		return 0, 0, err
	}
	err = s.waitMember(ctx, i)
	return ended.Sub(began), time.Since(ended), err
}

func (s *store) begin(i int) error {
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

// usage is the sum over members, with what restarts have ended.
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
	for _, url := range s.urls {
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
