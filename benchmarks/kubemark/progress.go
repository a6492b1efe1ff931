//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const barWidth = 24

// bar draws how much of something is done.
func bar(done, all int) string {
	share := min(max(float64(done)/float64(max(all, 1)), 0), 1)
	full := int(share * barWidth)
	return fmt.Sprintf("[%s%s] %3.0f %%", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), share*100)
}

// progress is a line on stderr that changes in place on a terminal; elsewhere a line
// every now and then.
type progress struct {
	mu       sync.Mutex
	terminal bool
	last     time.Time
	began    time.Time
}

func newProgress() *progress {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	return &progress{terminal: err == nil, began: time.Now()}
}

// quietFor is how often a file gets a line.
const quietFor = 10 * time.Second

func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	elapsed := time.Since(p.began).Round(time.Second)
	switch {
	case p.terminal:
		fmt.Fprintf(os.Stderr, "\r\x1b[K%6v  %s", elapsed, text)
	case time.Since(p.last) >= quietFor:
		p.last = time.Now()
		fmt.Fprintf(os.Stderr, "%6v  %s\n", elapsed, text)
	}
}

// done leaves the line.
func (p *progress) done() {
	if p.terminal {
		fmt.Fprintln(os.Stderr)
	}
}
