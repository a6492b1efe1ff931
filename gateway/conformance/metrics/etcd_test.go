package metrics

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// leftOut are the metrics of etcd that are not here, and why.
var leftOut = map[string]string{
	"etcd_debugging_disk_backend_commit_rebalance_duration_seconds": "bbolt's: there is no B+ tree",
	"etcd_debugging_disk_backend_commit_spill_duration_seconds":     "bbolt's: there is no B+ tree",
	"etcd_debugging_disk_backend_commit_write_duration_seconds":     "bbolt's: there is no B+ tree",
	"etcd_disk_wal_write_duration_seconds":                          "writing and syncing are one call of Pebble, of which wal_fsync has the time",
	"etcd_disk_backend_defrag_duration_seconds":                     "there is nothing to defragment",
	"etcd_disk_defrag_inflight":                                     "there is nothing to defragment",
	"etcd_disk_backend_snapshot_duration_seconds":                   "there is no snapshot of a whole member yet",

	"etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds": "there is no index in memory",
	"etcd_debugging_mvcc_keys_total":                                   "etcd counts its index in memory; here it would be a walk over all keys",

	"etcd_debugging_server_watch_send_loop_control_stream_duration_seconds":         "streams have no such loop: responses are encoded once for all of them",
	"etcd_debugging_server_watch_send_loop_progress_duration_seconds":               "streams have no such loop",
	"etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds": "streams have no such loop",
	"etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds":           "streams have no such loop",

	"etcd_debugging_snap_save_marshalling_duration_seconds": "etcd's files of version 2",
	"etcd_debugging_snap_save_total_duration_seconds":       "etcd's files of version 2",
	"etcd_snap_fsync_duration_seconds":                      "etcd's files of version 2",
	"etcd_snap_db_fsync_duration_seconds":                   "a snapshot of a member comes in tables that Pebble syncs",
	"etcd_snap_db_save_total_duration_seconds":              "etcd_network_snapshot_receive_total_duration_seconds has the time",
	"etcd_debugging_store_expires_total":                    "etcd's store of version 2",
	"etcd_debugging_store_watch_requests_total":             "etcd's store of version 2",
	"etcd_debugging_store_watchers":                         "etcd's store of version 2",

	"etcd_grpc_proxy_cache_hits_total":          "etcd's proxy",
	"etcd_grpc_proxy_cache_keys_total":          "etcd's proxy",
	"etcd_grpc_proxy_cache_misses_total":        "etcd's proxy",
	"etcd_grpc_proxy_events_coalescing_total":   "etcd's proxy",
	"etcd_grpc_proxy_watchers_coalescing_total": "etcd's proxy",

	"etcd_server_apply_duration_seconds":        "to evaluate and to apply are two things here, and requests are applied together; traces have both times",
	"etcd_server_range_duration_seconds":        "etcd_server_request_duration_seconds has the time of ranges; traces have that of the read alone",
	"etcd_server_feature_enabled":               "etcd's features are on, or mean nothing here (--feature-gates)",
	"etcd_server_heartbeat_send_failures_total": "heartbeats do not wait for the disk",
}

const etcdList = "testdata/etcd-3.7.3.txt"

// testEtcd compares with what a real etcd says: names, types, labels, buckets.
func testEtcd(t *testing.T, scrapes []scrape) {
	t.Helper()
	ours := describe(scrapes)
	if *rewrite {
		etcd, err := server.ResolvePeer(t.Context(), "etcd")
		require.NoError(t, err)
		var b strings.Builder
		b.WriteString("# What /metrics of etcd 3.7.3 has: one member, and three. go test ./gateway/conformance/metrics -rewrite\n")
		theirs := describe(append(busy(t, etcd, 3), busy(t, etcd, 1)...))
		for _, name := range slices.Sorted(maps.Keys(theirs)) {
			if !strings.HasPrefix(name, "go_") { // They follow Go's version.
				fmt.Fprintf(&b, "%s %s\n", name, theirs[name])
			}
		}
		require.NoError(t, os.WriteFile(etcdList, []byte(b.String()), 0o644))
	}
	file, err := os.ReadFile(etcdList)
	require.NoError(t, err)
	theirs := map[string]string{}
	for line := range strings.Lines(string(file)) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			theirs[name] = rest
		}
	}
	require.Greater(t, len(theirs), 80)
	for name, want := range theirs {
		got, there := ours[name]
		_, out := leftOut[name]
		switch {
		case out && there:
			t.Errorf("%s is there, and is in the list of those that are left out", name)
		case out:
		case !there:
			t.Errorf("%s of etcd is missing: %s", name, want)
		case got != want:
			t.Errorf("%s is\n%s, in etcd it is\n%s", name, got, want)
		}
	}
	for name := range leftOut {
		require.Contains(t, theirs, name, "etcd has no such metric")
	}
	for name := range ours {
		_, known := theirs[name]
		want, seldom := rare[name]
		switch {
		case !strings.HasPrefix(name, "etcd_") || known:
		case !seldom:
			t.Errorf("%s has a name as if it were etcd's", name)
		case ours[name] != want:
			t.Errorf("%s is\n%s, in etcd it is\n%s", name, ours[name], want)
		}
	}
}

// rare are metrics that etcd shows only once something has happened, and that are
// here before, as etcd's sources have them.
var rare = map[string]string{
	"etcd_network_server_stream_failures_total": "counter {API,Type}",
	"etcd_network_peer_sent_failures_total":     "counter {To}",
	"etcd_network_peer_round_trip_time_seconds": "histogram {To} 0.0001,0.0002,0.0004,0.0008,0.0016,0.0032,0.0064,0.0128," +
		"0.0256,0.0512,0.1024,0.2048,0.4096,0.8192,1.6384,3.2768,+Inf",
	"etcd_network_disconnected_peers_total": "counter {Local,Remote}",
}

// describe writes down type, labels and buckets of everything in scrapes.
func describe(scrapes []scrape) map[string]string {
	labels, buckets, types := map[string]map[string]bool{}, map[string]string{}, map[string]string{}
	for _, s := range scrapes {
		for name, f := range s.families {
			types[name] = strings.ToLower(f.GetType().String())
			if labels[name] == nil {
				labels[name] = map[string]bool{}
			}
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					labels[name][l.GetName()] = true
				}
				if f.GetType() == dto.MetricType_HISTOGRAM {
					buckets[name] = " " + bounds(m.GetHistogram())
				}
			}
		}
	}
	all := map[string]string{}
	for name, kind := range types {
		all[name] = fmt.Sprintf("%s {%s}%s", kind, strings.Join(slices.Sorted(maps.Keys(labels[name])), ","), buckets[name])
	}
	return all
}

func bounds(h *dto.Histogram) string {
	var all []string
	for _, b := range h.GetBucket() {
		all = append(all, fmt.Sprint(b.GetUpperBound()))
	}
	return strings.Join(all, ",")
}
