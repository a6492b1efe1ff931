package json

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/gateway/conformance/certs"
	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// patience bounds every wait of a script.
const patience = 30 * time.Second

// TestSessions runs the scripts of testdata, each with a server of its own. The
// commands:
//
//	server     starts another server, which is asked from then on; each line of the
//	           input is a flag. With tls it serves TLS and wants certificates.
//	post       sends requests to a path, a line of the input the body of each. A line
//	           "> Name: value" is a header of those that follow. get, put and options
//	           are alike. show=Name prints that header of the answers as well.
//	big        posts a put whose value is bytes=n long.
//	open       begins a request whose answer goes on, named as=x; the input is its
//	           body. With ws it is over a WebSocket.
//	send       sends each line of the input over the WebSocket x.
//	read       prints lines=n of what comes to x.
//	close      leaves x.
//	start      begins a post, named as=x, that is not answered at once.
//	finish     prints the answer to x.
//	abandon    leaves x, which was not answered.
//
// JSON is printed without spaces. What differs from run to run is printed as its kind
// in angle brackets; the last lease that was seen is <lease>, also in a request, and
// so is the last token.
func TestSessions(t *testing.T) {
	binary, err := server.Resolve(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, binary.Close()) })
	scripts, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			s := &session{binary: binary.Path, streams: map[string]stream{}, pending: map[string]*pending{}}
			s.serve(t, false)
			defer s.leave()
			datadriven.RunTest(t, path, s.run)
		})
	}
}

// session is a server and what is under way with it.
type session struct {
	binary  string
	server  *server.Server
	client  *http.Client
	tls     *tls.Config
	streams map[string]stream
	pending map[string]*pending
	// lease and token are the last that were seen.
	lease, token string
}

// pending is a request that is not answered at once.
type pending struct {
	answer chan string
	leave  context.CancelFunc
}

// stream is an answer that goes on.
type stream interface {
	send(line string) error
	line() (string, error)
	close()
}

func (s *session) serve(t *testing.T, secure bool, flags ...string) {
	t.Helper()
	cfg := server.Config{Binary: s.binary, Args: flags}
	s.tls = nil
	if secure {
		urls, err := server.FreeURLs(1)
		require.NoError(t, err)
		cfg.ClientURL = strings.Replace(urls[0], "http:", "https:", 1)
		ca, err := certs.New(t.TempDir(), "authority")
		require.NoError(t, err)
		require.NoError(t, ca.Issue("server", "server", "127.0.0.1"))
		s.tls, err = ca.Client("client")
		require.NoError(t, err)
		cfg.Args = append(cfg.Args, "--trusted-ca-file="+ca.Path("ca.crt"), "--client-cert-auth",
			"--cert-file="+ca.Path("server.crt"), "--key-file="+ca.Path("server.key"))
	}
	s.server = server.Run(t, cfg)
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: s.tls}}
	t.Cleanup(s.client.CloseIdleConnections)
}

func (s *session) leave() {
	for _, p := range s.pending {
		p.leave()
	}
	for _, st := range s.streams {
		st.close()
	}
}

func (s *session) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var path, as string
	if len(d.CmdArgs) > 0 && strings.HasPrefix(d.CmdArgs[0].Key, "/") {
		path = d.CmdArgs[0].Key
	}
	d.MaybeScanArgs(t, "as", &as)
	switch d.Cmd {
	case "server":
		s.serve(t, d.HasArg("tls"), lines(d.Input)...)
		return ""
	case "post", "get", "put", "options":
		var show string
		d.MaybeScanArgs(t, "show", &show)
		return s.each(ctx, strings.ToUpper(d.Cmd), path, d.Input, show)
	case "big":
		var size int
		d.ScanArgs(t, "bytes", &size)
		value := base64.StdEncoding.EncodeToString(make([]byte, size))
		return s.ask(ctx, http.MethodPost, "/v3/kv/put", nil, `{"key":"YQ==","value":"`+value+`"}`, "")
	case "start":
		ctx, cancel := context.WithCancel(t.Context())
		p := &pending{make(chan string, 1), cancel}
		s.pending[as] = p
		body := s.fill(d.Input)
		go func() { p.answer <- s.ask(ctx, http.MethodPost, path, nil, body, "") }()
		return ""
	case "abandon":
		s.pending[as].leave()
		<-s.pending[as].answer
		return ""
	case "finish":
		select {
		case answer := <-s.pending[as].answer:
			return answer
		case <-ctx.Done():
			t.Fatalf("%s: no answer", d.Pos)
		}
	case "open":
		// It outlives the command.
		st, err := s.open(t.Context(), path, d.HasArg("ws"), s.fill(d.Input))
		require.NoError(t, err, d.Pos)
		s.streams[as] = st
		return ""
	case "send":
		for _, line := range lines(d.Input) {
			require.NoError(t, s.streams[as].send(s.fill(line)), d.Pos)
		}
		return ""
	case "read":
		n := 1
		d.MaybeScanArgs(t, "lines", &n)
		var out strings.Builder
		timer := time.AfterFunc(patience, s.streams[as].close)
		defer timer.Stop()
		for range n {
			line, err := s.streams[as].line()
			if err != nil {
				out.WriteString("ended\n")
				break
			}
			out.WriteString(s.mask(line) + "\n")
		}
		return out.String()
	case "close":
		s.streams[as].close()
		delete(s.streams, as)
		return ""
	default:
		d.Fatalf(t, "unknown command %q", d.Cmd)
	}
	return ""
}

func lines(input string) []string {
	if input == "" {
		return nil
	}
	return strings.Split(input, "\n")
}

func (s *session) each(ctx context.Context, method, path, input, show string) string {
	header := http.Header{}
	var out strings.Builder
	asked := false
	for _, line := range lines(input) {
		if h, ok := strings.CutPrefix(line, "> "); ok {
			name, value, _ := strings.Cut(h, ": ")
			header.Set(name, s.fill(value))
			continue
		}
		asked = true
		out.WriteString(s.ask(ctx, method, path, header, s.fill(line), show))
	}
	if !asked {
		out.WriteString(s.ask(ctx, method, path, header, "", show))
	}
	return out.String()
}

// ask sends one request, and prints the answer.
func (s *session) ask(ctx context.Context, method, path string, header http.Header, body, show string) string {
	req, err := http.NewRequestWithContext(ctx, method, s.server.Endpoint()+path, strings.NewReader(body))
	if err != nil {
		return err.Error() + "\n"
	}
	if header != nil {
		req.Header = header.Clone()
		req.Host = header.Get("Host")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if header == nil && len(body) > 1<<20 {
			return "cut off\n" // which depends on how fast the body was
		}
		return err.Error() + "\n"
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error() + "\n"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%d", resp.StatusCode)
	if show != "" {
		fmt.Fprintf(&out, " %s: %s", show, strings.Join(resp.Header.Values(show), "; "))
	}
	text := strings.TrimSpace(string(answer))
	if resp.StatusCode == http.StatusMisdirectedRequest {
		text = "" // Each server says it in its own words.
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line != "" {
			out.WriteString(" " + s.mask(line))
		}
	}
	return out.String() + "\n"
}

// open begins a request, or a WebSocket, to which each line of body is sent.
func (s *session) open(ctx context.Context, path string, ws bool, body string) (stream, error) {
	if ws {
		dialer := websocket.Dialer{TLSClientConfig: s.tls, HandshakeTimeout: patience}
		url := strings.Replace(s.server.Endpoint(), "http", "ws", 1) + path
		conn, resp, err := dialer.DialContext(ctx, url, nil)
		if err != nil {
			return nil, err
		}
		_ = resp.Body.Close()
		st := &webSocket{conn}
		for _, line := range lines(body) {
			if err := st.send(line); err != nil {
				return nil, err
			}
		}
		return st, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.server.Endpoint()+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	return &chunked{resp.Body, bufio.NewReader(resp.Body)}, nil
}

type chunked struct {
	body io.Closer
	in   *bufio.Reader
}

func (c *chunked) send(string) error { return net.ErrClosed }
func (c *chunked) close()            { _ = c.body.Close() }

func (c *chunked) line() (string, error) {
	line, err := c.in.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

type webSocket struct{ conn *websocket.Conn }

func (w *webSocket) send(line string) error {
	return w.conn.WriteMessage(websocket.TextMessage, []byte(line))
}
func (w *webSocket) close() { _ = w.conn.Close() }

func (w *webSocket) line() (string, error) {
	_, m, err := w.conn.ReadMessage()
	return string(m), err
}

// fill puts the last lease where a script has <lease>, and the token for <token>.
func (s *session) fill(line string) string {
	return strings.NewReplacer("<lease>", s.lease, "<token>", s.token).Replace(line)
}

var headerRevision = regexp.MustCompile(`"revision": *"\d+", *`)

var (
	leaseID = regexp.MustCompile(`"ID":"(\d{10,})"`)
	tokenIn = regexp.MustCompile(`"token":"([^"]+)"`)
)

// masks are tried in order.
var masks = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`"(cluster_id|member_id|raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|leader|hash|ID)":("?)\d+"?`), `"$1":<number>`},
	{regexp.MustCompile("proto:[ \u00a0]"), "proto: "}, // protobuf's errors have one or the other
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "<address>"},
	{regexp.MustCompile(`\(\d+ vs\. \d+\)`), "(<n> vs. <n>)"},
}

func (s *session) mask(line string) string {
	if strings.Contains(line, `"compact_revision"`) {
		// etcd leaves it out, and Pebbledash on purpose does not.
		line = headerRevision.ReplaceAllString(line, "")
	}
	var compact bytes.Buffer
	if json.Compact(&compact, []byte(line)) == nil {
		line = compact.String()
	}
	if m := leaseID.FindStringSubmatch(line); m != nil && !strings.Contains(line, `"members"`) {
		s.lease = m[1]
	}
	if m := tokenIn.FindStringSubmatch(line); m != nil {
		s.token = m[1]
		line = strings.ReplaceAll(line, s.token, "<token>")
	}
	if s.lease != "" {
		line = strings.ReplaceAll(line, s.lease, "<lease>")
	}
	for _, m := range masks {
		line = m.what.ReplaceAllString(line, m.with)
	}
	// Keys of locks and candidates end with the lease.
	return base64Word.ReplaceAllStringFunc(line, func(word string) string {
		raw, err := base64.StdEncoding.DecodeString(word[1 : len(word)-1])
		if suffix := "/" + hex(s.lease); err == nil && s.lease != "" && strings.HasSuffix(string(raw), suffix) {
			return `"<` + strings.TrimSuffix(string(raw), suffix) + `/lease>"`
		}
		return word
	})
}

var base64Word = regexp.MustCompile(`"[A-Za-z0-9+/]+=*"`)

func hex(decimal string) string {
	var n int64
	_, _ = fmt.Sscan(decimal, &n)
	return fmt.Sprintf("%x", n)
}
