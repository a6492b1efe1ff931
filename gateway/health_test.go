package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/member"
)

// ask asks for a page as on a client's port.
func ask(s *Server, method, path string) (code int, body string) {
	return askHandler(s.http.Handler, method, path)
}

func askHandler(h http.Handler, method, path string) (code int, body string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, http.NoBody))
	b, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(b)
}

func TestHealth(t *testing.T) {
	store := newFakeStore()
	s := New(Config{}, store)
	t.Cleanup(s.Close)
	const ok, bad = http.StatusOK, http.StatusServiceUnavailable
	expect := func(path string, code int, body string) {
		t.Helper()
		gotCode, gotBody := ask(s, http.MethodGet, path)
		require.Equal(t, code, gotCode, path)
		require.Equal(t, body, gotBody, path)
	}
	expect("/health", ok, `{"health":"true","reason":""}`)
	expect("/health?serializable=true", ok, `{"health":"true","reason":""}`)
	expect("/health?exclude=NOSPACE", ok, `{"health":"true","reason":""}`)
	expect("/livez", ok, "ok\n")
	expect("/livez?verbose", ok, "[+]serializable_read ok\nok\n")
	expect("/readyz?verbose", ok,
		"[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n")
	expect("/readyz?verbose=&exclude=linearizable_read&exclude=nonsense&exclude=", ok,
		"[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner ok\nok\n")
	expect("/readyz/linearizable_read", ok, "ok\n")
	expect("/readyz/nonsense", http.StatusNotFound, "404 page not found\n")
	expect("/version", ok, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`)
	for _, path := range []string{"/health", "/livez", "/version"} {
		code, _ := ask(s, http.MethodPost, path)
		require.Equal(t, http.StatusMethodNotAllowed, code)
	}

	store.read = func(_ context.Context, _ evaluate.Op, serializable bool) (evaluate.Result, error) {
		if !serializable {
			return evaluate.Result{}, group.ErrTimeout
		}
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	const timedOut = "rpc error: code = Unavailable desc = etcdserver: request timed out"
	expect("/health", bad, `{"health":"false","reason":"RANGE ERROR:`+timedOut+`"}`+"\n")
	expect("/livez", ok, "ok\n")
	expect("/readyz", bad, "[+]data_corruption ok\n[+]serializable_read ok\n[-]linearizable_read failed: "+timedOut+"\n[+]non_learner ok\n\n")
	expect("/readyz?exclude=linearizable_read", ok, "ok\n")
	store.leader.Store(0)
	expect("/health", bad, `{"health":"false","reason":"RAFT NO LEADER"}`+"\n")
	expect("/health?serializable=true", ok, `{"health":"true","reason":""}`)

	_, metrics := ask(s, http.MethodGet, "/metrics")
	for _, line := range []string{
		"etcd_server_health_success 4",
		"etcd_server_health_failures 2",
		`etcd_server_healthcheck{name="linearizable_read",type="readyz"} 0`,
		`etcd_server_healthcheck{name="serializable_read",type="livez"} 1`,
		`etcd_server_healthchecks_total{name="linearizable_read",status="error",type="readyz"} 1`,
		`etcd_server_healthchecks_total{name="linearizable_read",status="success",type="readyz"} 2`,
	} {
		require.Contains(t, metrics, line+"\n")
	}
}

func TestMetrics(t *testing.T) {
	store := newFakeStore()
	s, addr := serve(t, Config{ExtensiveMetrics: true}, store)
	kv, ctx := pb.NewKVClient(dial(t, addr)), within(t)
	for range 3 {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
		require.NoError(t, err)
	}
	_, err := kv.Put(ctx, &pb.PutRequest{})
	require.Error(t, err)
	_, err = kv.Txn(ctx, &pb.TxnRequest{})
	require.NoError(t, err)
	stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("k")})
	require.NoError(t, err)
	for err == nil {
		_, err = stream.Recv()
	}
	require.ErrorIs(t, err, io.EOF)

	_, metrics := ask(s, http.MethodGet, "/metrics")
	put := `{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`
	list := `{grpc_method="RangeStream",grpc_service="etcdserverpb.KV",grpc_type="server_stream"}`
	for _, line := range []string{
		"grpc_server_started_total" + put + " 4",
		"grpc_server_msg_received_total" + put + " 4",
		"grpc_server_msg_sent_total" + put + " 4",
		`grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 3`,
		`grpc_server_handled_total{grpc_code="InvalidArgument",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1`,
		`grpc_server_handled_total{grpc_code="Unavailable",grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} 0`,
		"grpc_server_handling_seconds_count" + put + " 4",
		"grpc_server_started_total" + list + " 1",
		"grpc_server_msg_received_total" + list + " 1",
		"grpc_server_msg_sent_total" + list + " 1",
		`etcd_server_client_requests_total{client_api_version="unknown",type="unary"} 5`,
		`etcd_server_client_requests_total{client_api_version="unknown",type="stream"} 1`,
		`etcd_server_request_duration_seconds_count{success="true",type="Put"} 3`,
		`etcd_server_request_duration_seconds_count{success="false",type="Put"} 1`,
		`etcd_server_request_duration_seconds_count{success="true",type="ReadonlyTxn"} 1`,
		`etcd_network_server_stream_failures_total{API="lease-keepalive",Type="receive"} 0`,
		"pebbledash_gateway_connections 1",
		"pebbledash_gateway_pending_connections 0",
		"pebbledash_gateway_refused_connections_total 0",
	} {
		require.Contains(t, metrics, line+"\n")
	}
	require.NotContains(t, metrics, "etcd_network_client_grpc_received_bytes_total 0\n")
	require.NotContains(t, metrics, "etcd_network_client_grpc_sent_bytes_total 0\n")
	// As many as etcd 3.7.3 shows, our own of migrations and backups, and the 7 of locks and elections,
	// which it shows when they are called.
	require.Equal(t, 45+7+5+1, strings.Count(metrics, "\ngrpc_server_started_total{"))
}

func TestProfilesAreServedIfAskedFor(t *testing.T) {
	for _, on := range []bool{false, true} {
		s := New(Config{Profiling: on}, newFakeStore())
		rec := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/debug/pprof/cmdline", nil))
		require.Equal(t, on, rec.Code == http.StatusOK)
		s.Close()
	}
}

// checkedStore knows more than etcd of what may be wrong.
type checkedStore struct {
	*fakeStore
	wrong atomic.Pointer[string]
}

func (s *checkedStore) Checks() []member.Check {
	return []member.Check{
		{Name: "group_core", Run: func(context.Context) error { return nil }},
		{Name: "disk", Run: func(context.Context) error {
			if wrong := s.wrong.Load(); wrong != nil {
				return errors.New(*wrong)
			}
			return nil
		}},
	}
}

// The listeners of metrics have all pages, and the store's checks; the clients' have
// what etcd has.
func TestOps(t *testing.T) {
	store := &checkedStore{fakeStore: newFakeStore()}
	s := New(Config{Profiling: true}, store)
	t.Cleanup(s.Close)
	ops := func(path string) (int, string) { return askHandler(s.Ops(), http.MethodGet, path) }
	const etcds = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n"
	expect := func(path string, code int, body string) {
		t.Helper()
		gotCode, gotBody := ops(path)
		require.Equal(t, code, gotCode, path)
		require.Equal(t, body, gotBody, path)
	}
	expect("/readyz?verbose", http.StatusOK, etcds+"[+]group_core ok\n[+]disk ok\nok\n")
	full := "full"
	store.wrong.Store(&full)
	expect("/readyz", http.StatusServiceUnavailable, etcds+"[+]group_core ok\n[-]disk failed: full\n\n")
	expect("/readyz?exclude=disk", http.StatusOK, "ok\n")
	expect("/readyz/disk", http.StatusServiceUnavailable, "[-]disk failed: full\n\n")
	expect("/readyz/group_core", http.StatusOK, "ok\n")
	// What a restart does not mend does not make it less alive.
	expect("/livez?verbose", http.StatusOK, "[+]serializable_read ok\nok\n")
	expect("/healthz?verbose", http.StatusOK, "[+]serializable_read ok\nok\n")
	expect("/readyz/nonsense", http.StatusNotFound, "404 page not found\n")

	code, body := ask(s, http.MethodGet, "/readyz?verbose")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, etcds+"ok\n", body)
	for _, path := range []string{"/healthz", "/readyz/disk", "/flagz"} {
		code, _ := ask(s, http.MethodGet, path)
		require.Equal(t, http.StatusNotFound, code, path)
	}
	for _, path := range []string{"/health", "/livez", "/readyz", "/version", "/metrics", "/debug/vars", "/debug/pprof/"} {
		require.Contains(t, s.Ops().Paths(), path)
		code, _ := ask(s, http.MethodGet, path)
		require.Equal(t, http.StatusOK, code, path)
	}
}

func TestVars(t *testing.T) {
	s := New(Config{}, newFakeStore())
	t.Cleanup(s.Close)
	_, body := ask(s, http.MethodGet, "/debug/vars")
	var vars struct {
		CommandLine []string `json:"cmdline"`
		MemStats    struct{ Alloc uint64 }
		Raft        struct {
			ID, Lead              string
			Term, Commit, Applied uint64
		} `json:"raft.status"`
	}
	require.NoError(t, json.Unmarshal([]byte(body), &vars))
	require.Empty(t, vars.CommandLine, "secrets may be on it")
	require.Positive(t, vars.MemStats.Alloc)
	require.Equal(t, "3e", vars.Raft.ID)
	require.Equal(t, "3e", vars.Raft.Lead)
	require.EqualValues(t, 11, vars.Raft.Commit)
	require.EqualValues(t, 10, vars.Raft.Applied)
}
