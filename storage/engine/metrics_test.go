package engine_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
)

// TestMetrics stalls a database's writers: its memtables are full and its disk
// stands still.
func TestMetrics(t *testing.T) {
	var stalls engine.Stalls
	c := clock.NewManual(time.Unix(1, 0))
	cfg := config(engine.NewMem(), false)
	cfg.Stalls, cfg.Clock = &stalls, c
	db, err := engine.Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	listener := engine.ListenerOf(cfg)
	listener.WriteStallBegin(engine.WriteStallBeginInfo{Reason: "memtable count limit reached"})
	c.Advance(1500 * time.Millisecond)
	listener.WriteStallEnd()
	listener.WriteStallEnd() // Pebble may say so again.
	listener.DiskSlow(engine.DiskSlowInfo{})

	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{engine.NewCollector(), db, &stalls})
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
	families, err := reg.Gather()
	require.NoError(t, err)
	tenths := map[string]int64{}
	for _, f := range families {
		require.Equal(t, "database", f.GetMetric()[0].GetLabel()[0].GetName())
		require.Equal(t, "state", f.GetMetric()[0].GetLabel()[0].GetValue())
		for _, m := range f.GetMetric() {
			tenths[f.GetName()] += int64(10 * (m.GetGauge().GetValue() + m.GetCounter().GetValue()))
		}
	}
	require.EqualValues(t, 10, tenths["pebbledash_engine_write_stalls_total"])
	require.EqualValues(t, 15, tenths["pebbledash_engine_write_stall_seconds_total"])
	require.EqualValues(t, 10, tenths["pebbledash_engine_slow_disk_operations_total"])
	require.Positive(t, tenths["pebbledash_engine_memtable_bytes"])
	require.Zero(t, tenths["pebbledash_engine_flushes_total"])
}

// collector collects one database.
type collector struct {
	*engine.Collector
	db     *engine.DB
	stalls *engine.Stalls
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	c.Collector.Collect(ch, "state", c.db.Metrics(), c.stalls)
}
