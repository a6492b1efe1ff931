//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/workload"
)

// profileName is where a profile of something goes, "" if none was asked for.
func (t *turn) profileName(of string) string {
	if t.profiles == "" {
		return ""
	}
	return filepath.Join(t.profiles, fmt.Sprintf("%s-%s-%d", t.peer().name, of, t.number+1))
}

func cellName(load workload.Load, shape workload.Shape) string {
	return load.Name + "-" + strings.NewReplacer("/", "x", "@", "-to-").Replace(shape.String())
}

// takeProfiles asks the server for a profile or, of several members, the leader
// and one of the others.
func (c *cell) takeProfiles(ctx context.Context) error {
	if c.profile == "" || len(c.server) == 1 {
		return takeProfile(ctx, c.leader.Address, c.profile, c.p.measure)
	}
	follower := c.server[0]
	if follower == c.leader {
		follower = c.server[1]
	}
	led := make(chan error, 1)
	go func() { led <- takeProfile(ctx, c.leader.Address, c.profile+"-leader", c.p.measure) }()
	return errors.Join(takeProfile(ctx, follower.Address, c.profile+"-follower", c.p.measure), <-led)
}

// takeProfile asks a server for a CPU profile and keeps it in a file, if it is
// named.
func takeProfile(ctx context.Context, address, name string, length time.Duration) error {
	if name == "" {
		return nil
	}
	seconds := int(math.Max(1, math.Floor(length.Seconds())))
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", address, seconds)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := os.Create(name + ".pprof")
	if err != nil {
		return err
	}
	_, err = io.Copy(file, resp.Body)
	return errors.Join(err, file.Close())
}
