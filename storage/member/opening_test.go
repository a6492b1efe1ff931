package member_test

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/member"
)

// A member that fails while it is opened, when its groups run already, stops all of it.
func TestFailureWhileOpening(t *testing.T) {
	var broken atomic.Bool
	failed := make(chan error, 1)
	clk := &countingClock{}
	reg := &stepRegisterer{Registerer: prometheus.NewRegistry(), steps: map[string]func(){
		// Before the groups start.
		"etcd_debugging_lease_granted_total": func() { broken.Store(true) },
		// Behind it, and before the member's workers.
		"etcd_server_has_leader": func() { require.Error(t, <-failed) },
	}}
	m, err := member.Open(t.Context(), member.Config{
		Dir: "data", Name: "a", InitialCluster: "a=http://127.0.0.1:2380", Clock: clk, Registerer: reg,
		FS: errorfs.Wrap(engine.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				return errorfs.ErrInjected
			}
			return nil
		})),
		Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { failed <- err },
	})
	require.NoError(t, err)
	require.Error(t, m.Close())
	require.Zero(t, clk.tickers.Load(), "something still runs")
}

// countingClock counts the tickers that were not stopped.
type countingClock struct {
	clock.Real
	tickers atomic.Int64
}

func (c *countingClock) NewTicker(d time.Duration) clock.Ticker {
	c.tickers.Add(1)
	return &countedTicker{Ticker: c.Real.NewTicker(d), c: c}
}

type countedTicker struct {
	clock.Ticker
	c *countingClock
}

func (t *countedTicker) Stop() {
	t.Ticker.Stop()
	t.c.tickers.Add(-1)
}

// stepRegisterer does something when a metric of a name is registered.
type stepRegisterer struct {
	prometheus.Registerer
	steps map[string]func()
}

func (r *stepRegisterer) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 100)
	c.Describe(descs)
	close(descs)
	for d := range descs {
		for name, step := range r.steps {
			if strings.Contains(d.String(), `"`+name+`"`) {
				step()
			}
		}
	}
	return r.Registerer.Register(c)
}

func (r *stepRegisterer) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}
