package engine

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stalls counts for how long a database has made its writers wait. Give it to
// Config to have it counted.
type Stalls struct {
	count, nanos, slow atomic.Int64
	// began is when the stall under way began, as nanoseconds since 1970.
	began atomic.Int64
}

func (s *Stalls) begin(now time.Time) {
	if s != nil {
		s.count.Add(1)
		s.began.Store(now.UnixNano())
	}
}

func (s *Stalls) end(now time.Time) {
	if s == nil {
		return
	}
	if began := s.began.Swap(0); began != 0 {
		s.nanos.Add(now.UnixNano() - began)
	}
}

func (s *Stalls) slowDisk() {
	if s != nil {
		s.slow.Add(1)
	}
}

// Collector turns Pebble's Metrics into metrics, for several databases. Who
// collects asks each database for them once, and may use them for more.
type Collector struct {
	all []collected
	// levels are those of each level of the tree.
	levels []collectedLevel
}

type collected struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*Metrics, *Stalls) float64
}

type collectedLevel struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*Metrics, int) float64
}

// NewCollector returns a Collector.
func NewCollector() *Collector {
	c := &Collector{}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	add := func(kind prometheus.ValueType, name, help string, value func(*Metrics, *Stalls) float64) {
		desc := prometheus.NewDesc(prometheus.BuildFQName("pebbledash", "engine", name), help, []string{"database"}, nil)
		c.all = append(c.all, collected{desc, kind, value})
	}
	addLevel := func(kind prometheus.ValueType, name, help string, value func(*Metrics, int) float64) {
		desc := prometheus.NewDesc(prometheus.BuildFQName("pebbledash", "engine", name), help, []string{"database", "level"}, nil)
		c.levels = append(c.levels, collectedLevel{desc, kind, value})
	}
	add(gauge, "disk_usage_bytes", "What the database takes on disk.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.DiskSpaceUsage()) })
	add(gauge, "garbage_bytes", "What of disk_usage_bytes is of files that nothing but open iterators needs.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.Table.ObsoleteSize + m.Table.ZombieSize) })
	add(gauge, "memtable_bytes", "Bytes of memtables.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.MemTable.Size) })
	add(gauge, "memtables", "Memtables; writers wait if there are too many.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.MemTable.Count) })
	add(gauge, "read_amplification", "Sorted runs that a read may have to look at.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.ReadAmp()) })
	add(gauge, "open_table_iterators", "Open iterators over tables.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.TableIters) })
	add(gauge, "blob_bytes", "Bytes of the files of values that are kept apart from their keys.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.BlobFiles.LiveSize) })
	add(counter, "flushes_total", "Flushes of memtables.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.Flush.Count) })
	add(counter, "flushed_bytes_total", "Bytes that flushes have written.",
		func(m *Metrics, _ *Stalls) float64 {
			return float64(m.Levels[0].TableBytesFlushed + m.Levels[0].BlobBytesFlushed)
		})
	add(counter, "ingested_bytes_total", "Bytes of tables that were ingested.",
		func(m *Metrics, _ *Stalls) float64 {
			t := m.Total()
			return float64(t.TableBytesIngested)
		})
	add(counter, "compactions_total", "LSM compactions.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.Compact.Count) })
	add(counter, "compacted_bytes_total", "Bytes that LSM compactions have written.",
		func(m *Metrics, _ *Stalls) float64 {
			t := m.Total()
			return float64(t.TableBytesCompacted + t.BlobBytesCompacted)
		})
	add(counter, "compaction_seconds_total", "Time that LSM compactions took.",
		func(m *Metrics, _ *Stalls) float64 { return m.Compact.Duration.Seconds() })
	add(counter, "failed_compactions_total", "LSM compactions that have failed.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.Compact.FailedCount) })
	add(gauge, "compactions", "LSM compactions that are under way.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.Compact.NumInProgress) })
	add(gauge, "compaction_debt_bytes", "Estimate of what has to be compacted until the tree is as it should be.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.Compact.EstimatedDebt) })
	add(gauge, "block_cache_bytes", "Bytes in the block cache.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.BlockCache.Size) })
	add(counter, "block_cache_hits_total", "Blocks that were found in the block cache.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.BlockCache.Hits) })
	add(counter, "block_cache_misses_total", "Blocks that had to be read from disk.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.BlockCache.Misses) })
	add(gauge, "wal_bytes", "Bytes of the write-ahead log's files.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.WAL.PhysicalSize) })
	add(counter, "wal_written_bytes_total", "Bytes that were written to the write-ahead log.",
		func(m *Metrics, _ *Stalls) float64 { return float64(m.WAL.BytesWritten) })
	add(counter, "write_stalls_total", "How often writers had to wait for the database.",
		func(_ *Metrics, s *Stalls) float64 { return float64(s.count.Load()) })
	add(counter, "write_stall_seconds_total", "For how long writers had to wait for the database.",
		func(_ *Metrics, s *Stalls) float64 { return float64(s.nanos.Load()) / 1e9 })
	add(counter, "slow_disk_operations_total", "Operations on files that took unusually long.",
		func(_ *Metrics, s *Stalls) float64 { return float64(s.slow.Load()) })

	addLevel(gauge, "level_tables", "Tables of a level of the tree.",
		func(m *Metrics, i int) float64 { return float64(m.Levels[i].TablesCount) })
	addLevel(gauge, "level_bytes", "Bytes of the tables of a level of the tree.",
		func(m *Metrics, i int) float64 { return float64(m.Levels[i].TablesSize) })
	addLevel(gauge, "level_sublevels", "Sorted runs of a level of the tree; more than one only at level 0.",
		func(m *Metrics, i int) float64 { return float64(m.Levels[i].Sublevels) })
	return c
}

// Describe is that of a prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.all {
		ch <- d.desc
	}
	for _, d := range c.levels {
		ch <- d.desc
	}
}

// Collect sends the metrics of one database.
func (c *Collector) Collect(ch chan<- prometheus.Metric, database string, m *Metrics, s *Stalls) {
	for _, d := range c.all {
		ch <- prometheus.MustNewConstMetric(d.desc, d.kind, d.value(m, s), database) //nolint:promlinter // It can not read this; what is served is linted (gateway/conformance/metrics).
	}
	for i := range m.Levels {
		for _, d := range c.levels {
			ch <- prometheus.MustNewConstMetric(d.desc, d.kind, d.value(m, i), database, strconv.Itoa(i)) //nolint:promlinter // It can not read this; what is served is linted (gateway/conformance/metrics).
		}
	}
}
