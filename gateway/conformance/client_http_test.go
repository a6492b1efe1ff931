package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// http asks the client port and renders the answer as "code: body".
func (m *member) http(t *testing.T, method, path, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), method, m.Endpoint()+path, strings.NewReader(body))
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return fmt.Sprintf("%d: %s", resp.StatusCode, strings.TrimSpace(string(answer)))
}

const decidedVersion = `200: {"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`

// awaitVersion waits until the cluster has decided on its version, which etcd
// does just after it is ready.
func (m *member) awaitVersion(t *testing.T) {
	t.Helper()
	eventually(within(t), t, func() bool { return m.http(t, http.MethodGet, "/version", "") == decidedVersion })
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	m := start(t)
	const get, post = http.MethodGet, http.MethodPost
	tellHTTP := func(name, method, path, body, want string) {
		t.Run(name, func(t *testing.T) {
			once(t)
			require.Equal(t, want, m.http(t, method, path, body))
		})
	}
	t.Run("version", func(t *testing.T) {
		once(t)
		m.awaitVersion(t)
	})
	tellHTTP("health", get, "/health", "", `200: {"health":"true","reason":""}`)
	tellHTTP("health of this member alone", get, "/health?serializable=true", "", `200: {"health":"true","reason":""}`)
	tellHTTP("health is only read", post, "/health", "", "405: Method Not Allowed")
	tellHTTP("live", get, "/livez", "", "200: ok")
	tellHTTP("live, in detail", get, "/livez?verbose", "", "200: [+]serializable_read ok\nok")
	tellHTTP("a check of liveness", get, "/livez/serializable_read", "", "200: ok")
	tellHTTP("ready", get, "/readyz", "", "200: ok")
	tellHTTP("ready, but for", get, "/readyz?verbose&exclude=data_corruption&exclude=serializable_read&exclude=non_learner", "", "200: [+]linearizable_read ok\nok")
	tellHTTP("a check of readiness, in detail", get, "/readyz/linearizable_read?verbose", "", "200: [+]linearizable_read ok\nok")
	tellHTTP("another", get, "/readyz/data_corruption", "", "200: ok")
	tellHTTP("a check that is none", get, "/readyz/nonsense", "", "404: 404 page not found")
	tellHTTP("ready is only read", post, "/readyz", "", "405: Method Not Allowed")
	t.Run("ready, in detail", func(t *testing.T) {
		once(t)
		lines := strings.Split(m.http(t, get, "/readyz?verbose", ""), "\n")
		lines[0] = strings.TrimPrefix(lines[0], "200: ")
		slices.Sort(lines)
		require.Equal(t, []string{"[+]data_corruption ok", "[+]linearizable_read ok", "[+]non_learner ok", "[+]serializable_read ok", "ok"}, lines)
	})
	t.Run("an alarm makes it unhealthy", func(t *testing.T) {
		once(t)
		alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: m.memberID}
		m.must(t, alarm, "rev=1 alarms=[NOSPACE of me]")
		require.Equal(t, `503: {"health":"false","reason":"ALARM NOSPACE"}`, m.http(t, get, "/health", ""))
		require.Equal(t, `200: {"health":"true","reason":""}`, m.http(t, get, "/health?exclude=NOSPACE", ""))
		require.Equal(t, "200: ok", m.http(t, get, "/readyz", ""))
		alarm.Action = pb.AlarmRequest_DEACTIVATE
		m.must(t, alarm, "rev=1 alarms=[NOSPACE of me]")
		require.Equal(t, `200: {"health":"true","reason":""}`, m.http(t, get, "/health", ""))
	})
	t.Run("metrics", func(t *testing.T) {
		once(t)
		metrics := m.http(t, get, "/metrics", "")
		require.True(t, strings.HasPrefix(metrics, "200: "))
		var missing []string
		for _, want := range alertMetrics {
			if !strings.Contains(metrics, "\n"+want) {
				missing = append(missing, want)
			}
		}
		require.Empty(t, missing)
	})
	t.Run("JSON", func(t *testing.T) {
		once(t)
		type header struct {
			ClusterID string `json:"cluster_id"`
			MemberID  string `json:"member_id"`
			Revision  string `json:"revision"`
			RaftTerm  string `json:"raft_term"`
		}
		post := func(path, body string) (h header, rest string) {
			t.Helper()
			answer := m.http(t, post, path, body)
			code, text, _ := strings.Cut(answer, ": ")
			require.Equal(t, "200", code, answer)
			var whole map[string]json.RawMessage
			require.NoError(t, json.Unmarshal([]byte(text), &whole))
			if whole["header"] != nil {
				require.NoError(t, json.Unmarshal(whole["header"], &h))
				delete(whole, "header")
			}
			out, err := json.Marshal(whole)
			require.NoError(t, err)
			return h, string(out)
		}
		h, rest := post("/v3/kv/put", `{"key":"aw==","value":"MQ=="}`)
		require.Equal(t, "2", h.Revision)
		require.Equal(t, fmt.Sprint(m.clusterID), h.ClusterID)
		require.Equal(t, fmt.Sprint(m.memberID), h.MemberID)
		require.NotEmpty(t, h.RaftTerm)
		require.JSONEq(t, `{}`, rest)
		_, rest = post("/v3/kv/range", `{"key":"aw=="}`)
		require.JSONEq(t, `{"kvs":[{"key":"aw==","create_revision":"2","mod_revision":"2","version":"1","value":"MQ=="}],"count":"1"}`, rest)
		_, rest = post("/v3/kv/txn", `{"compare":[{"key":"aw==","target":"MOD","mod_revision":"2"}],"success":[{"request_delete_range":{"key":"aw=="}}]}`)
		require.JSONEq(t, `{"succeeded":true,"responses":[{"response_delete_range":{"header":{"revision":"3"},"deleted":"1"}}]}`, rest)
		code, text, _ := strings.Cut(m.http(t, http.MethodPost, "/v3/kv/put", `{"value":"MQ=="}`), ": ")
		require.Equal(t, "400", code)
		require.JSONEq(t, `{"code":3,"message":"etcdserver: key is not provided"}`, text)
		h, _ = post("/v3/maintenance/status", `{}`)
		require.Equal(t, "3", h.Revision)
	})
}

// alertMetrics are what the rules and the dashboard of etcd's mixin read.
var alertMetrics = []string{
	"etcd_server_has_leader 1",
	"etcd_server_is_leader 1",
	"etcd_server_leader_changes_seen_total ",
	"etcd_server_proposals_failed_total ",
	"etcd_server_proposals_pending ",
	"etcd_server_proposals_committed_total ",
	"etcd_server_proposals_applied_total ",
	"etcd_server_quota_backend_bytes ",
	"etcd_server_id{",
	"etcd_server_version{",
	"etcd_mvcc_db_total_size_in_bytes ",
	"etcd_mvcc_db_total_size_in_use_in_bytes ",
	"etcd_disk_wal_fsync_duration_seconds_bucket{",
	"etcd_disk_backend_commit_duration_seconds_bucket{",
	"etcd_debugging_mvcc_slow_watcher_total ",
	"etcd_debugging_mvcc_watcher_total ",
	"etcd_network_client_grpc_received_bytes_total ",
	"etcd_network_client_grpc_sent_bytes_total ",
	"grpc_server_started_total{",
	"grpc_server_handled_total{",
	"grpc_server_msg_received_total{",
	"process_open_fds ",
	"process_max_fds ",
	"process_resident_memory_bytes ",
}
