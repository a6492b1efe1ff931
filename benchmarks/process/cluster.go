//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Cluster is one server, or several that are members of one cluster. What they
// use is summed up.
type Cluster []*Server

// Start runs a program as the n members of a new cluster, each in a directory of
// its own below dir, and returns when all of them answer.
func Start(ctx context.Context, binary, dir string, n int, args ...string) (Cluster, error) {
	addrs, err := FreeAddrs(2 * n)
	if err != nil {
		return nil, err
	}
	var initial []string
	places := make([]place, n)
	for i := range places {
		places[i] = place{name: fmt.Sprintf("m%d", i+1), client: addrs[2*i], peer: addrs[2*i+1]}
		initial = append(initial, places[i].name+"=http://"+places[i].peer)
	}
	servers, errs := make(Cluster, n), make([]error, n)
	var all sync.WaitGroup
	for i, at := range places {
		at.initial = strings.Join(initial, ",")
		folder := filepath.Join(dir, at.name)
		// With its data: kine does not make the folder.
		if err := os.MkdirAll(filepath.Join(folder, "data"), 0o700); err != nil {
			return nil, err
		}
		all.Go(func() { servers[i], errs[i] = start(ctx, binary, folder, at, args) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		for _, s := range servers {
			if s != nil {
				err = errors.Join(err, s.Kill())
			}
		}
		return nil, err
	}
	return servers, nil
}

// leaderTimeout bounds the search for the leader.
const leaderTimeout = 10 * time.Second

// Leader is the member that leads.
func (c Cluster) Leader(ctx context.Context) (*Server, error) {
	if len(c) == 1 {
		return c[0], nil // kine does not say.
	}
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	for {
		for _, s := range c {
			conn, err := Dial(s.Address)
			if err != nil {
				return nil, err
			}
			r, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
			if err = errors.Join(err, conn.Close()); err != nil {
				return nil, err
			}
			if r.Leader != 0 && r.Leader == r.Header.MemberId {
				return s, nil
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Started is how long the last of them took to answer.
func (c Cluster) Started() time.Duration {
	var longest time.Duration
	for _, s := range c {
		longest = max(longest, s.Started)
	}
	return longest
}

// Usage is the sum of all members'.
func (c Cluster) Usage() (Usage, error) {
	var sum Usage
	for _, s := range c {
		u, err := s.Usage()
		if err != nil {
			return Usage{}, err
		}
		sum.CPU += u.CPU
		sum.WrittenBytes += u.WrittenBytes
	}
	return sum, nil
}

// ResetPeak has PeakBytes begin anew.
func (c Cluster) ResetPeak() error {
	var errs []error
	for _, s := range c {
		errs = append(errs, s.ResetPeak())
	}
	return errors.Join(errs...)
}

// PeakBytes is the sum of what each member had at most.
func (c Cluster) PeakBytes() (int64, error) { return c.sum((*Server).PeakBytes) }

// RSSBytes is the sum of what each member has now.
func (c Cluster) RSSBytes() (int64, error) { return c.sum((*Server).RSSBytes) }

// DiskBytes is the space that all data directories take.
func (c Cluster) DiskBytes() (int64, error) { return c.sum((*Server).DiskBytes) }

func (c Cluster) sum(of func(*Server) (int64, error)) (int64, error) {
	var sum int64
	for _, s := range c {
		n, err := of(s)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Stop ends all members as an operator would, at once.
func (c Cluster) Stop() error {
	errs := make([]error, len(c))
	var all sync.WaitGroup
	for i, s := range c {
		all.Go(func() { errs[i] = s.Stop() })
	}
	all.Wait()
	return errors.Join(errs...)
}
