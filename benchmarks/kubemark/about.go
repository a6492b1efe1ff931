//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// about is what the figures were measured on, and how.
type about struct {
	began time.Time
	rows  [][2]string
}

func describe(ctx context.Context, p *plan, args []string) (*about, error) {
	a := &about{began: time.Now()}
	a.add("date", "%s", a.began.Format("2006-01-02 15:04 MST"))
	a.add("commit", "%s", p.commit)
	a.add("command", "%s", command(args))
	for _, store := range p.stores {
		told, err := version(ctx, p.binaries[store])
		if err != nil {
			return nil, err
		}
		a.add(store, "%s", told)
	}
	a.add("Kubernetes", "%s", kubeVersion(p.binaries["kube-apiserver"]))
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, err
	}
	a.add("machine", "%d × %s, %d MiB", runtime.NumCPU(), processor(), info.Totalram*uint64(info.Unit)>>20)
	a.add("kernel", "%s", strings.TrimSpace(read("/proc/sys/kernel/osrelease")))
	a.add("load before", "%s", loadAverage())
	a.add("cluster", "%d hollow nodes, %d members of the store", p.nodes, p.members)
	a.add("load", "%d pods at %.3g a second, then everything for %v, %d watchers", p.pods, p.rate, p.steady, p.watchers)
	a.add("measured", "%d turns of each; median (least-greatest)", p.turns)
	return a, nil
}

// command is what to type for the same again, without what run.sh adds: paths of this
// machine.
func command(args []string) string {
	words := []string{"benchmarks/kubemark/run.sh"}
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch name {
		case "bin", "commit", "dir":
		case "save":
			words = append(words, "-save")
		default:
			words = append(words, arg)
		}
	}
	return strings.Join(words, " ")
}

// kubeVersion is behind the last dash of a binary's name, as peers/build.sh names them.
func kubeVersion(binary string) string { return binary[strings.LastIndexByte(binary, '-')+1:] }

func (a *about) add(what, format string, args ...any) {
	a.rows = append(a.rows, [2]string{what, fmt.Sprintf(format, args...)})
}

func (a *about) finish() {
	a.add("load after", "%s", loadAverage())
	a.add("took", "%v", time.Since(a.began).Round(time.Second))
}

func (a *about) write(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range a.rows {
		fmt.Fprintf(table, "%s\t%s\n", row[0], row[1])
	}
	return table.Flush()
}

// read is a file's text, empty if there is none: a description without it is still one.
func read(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(text)
}

func processor() string {
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func loadAverage() string {
	words := strings.Fields(read("/proc/loadavg"))
	return strings.Join(words[:min(3, len(words))], " ")
}
