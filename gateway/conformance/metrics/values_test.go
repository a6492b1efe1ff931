package metrics

import (
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
)

// value returns the sum of a metric over everything that has the labels.
func value(s scrape, name string, labels map[string]string) (sum float64, found bool) {
	for _, m := range s.families[name].GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		matches := true
		for k, v := range labels {
			matches = matches && has[k] == v
		}
		if matches {
			sum, found = sum+number(m), true
		}
	}
	return sum, found
}

func number(m *dto.Metric) float64 {
	if h := m.GetHistogram(); h != nil {
		return float64(h.GetSampleCount())
	}
	return m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
}

// testValues looks at some numbers that follow from what use does.
func testValues(t *testing.T, one scrape, three []scrape) {
	t.Helper()
	require := require.New(t)
	// Everything that is looked at is a whole number.
	get := func(s scrape, name string, labels ...string) int64 {
		by := map[string]string{}
		for i := 0; i < len(labels); i += 2 {
			by[labels[i]] = labels[i+1]
		}
		v, found := value(s, name, by)
		require.True(found, "%s %v", name, by)
		return int64(v)
	}
	// Four puts, and a transaction of two; one key deleted, two with their lease.
	require.EqualValues(6, get(one, "etcd_mvcc_put_total"))
	require.EqualValues(3, get(one, "etcd_mvcc_delete_total"))
	require.EqualValues(1, get(one, "etcd_mvcc_txn_total"))
	require.GreaterOrEqual(get(one, "etcd_mvcc_range_total"), int64(4))
	require.EqualValues(8, get(one, "etcd_debugging_mvcc_current_revision"))
	require.EqualValues(7, get(one, "etcd_debugging_mvcc_compact_revision"))
	require.Positive(get(one, "etcd_debugging_mvcc_db_compaction_last"))
	require.Positive(get(one, "etcd_debugging_mvcc_db_compaction_keys_total"))
	require.EqualValues(1, get(one, "etcd_mvcc_hash_rev_duration_seconds"))
	require.EqualValues(1, get(one, "etcd_server_leader_changes_seen_total"))
	require.Zero(get(one, "etcd_server_proposals_failed_total"))
	require.Positive(get(one, "etcd_disk_wal_write_bytes_total"))
	require.Positive(get(one, "os_fd_used"))
	require.Greater(get(one, "os_fd_limit"), get(one, "os_fd_used"))
	require.EqualValues(1, get(one, "etcd_cluster_version", "cluster_version", "3.7"))

	// The transaction begins with a key of pods.
	for _, want := range []struct {
		method, resource string
		n                int64
	}{
		{"Put", "pods", 2},
		{"Put", "events", 1},
		{"Put", "other", 1},
		{"Put", "leases", 0},
		{"Range", "pods", 1},
		{"Txn", "pods", 1},
		{"Txn", "events", 0},
		{"DeleteRange", "other", 1},
	} {
		require.Equal(want.n, get(one, "pebbledash_gateway_requests_total", "method", want.method, "resource", want.resource), "%v", want)
	}

	for _, group := range []string{"core", "events", "leases", "pods"} {
		require.EqualValues(1, get(one, "pebbledash_group_is_leader", "group", group))
		require.Positive(get(one, "pebbledash_group_term", "group", group))
		applied := get(one, "pebbledash_group_applied_index", "group", group)
		require.Positive(applied)
		require.GreaterOrEqual(get(one, "pebbledash_group_commit_index", "group", group), applied)
		require.Positive(get(one, "pebbledash_group_log_entries", "group", group))
		require.EqualValues(1, get(one, "pebbledash_group_fences_total", "group", group))
	}
	require.EqualValues(1, get(one, "pebbledash_group_proposals_committed_total", "group", "pods"), "the others were of several groups")
	require.EqualValues(1, get(one, "pebbledash_reign_is_sequencer"))
	require.EqualValues(1, get(one, "pebbledash_reign_begun_total"))
	require.GreaterOrEqual(get(one, "pebbledash_reign_crossing_requests_total"), int64(2), "a transaction and a lease of two groups")
	held, _ := value(one, "pebbledash_reign_crossing_hold_seconds_total", nil)
	require.Positive(held)
	require.EqualValues(8, get(one, "pebbledash_revline_closed_revision"))
	require.Zero(get(one, "pebbledash_revline_outstanding_revisions"))
	for _, database := range []string{"state", "log"} {
		require.Positive(get(one, "pebbledash_engine_disk_usage_bytes", "database", database))
		require.Positive(get(one, "pebbledash_engine_memtable_bytes", "database", database))
	}

	var leaders, sequencers, epochs int64
	for _, s := range three {
		leaders += get(s, "etcd_server_is_leader")
		sequencers += get(s, "pebbledash_reign_is_sequencer")
		epochs += get(s, "pebbledash_reign_epoch")
		require.EqualValues(3, get(s, "etcd_network_known_peers"))
		require.EqualValues(18, get(s, "etcd_mvcc_put_total"), "every member applies every put")
		require.Equal(get(three[0], "pebbledash_group_term", "group", "core"), get(s, "pebbledash_group_term", "group", "core"))
	}
	require.EqualValues(1, leaders)
	require.EqualValues(1, sequencers)
	require.Equal(get(three[0], "pebbledash_group_term", "group", "core"), epochs)

	// Whatever keys clients choose, there are no more series.
	require.LessOrEqual(len(one.families["pebbledash_gateway_requests_total"].GetMetric()), 5*4)
}
