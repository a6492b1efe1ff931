package app

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// The heap's headroom is what may be allocated between two collections. Go's own rule, as
// much as is live, is wrong for a small heap, which would be collected many times a
// second and the stacks of waiting calls shrunk each time, a third of the CPU of a get;
// and for a large one that changes little, which would keep twice what it needs.
const (
	// minHeadroom is the least headroom, and minShare what part of what is live it is at
	// least.
	minHeadroom   = 32 << 20
	minShare      = 8
	firstHeadroom = 64 << 20
	// extraHeadroom is how much the greatest headroom is above what is live.
	extraHeadroom = 128 << 20
	// leastLive bounds the percentage by which the heap may grow: what is live may
	// become more before the next look.
	leastLive = 8 << 20

	paceInterval = 250 * time.Millisecond
	// calmTime is for how long there must be less to do before the headroom shrinks.
	calmTime = 5 * time.Second
	// Collections are too many, or mark too much, above busyRate a second, or busyMarking
	// bytes a second, and may be more below the others.
	busyRate, calmRate       = 2.0, 0.5
	busyMarking, calmMarking = 64 << 20, 16 << 20
)

// pacer decides about the headroom. Its methods are not for several goroutines.
type pacer struct {
	headroom, live uint64
	// since is how long the headroom is what it is, collections how often the collector
	// has run meanwhile.
	since       time.Duration
	collections uint64
}

// look takes in what has happened for a while, and says by how many per cent of what is
// live the heap may grow.
func (p *pacer) look(elapsed time.Duration, collections, live uint64) int {
	p.since += elapsed
	p.collections += collections
	p.live = live
	// One collection is due at any time: it says nothing of how often they come, and that
	// there was none does not say that there is none soon.
	seconds := max(p.since, time.Second).Seconds()
	rate := float64(p.collections) / seconds
	most := float64(p.collections+1) / seconds
	switch {
	case p.collections > 1 && (rate > busyRate || rate*float64(live) > busyMarking):
		p.set(p.headroom * 2)
	case p.since >= calmTime && most < calmRate && most*float64(live) < calmMarking:
		p.set(p.headroom / 2)
	case p.collections > 1 && p.since >= calmTime:
		p.set(p.headroom)
	}
	return int(max(p.headroom, p.least()) * 100 / max(live, leastLive))
}

func (p *pacer) least() uint64 { return max(minHeadroom, p.live/minShare) }

func (p *pacer) set(headroom uint64) {
	p.headroom = max(min(headroom, p.live+extraHeadroom), p.least())
	p.since, p.collections = 0, 0
}

// paceHeap sets the collector's percentage from time to time, until ctx ends.
func paceHeap(ctx context.Context, c clock.Clock, read func() (collections, live uint64), set func(percent int)) {
	ticker := c.NewTicker(paceInterval)
	defer ticker.Stop()
	p := pacer{headroom: firstHeadroom}
	before, live := read()
	percent := p.look(0, 0, live)
	set(percent)
	at := c.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		now := c.Now()
		collections, live := read()
		wanted := p.look(now.Sub(at), collections-before, live)
		at, before = now, collections
		// To set it stops the world for a moment.
		if wanted*10 < percent*9 || wanted*10 > percent*11 {
			percent = wanted
			set(percent)
		}
	}
}

func readCollector() (collections, live uint64) {
	s := []metrics.Sample{{Name: "/gc/cycles/automatic:gc-cycles"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64(), s[1].Value.Uint64()
}

// paceCollector is paceHeap of this process, unless the operator has set GOGC.
func (j *joined) paceCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	j.background.Go(func() {
		paceHeap(j.lifetime, j.env.Clock, readCollector, func(percent int) { debug.SetGCPercent(percent) })
	})
}
