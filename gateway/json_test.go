package gateway

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pebbledash/pebbledash/gateway/watchcache"
	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// postJSON returns the answer's code and body.
func postJSON(t *testing.T, url string, body io.Reader) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodPost, url, body)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(answer)
}

// openWebSocket opens one that ends before the test's patience.
func openWebSocket(t *testing.T, url string, header http.Header) *websocket.Conn {
	t.Helper()
	ctx := within(t)
	conn, _, err := websocket.DefaultDialer.DialContext(ctx, url, header)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	end, _ := ctx.Deadline()
	require.NoError(t, conn.SetReadDeadline(end))
	return conn
}

func TestJSONIsMadeAtTheFirstRequest(t *testing.T) {
	s, addr := serve(t, Config{}, newFakeStore())
	require.NoError(t, put(t, addr))
	require.Nil(t, s.json.conn.conn)
	require.Nil(t, s.inner.conn)
	code, body := postJSON(t, "http://"+addr+"/v3/kv/put", strings.NewReader(`{"key":"aw=="}`))
	require.Equal(t, http.StatusOK, code, body)
	var r pb.PutResponse
	require.NoError(t, protojson.Unmarshal([]byte(body), &r))
	requireHeader(t, r.Header)
	require.NotNil(t, s.json.conn.conn)
	require.Nil(t, s.inner.conn)
	require.InDelta(t, 2, testutil.ToFloat64(s.metrics.methods[pb.KV_Put_FullMethodName].started), 0, "it is counted like any call")
}

func TestJSONAfterTheEnd(t *testing.T) {
	s := New(Config{}, newFakeStore())
	s.Close()
	_, err := s.json.conn.dial()
	require.ErrorIs(t, err, errLoopbackClosed)
	_, err = (&lockServer{Server: s}).Unlock(t.Context(), nil)
	require.Error(t, err)
}

// Queues are told who asks, and not by the client.
func TestJSONHasTheClientsAddress(t *testing.T) {
	store := newFakeStore()
	came := make(chan string, 1)
	store.do = func(ctx context.Context, _ evaluate.Op) (evaluate.Result, error) {
		p, _ := peer.FromContext(ctx)
		came <- p.Addr.String()
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	_, addr := serve(t, Config{}, store)
	req, err := http.NewRequestWithContext(within(t), http.MethodPost, "http://"+addr+"/v3/kv/put", strings.NewReader(`{"key":"aw=="}`))
	require.NoError(t, err)
	req.Header = http.Header{"X-Forwarded-For": {"192.0.2.1"}, "Grpc-Metadata-X-Forwarded-For": {"192.0.2.2"}}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	_ = resp.Body.Close()
	require.Equal(t, "127.0.0.1", <-came)
}

// A message is bounded, and not the body that it is in: a watch may go on for ever.
func TestJSONIsBounded(t *testing.T) {
	addr := serveWatch(t, Config{MaxRequestBytes: 1000}, watchcache.Config{}).addr
	limit := jsonGrowth * (1000 + recvOverhead)
	padded := func(n int) string {
		body := `{"key":"aw==","range_end":"` + strings.Repeat("!", n)
		return body
	}
	code, body := postJSON(t, "http://"+addr+"/v3/kv/range", strings.NewReader(padded(limit)))
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, body, "etcdserver: request is too large")
	// What comes behind a message is not read for ever either.
	code, _ = postJSON(t, "http://"+addr+"/v3/kv/range", strings.NewReader(`{"key":"aw=="}`+strings.Repeat(" ", 2*limit)))
	require.Equal(t, http.StatusOK, code)

	conn := openWebSocket(t, "ws://"+addr+"/v3/watch", nil)
	create := `{"create_request":{"key":"aw=="}` + strings.Repeat(" ", limit/2) + `}`
	for range 4 { // together more than the limit
		require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(create)))
		_, answer, err := conn.ReadMessage()
		require.NoError(t, err)
		require.Contains(t, string(answer), "created")
	}
	// It may be cut off before all of it is sent.
	if conn.WriteMessage(websocket.TextMessage, []byte(create+strings.Repeat(" ", limit))) == nil {
		_, answer, err := conn.ReadMessage()
		require.Error(t, err, "%s", answer)
	}
}

func TestWebSocketsAreForAllowedOrigins(t *testing.T) {
	_, addr := serve(t, Config{CORSOrigins: []string{"http://example.com:80"}}, newFakeStore())
	open := func(origin string) error {
		conn, resp, err := websocket.DefaultDialer.DialContext(within(t), "ws://"+addr+"/v3/watch", http.Header{"Origin": {origin}})
		if err == nil {
			_ = conn.Close()
		} else {
			require.Equal(t, http.StatusForbidden, resp.StatusCode)
		}
		return err
	}
	require.NoError(t, open("http://example.com:80"))
	require.ErrorIs(t, open("http://example.net:80"), websocket.ErrBadHandshake)
}

func TestWebSocketMessagesAreBounded(t *testing.T) {
	s := New(Config{}, newFakeStore())
	defer s.Close()
	got := make(chan string, 2)
	url := serveWebSockets(t, s, 100, func(_ http.ResponseWriter, r *http.Request) {
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			got <- lines.Text()
		}
		close(got)
	})
	conn := openWebSocket(t, url, nil)
	for _, n := range []int{100, 101} {
		require.NoError(t, conn.WriteMessage(websocket.TextMessage, bytes.Repeat([]byte("x"), n)))
	}
	_, _, err := conn.ReadMessage()
	require.True(t, websocket.IsCloseError(err, websocket.CloseMessageTooBig), "%v", err)
	require.Len(t, <-got, 100)
	require.Empty(t, <-got)
}

func serveWebSockets(t *testing.T, s *Server, limit int64, handler http.HandlerFunc) (url string) {
	t.Helper()
	h := newHTTPServer(webSockets(s, limit, handler))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = h.Serve(l) }()
	t.Cleanup(func() { _ = h.Close() })
	return "ws://" + l.Addr().String() + "/"
}

// A token is where browsers can put it.
func TestWebSocketTokens(t *testing.T) {
	for _, header := range []http.Header{
		{"Sec-Websocket-Protocol": {"Bearer, secret"}},
		{"Sec-Websocket-Protocol": {"Bearer,secret"}},
		{"Cookie": {"token=secret"}},
	} {
		got := make(chan string, 1)
		s := New(Config{}, newFakeStore())
		defer s.Close()
		url := serveWebSockets(t, s, 100, func(_ http.ResponseWriter, r *http.Request) {
			got <- r.Header.Get("Authorization")
		})
		conn := openWebSocket(t, url, header)
		require.Equal(t, "Bearer secret", <-got)
		_, _, err := conn.ReadMessage()
		require.True(t, websocket.IsCloseError(err, websocket.CloseNormalClosure), "%v", err)
	}
}

// Requests that do not end by themselves end with the server.
func TestStopEndsJSON(t *testing.T) {
	w := serveWatch(t, Config{}, watchcache.Config{})
	waiting := make(chan struct{}, 1)
	w.store.do = func(ctx context.Context, _ evaluate.Op) (evaluate.Result, error) {
		waiting <- struct{}{}
		<-ctx.Done()
		return evaluate.Result{}, ctx.Err()
	}
	ws := openWebSocket(t, "ws://"+w.addr+"/v3/watch", nil)
	require.NoError(t, ws.WriteMessage(websocket.TextMessage, []byte(`{"create_request":{"key":"aw=="}}`)))
	_, created, err := ws.ReadMessage()
	require.NoError(t, err)
	require.Contains(t, string(created), "created")
	patience, stopped := within(t), make(chan struct{})
	go func() {
		defer close(stopped)
		<-waiting
		w.server.Stop(patience)
	}()
	_, body := postJSON(t, "http://"+w.addr+"/v3/lock/unlock", strings.NewReader(`{"key":"aw=="}`))
	require.Contains(t, body, "server stopped")
	<-stopped
	for err = nil; err == nil; { // It may be told why.
		_, _, err = ws.ReadMessage()
	}
}
