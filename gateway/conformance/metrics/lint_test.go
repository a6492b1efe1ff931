package metrics

import (
	"bytes"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"
)

// lintKnown are the names that promtool does not like and that are etcd's.
var lintKnown = map[string]bool{
	"etcd_debugging_lease_ttl_total":                                true,
	"etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds": true,
	"etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": true,
	"etcd_debugging_mvcc_pending_events_total":                      true,
	"etcd_debugging_mvcc_slow_watcher_total":                        true,
	"etcd_debugging_mvcc_watch_stream_total":                        true,
	"etcd_debugging_mvcc_watcher_total":                             true,
	"etcd_disk_wal_write_bytes_total":                               true,
	"etcd_server_health_failures":                                   true,
	"etcd_server_health_success":                                    true,
	"etcd_server_learner_promote_successes":                         true,
	"etcd_server_proposals_applied_total":                           true,
	"etcd_server_proposals_committed_total":                         true,
	"etcd_server_snapshot_apply_in_progress_total":                  true,
}

// testLint is promtool check metrics.
func testLint(t *testing.T, scrapes []scrape) {
	t.Helper()
	met := map[string]bool{}
	for _, s := range scrapes {
		problems, err := promlint.New(bytes.NewReader(s.text)).Lint()
		require.NoError(t, err)
		for _, p := range problems {
			met[p.Metric] = true
			if !lintKnown[p.Metric] {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
	}
	for name := range lintKnown {
		require.True(t, strings.HasPrefix(name, "etcd_"), "ours can be named better: %s", name)
		require.True(t, met[name], "nothing is wrong with %s", name)
	}
}
