//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pebbledash/pebbledash/benchmarks/about"
	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

// describe looks at the machine. dir is where the data will be, args are the
// command's.
func describe(ctx context.Context, p *plan, dir string, args []string) (*about.About, error) {
	a := about.New(p.commit, command(args))
	for _, peer := range p.peers {
		told, err := about.Versions(ctx, peer.binary)
		if err != nil {
			return nil, err
		}
		a.Add(peer.name, "%s", strings.Join(append([]string{told}, peer.args...), " "))
	}
	a.Machine()
	a.Add("generator", "%s", runtime.Version())
	disk, err := probe(dir)
	if err != nil {
		return nil, err
	}
	a.Add("disk", "%s", disk)
	a.Load("before")
	if p.members > 1 {
		a.Add("members", "%d of each, all on this machine", p.members)
	}
	a.Add("measured", "%d turns of each, %v after %v of warm-up; median (least-greatest)", p.turns, p.measure, p.warmup)
	return a, nil
}

// command is without what run.sh adds.
func command(args []string) string {
	return about.Command("benchmarks/run.sh", args, map[string]string{"server": "", "commit": "", "save": ""})
}

// probe measures what a server waits for at each write: an append of a block,
// and its way to the disk.
func probe(dir string) (string, error) {
	const block, times = 4 << 10, 200
	file, err := os.Create(filepath.Join(dir, "probe"))
	if err != nil {
		return "", err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	var took []time.Duration
	for range times {
		begin := time.Now()
		if _, err := file.Write(make([]byte, block)); err != nil {
			return "", err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return "", err
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", err
	}
	kind := fmt.Sprintf("file system %#x", fs.Type)
	switch fs.Type {
	case unix.TMPFS_MAGIC:
		return "", fmt.Errorf("%s is in memory; name a directory on a disk by -dir", dir)
	case unix.EXT4_SUPER_MAGIC:
		kind = "ext4"
	case unix.XFS_SUPER_MAGIC:
		kind = "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		kind = "btrfs"
	}
	return fmt.Sprintf("%s; append of 4 KiB and fdatasync: p50 %.2f ms, p99 %.2f ms", kind,
		stats.Quantile(took, 0.5).Seconds()*1000, stats.Quantile(took, 0.99).Seconds()*1000), nil
}
