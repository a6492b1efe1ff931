package app

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// liveLine says how far something is: on a terminal in one line that is drawn again
// and again, elsewhere in a new line from time to time.
type liveLine struct {
	out      io.Writer
	terminal bool
	shown    time.Time
	drawn    bool
}

const (
	barWidth = 30
	// How often it is shown.
	barInterval  = 100 * time.Millisecond
	lineInterval = 5 * time.Second
)

func newLiveLine(out io.Writer) *liveLine {
	l := &liveLine{out: out}
	if f, ok := out.(*os.File); ok {
		l.terminal = term.IsTerminal(int(f.Fd()))
	}
	return l
}

// due says whether it is time to show something new.
func (l *liveLine) due(now time.Time) bool {
	if l.terminal {
		return now.Sub(l.shown) >= barInterval
	}
	return now.Sub(l.shown) >= lineInterval
}

// show shows text, behind a bar of which a share is full where there is a terminal; a
// negative share is no bar.
func (l *liveLine) show(now time.Time, share float64, text string) {
	l.shown = now
	if !l.terminal {
		_, _ = fmt.Fprintln(l.out, text)
		return
	}
	if share >= 0 {
		full := int(min(1, share) * barWidth)
		text = "[" + strings.Repeat("=", full) + strings.Repeat(" ", barWidth-full) + "] " + text
	}
	// \x1b[K clears what a longer line before has left.
	_, _ = fmt.Fprintf(l.out, "\r%s\x1b[K", text)
	l.drawn = true
}

// end leaves the line to what comes next.
func (l *liveLine) end() {
	if l.drawn {
		_, _ = fmt.Fprintln(l.out)
	}
	l.drawn = false
}

// progress says how many of a number of bytes are done.
type progress struct {
	line        *liveLine
	what, note  string
	began       time.Time
	done, total int64
}

// newProgress shows what is done of total bytes, of which 0 is not known yet.
func newProgress(out io.Writer, what string, total int64) *progress {
	p := &progress{line: newLiveLine(out), what: what, total: total, began: time.Now()}
	p.line.shown = p.began
	return p
}

// set says how much is done, and what else there is to say.
func (p *progress) set(done, total int64, note string) {
	p.done, p.total, p.note = done, total, note
	if now := time.Now(); p.line.due(now) {
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
	text := fmt.Sprintf("%s: %3.0f%% %s of %s, %s/s", p.what, 100*share,
		humanBytes(p.done), humanBytes(p.total), humanBytes(int64(float64(p.done)/seconds)))
	if p.note != "" {
		text += ", " + p.note
	}
	p.line.show(now, share, text)
}

// end leaves the line to what comes next.
func (p *progress) end() {
	if p.line.drawn {
		p.show(time.Now())
	}
	p.line.end()
}
