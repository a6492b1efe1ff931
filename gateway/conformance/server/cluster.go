package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
)

// FreeURLs returns n different http URLs on the loopback interface, on which
// nobody listens now. They are as little reserved as any free port.
func FreeURLs(n int) ([]string, error) {
	urls, err := freeAddrs(n)
	for i := range urls {
		urls[i] = "http://" + urls[i]
	}
	return urls, err
}

// InitialCluster writes the members m1, m2, ... of a cluster as
// --initial-cluster takes them.
func InitialCluster(peerURLs []string) string {
	members := make([]string, len(peerURLs))
	for i, u := range peerURLs {
		members[i] = MemberName(i) + "=" + u
	}
	return strings.Join(members, ",")
}

// MemberName is the name of member i of a cluster, which count from 0: m1, m2,
// and so on.
func MemberName(i int) string { return fmt.Sprintf("m%d", i+1) }

// StartCluster starts n members that form a new cluster, m1 to mn, and returns
// when all serve clients. Each is as cfg says, with a data directory and a log
// named for it in cfg.DataDir; if there is a cfg.LogPath, the log is there, with
// its name behind it. If one can't be started, none is left.
func StartCluster(ctx context.Context, cfg Config, n int) ([]*Server, error) {
	urls, err := FreeURLs(2 * n)
	if err != nil {
		return nil, err
	}
	members, errs := make([]*Server, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		c := cfg
		c.Name, c.InitialCluster = MemberName(i), InitialCluster(urls[:n])
		c.PeerURL, c.ClientURL = urls[i], urls[n+i]
		c.DataDir = filepath.Join(cfg.DataDir, c.Name)
		if cfg.LogPath != "" {
			c.LogPath += "-" + c.Name
		}
		all.Go(func() { members[i], errs[i] = Start(ctx, c) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		for _, m := range members {
			if m != nil {
				err = errors.Join(err, m.Kill())
			}
		}
		return nil, err
	}
	return members, nil
}
