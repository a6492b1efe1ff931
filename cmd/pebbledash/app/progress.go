package app

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// progress shows how far something is: on a terminal by a bar that is drawn again and
// again, elsewhere by a line from time to time.
type progress struct {
	out      io.Writer
	what     string
	terminal bool
	began    time.Time
	shown    time.Time
	done     int64
	total    int64
	note     string
	drawn    bool
}

const (
	barWidth = 30
	// How often it is shown.
	barInterval  = 100 * time.Millisecond
	lineInterval = 5 * time.Second
)

// newProgress shows what is done of total bytes, of which 0 is not known yet.
func newProgress(out io.Writer, what string, total int64) *progress {
	p := &progress{out: out, what: what, total: total, began: time.Now()}
	p.shown = p.began
	if f, ok := out.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
	return p
}

// set says how much is done, and what else there is to say.
func (p *progress) set(done, total int64, note string) {
	p.done, p.total, p.note = done, total, note
	interval := lineInterval
	if p.terminal {
		interval = barInterval
	}
	if now := time.Now(); now.Sub(p.shown) >= interval {
		p.shown = now
		p.show(now)
	}
}

// add says that so much more is done.
func (p *progress) add(n int64) { p.set(p.done+n, p.total, p.note) }

func (p *progress) show(now time.Time) {
	share := 1.0
	if p.total > 0 {
		share = min(1, float64(p.done)/float64(p.total))
	}
	seconds := max(now.Sub(p.began).Seconds(), 0.001)
	text := fmt.Sprintf("%3.0f%% %s of %s, %s/s", 100*share, humanBytes(p.done), humanBytes(p.total), humanBytes(int64(float64(p.done)/seconds)))
	if p.note != "" {
		text += ", " + p.note
	}
	if !p.terminal {
		fmt.Fprintf(p.out, "%s: %s\n", p.what, strings.TrimSpace(text))
		return
	}
	full := int(share * barWidth)
	// \x1b[K clears what a longer line before has left.
	fmt.Fprintf(p.out, "\r%s [%s%s] %s\x1b[K", p.what, strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), text)
	p.drawn = true
}

// end leaves the line to what comes next.
func (p *progress) end() {
	if p.terminal && p.drawn {
		p.show(time.Now())
		fmt.Fprintln(p.out)
	}
}
