//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

// about is what the figures were measured on, and how.
type about struct {
	began time.Time
	rows  [][2]string
}

// describe looks at the machine. dir is where the data will be, args are the
// command's.
func describe(ctx context.Context, p *plan, dir string, args []string) (*about, error) {
	a := &about{began: time.Now()}
	a.add("date", "%s", a.began.Format("2006-01-02 15:04 MST"))
	a.add("commit", "%s", p.commit)
	a.add("command", "%s", command(args))
	for _, peer := range p.peers {
		version, err := exec.CommandContext(ctx, peer.binary, "--version").Output()
		if err != nil {
			return nil, fmt.Errorf("%s --version: %w", peer.binary, err)
		}
		a.add(peer.name, "%s", strings.Join(append([]string{versions(string(version))}, peer.args...), " "))
	}
	a.add("machine", "%d × %s, %d MiB", runtime.NumCPU(), inFile("/proc/cpuinfo", "model name"), memoryMiB())
	a.add("kernel", "%s", strings.TrimSpace(read("/proc/sys/kernel/osrelease")))
	a.add("generator", "%s", runtime.Version())
	disk, err := probe(dir)
	if err != nil {
		return nil, err
	}
	a.add("disk", "%s", disk)
	a.add("load before", "%s", loadAverage())
	if p.members > 1 {
		a.add("members", "%d of each, all on this machine", p.members)
	}
	a.add("measured", "%d turns of each, %v after %v of warm-up; median (least-greatest)", p.turns, p.measure, p.warmup)
	return a, nil
}

// versions are the lines of what --version says that tell of the program.
func versions(text string) string {
	var told []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.Contains(strings.ToLower(line), "version") && !strings.Contains(line, "Go Version") {
			told = append(told, line)
		}
	}
	return strings.Join(told, ", ")
}

// command is what to type to measure the same again. What run.sh adds by itself
// is left out, and with it paths of this machine.
func command(args []string) string {
	words := []string{"benchmarks/run.sh"}
	for i := 0; i < len(args); i++ {
		name, _, whole := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		switch {
		case name != "server" && name != "commit" && name != "save":
			words = append(words, args[i])
		case !whole:
			i++ // Its value is the next.
		}
	}
	return strings.Join(words, " ")
}

func (a *about) add(what, format string, args ...any) {
	a.rows = append(a.rows, [2]string{what, fmt.Sprintf(format, args...)})
}

func (a *about) finish(took time.Duration) {
	a.add("load after", "%s", loadAverage())
	a.add("took", "%v", took.Round(time.Second))
}

func (a *about) write(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range a.rows {
		fmt.Fprintf(table, "%s\t%s\n", row[0], row[1])
	}
	return table.Flush()
}

// read is a file's text, empty if there is none: a description without it is
// still one.
func read(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(text)
}

// inFile finds "name : value".
func inFile(file, name string) string {
	for line := range strings.Lines(read(file)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func memoryMiB() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit) >> 20
}

func loadAverage() string {
	words := strings.Fields(read("/proc/loadavg"))
	return strings.Join(words[:min(3, len(words))], " ")
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
