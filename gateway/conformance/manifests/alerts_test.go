package manifests

import (
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/stretchr/testify/require"
)

// healthy are series of three members with which nothing is wrong, a sample a minute.
// The recorded ones are what the rules would have recorded.
const healthy = `load 1m
	up{job="pebbledash",instance="m1"} 1+0x60
	up{job="pebbledash",instance="m2"} 1+0x60
	up{job="pebbledash",instance="m3"} 1+0x60
	pebbledash_reign_is_sequencer{job="pebbledash",instance="m1"} 1+0x60
	pebbledash_reign_is_sequencer{job="pebbledash",instance="m2"} 0+0x60
	pebbledash_group_has_leader{job="pebbledash",instance="m1",group="core"} 1+0x60
	pebbledash_group_leader_changes_total{job="pebbledash",instance="m1",group="core"} 3+0x60
	etcd_server_proposals_failed_total{job="pebbledash",instance="m1"} 9+0x60
	pebbledash_group_apply_lag_entries{job="pebbledash",instance="m1",group="core"} 10+0x60
	pebbledash_revline_outstanding_revisions{job="pebbledash",instance="m1"} 5+0x60
	pebbledash_revline_closed_revision{job="pebbledash",instance="m1"} 1+100x60
	pebbledash_serving_certificate_expiration_timestamp_seconds{job="pebbledash",instance="m1",side="clients"} 4000000+0x60
	pebbledash_serving_certificate_expiration_timestamp_seconds{job="pebbledash",instance="m1",side="members"} Inf+0x60
	pebbledash:quota_used:ratio{job="pebbledash",instance="m1"} 0.2+0x60
	node_filesystem_avail_bytes{instance="m1",mountpoint="/var/lib/pebbledash"} 60+0x60
	node_filesystem_size_bytes{instance="m1",mountpoint="/var/lib/pebbledash"} 100+0x60
	kubelet_volume_stats_available_bytes{persistentvolumeclaim="data-pebbledash-0"} 60+0x60
	kubelet_volume_stats_capacity_bytes{persistentvolumeclaim="data-pebbledash-0"} 100+0x60
	pebbledash:wal_fsync_seconds:p99_5m{job="pebbledash",instance="m1"} 0.01+0x60
	pebbledash_engine_slow_disk_operations_total{job="pebbledash",instance="m1",database="log"} 4+0x60
	pebbledash_engine_write_stall_seconds_total{job="pebbledash",instance="m1",database="log"} 4+0x60
	pebbledash_engine_failed_compactions_total{job="pebbledash",instance="m1",database="log"} 0+0x60
	pebbledash_watchcache_lag_revisions{job="pebbledash",instance="m1"} 3+0x60
	pebbledash_watchcache_overruns_total{job="pebbledash",instance="m1"} 1+0x60
	pebbledash_flowcontrol_request_wait_duration_seconds_bucket{job="pebbledash",instance="m1",priority_level="lists",le="0.1"} 0+60x60
	pebbledash_flowcontrol_request_wait_duration_seconds_bucket{job="pebbledash",instance="m1",priority_level="lists",le="+Inf"} 0+60x60
	pebbledash_gateway_refused_connections_total{job="pebbledash",instance="m1"} 0+0x60
`

// ill are, for each alert, series with which it has to fire.
var ill = map[string]string{
	"PebbledashMemberDown":       `up{job="pebbledash",instance="m4"} 0+0x60`,
	"PebbledashQuorumEndangered": "up{job=\"pebbledash\",instance=\"m4\"} 0+0x60\n\tup{job=\"pebbledash\",instance=\"m5\"} 0+0x60\n\tup{job=\"pebbledash\",instance=\"m6\"} 0+0x60",
	"PebbledashSequencerMissing": `pebbledash_reign_is_sequencer{job="pebbledash",instance="m3"} 1+0x60`,
	"PebbledashNoLeader":         `pebbledash_group_has_leader{job="pebbledash",instance="m1",group="pods"} 0+0x60`,
	"PebbledashLeaderChanges":    `pebbledash_group_leader_changes_total{job="pebbledash",instance="m1",group="pods"} 0+1x60`,
	"PebbledashProposalsFail":    `etcd_server_proposals_failed_total{job="pebbledash",instance="m2"} 0+60x60`,
	"PebbledashApplyLags":        `pebbledash_group_apply_lag_entries{job="pebbledash",instance="m1",group="pods"} 2000+0x60`,
	"PebbledashRevisionLineStalls": "pebbledash_revline_outstanding_revisions{job=\"pebbledash\",instance=\"m2\"} 5+0x60\n" +
		"\tpebbledash_revline_closed_revision{job=\"pebbledash\",instance=\"m2\"} 70+0x60",
	"PebbledashCorrupt":            `etcd_debugging_server_alarms{job="pebbledash",instance="m1",server_id="1",alarm_type="CORRUPT"} 1+0x60`,
	"PebbledashCertificateExpires": `pebbledash_serving_certificate_expiration_timestamp_seconds{job="pebbledash",instance="m2",side="members"} 600000+0x60`,
	"PebbledashQuotaNearlyReached": `pebbledash:quota_used:ratio{job="pebbledash",instance="m2"} 0.9+0x60`,
	"PebbledashQuotaReached":       `etcd_debugging_server_alarms{job="pebbledash",instance="m1",server_id="1",alarm_type="NOSPACE"} 1+0x60`,
	"PebbledashDiskNearlyFull": "node_filesystem_avail_bytes{instance=\"m2\",mountpoint=\"/var/lib/pebbledash\"} 6+0x60\n" +
		"\tnode_filesystem_size_bytes{instance=\"m2\",mountpoint=\"/var/lib/pebbledash\"} 100+0x60",
	"PebbledashVolumeNearlyFull": "kubelet_volume_stats_available_bytes{persistentvolumeclaim=\"data-pebbledash-1\"} 6+0x60\n" +
		"\tkubelet_volume_stats_capacity_bytes{persistentvolumeclaim=\"data-pebbledash-1\"} 100+0x60",
	"PebbledashSlowFsync":         `pebbledash:wal_fsync_seconds:p99_5m{job="pebbledash",instance="m2"} 0.9+0x60`,
	"PebbledashSlowDisk":          `pebbledash_engine_slow_disk_operations_total{job="pebbledash",instance="m2",database="log"} 0+1x60`,
	"PebbledashWriteStalls":       `pebbledash_engine_write_stall_seconds_total{job="pebbledash",instance="m2",database="log"} 0+9x60`,
	"PebbledashCompactionsFail":   `pebbledash_engine_failed_compactions_total{job="pebbledash",instance="m2",database="log"} 0+1x60`,
	"PebbledashWatchCacheLags":    `pebbledash_watchcache_lag_revisions{job="pebbledash",instance="m2"} 3000+0x60`,
	"PebbledashWatchCacheOverrun": `pebbledash_watchcache_overruns_total{job="pebbledash",instance="m2"} 0+1x60`,
	"PebbledashRejectsRequests":   `pebbledash_flowcontrol_rejected_requests_total{job="pebbledash",instance="m1",priority_level="lists",resource="pods",reason="time-out"} 0+1x60`,
	"PebbledashRequestsWait": "pebbledash_flowcontrol_request_wait_duration_seconds_bucket{job=\"pebbledash\",instance=\"m2\",priority_level=\"lists\",le=\"2\"} 0+0x60\n" +
		"\tpebbledash_flowcontrol_request_wait_duration_seconds_bucket{job=\"pebbledash\",instance=\"m2\",priority_level=\"lists\",le=\"+Inf\"} 0+60x60",
	"PebbledashConnectionsRefused": `pebbledash_gateway_refused_connections_total{job="pebbledash",instance="m2"} 0+1x60`,
}

// TestAlerts has each alert fire, and no other that is not about the same; and none when
// all is well.
func TestAlerts(t *testing.T) {
	groups, errs := rulefmt.Parse([]byte(read(t, root+"/monitoring/rules.yaml")), false, model.LegacyValidation, language, slog.New(slog.DiscardHandler))
	require.Empty(t, errs)
	alerts := map[string]string{}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				alerts[r.Alert] = r.Expr
			}
		}
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(alerts)), slices.Collect(maps.Keys(ill)))
	require.Empty(t, firing(t, alerts, healthy))
	for name, series := range ill {
		want := []string{name}
		if name == "PebbledashQuorumEndangered" {
			want = append(want, "PebbledashMemberDown")
		}
		require.ElementsMatch(t, want, firing(t, alerts, healthy+"\t"+series+"\n"), name)
	}
}

// firing returns the alerts that fire after an hour.
func firing(t *testing.T, alerts map[string]string, series string) []string {
	t.Helper()
	storage := promqltest.LoadedStorage(t, series)
	engine := promqltest.NewTestEngine(t, false, 0, 1000)
	var fire []string
	for name, expr := range alerts {
		q, err := engine.NewInstantQuery(t.Context(), storage, nil, expr, time.Unix(3600, 0))
		require.NoError(t, err)
		vector, err := q.Exec(t.Context()).Vector()
		require.NoError(t, err, name)
		if len(vector) > 0 {
			fire = append(fire, name)
		}
		q.Close()
	}
	return fire
}
