//go:build linux

// Package about says what figures were measured on, and how: the rows above the tables.
package about

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// About is a description under way.
type About struct {
	Began time.Time
	Rows  [][2]string
}

// New begins a description now, of a commit and of what Command says.
func New(commit, command string) *About {
	a := &About{Began: time.Now()}
	a.Add("date", "%s", a.Began.Format("2006-01-02 15:04 MST"))
	a.Add("commit", "%s", commit)
	a.Add("command", "%s", command)
	return a
}

// Add adds a row.
func (a *About) Add(what, format string, args ...any) {
	a.Rows = append(a.Rows, [2]string{what, fmt.Sprintf(format, args...)})
}

// Machine adds what the machine is.
func (a *About) Machine() {
	a.Add("machine", "%d × %s, %d MiB", runtime.NumCPU(), processor(), memoryMiB())
	a.Add("kernel", "%s", strings.TrimSpace(read("/proc/sys/kernel/osrelease")))
}

// Load adds what else the machine does, before or after.
func (a *About) Load(when string) {
	words := strings.Fields(read("/proc/loadavg"))
	a.Add("load "+when, "%s", strings.Join(words[:min(3, len(words))], " "))
}

// Finish adds what is known at the end.
func (a *About) Finish() {
	a.Load("after")
	a.Add("took", "%v", time.Since(a.Began).Round(time.Second))
}

// Write prints the rows.
func (a *About) Write(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range a.Rows {
		fmt.Fprintf(table, "%s\t%s\n", row[0], row[1])
	}
	return table.Flush()
}

// Versions is what a program says of itself.
func Versions(ctx context.Context, binary string) (string, error) {
	text, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", binary, err)
	}
	return versions(string(text)), nil
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

// Command is what to type to measure the same again. Instead of flags that the script
// adds or completes by itself, with paths of this machine, there is what instead has for
// their names, "" for nothing.
func Command(script string, args []string, instead map[string]string) string {
	words := []string{script}
	for i := 0; i < len(args); i++ {
		name, _, whole := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		word, ok := instead[name]
		switch {
		case !ok:
			word = args[i]
		case !whole:
			i++ // Its value is the next.
		}
		if word != "" {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
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

func memoryMiB() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit) >> 20
}
