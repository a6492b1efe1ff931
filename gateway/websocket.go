package gateway

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// A browser can't send a request while it reads the answer; over a WebSocket it can.
// As in etcd, what comes in messages is the body of one request, always a POST, and
// each line of the answer is a message.

const (
	// webSocketCookie has a token, for who can't set headers; so has what a client
	// asks for as a protocol, "Bearer, token".
	webSocketCookie   = "token"
	webSocketProtocol = "Sec-WebSocket-Protocol"
	webSocketBearer   = "Bearer"
	webSocketBuffer   = 1 << 10
	// webSocketGrace is how long a client may take for the last message.
	webSocketGrace = time.Second
)

// webSockets serves next over WebSockets to who asks for one. No message may be
// longer than limit.
func webSockets(s *Server, limit int64, next http.Handler) http.Handler {
	upgrader := websocket.Upgrader{
		ReadBufferSize:  webSocketBuffer,
		WriteBufferSize: webSocketBuffer,
		// A browser asks nobody before it opens one, and --cors has to hold there
		// too. etcd lets all in.
		CheckOrigin: func(r *http.Request) bool {
			origin := r.Header.Get("Origin")
			return origin == "" || s.access.origin(origin)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			next.ServeHTTP(w, r)
			return
		}
		var header http.Header
		if strings.HasPrefix(r.Header.Get(webSocketProtocol), webSocketBearer) {
			header = http.Header{webSocketProtocol: {webSocketBearer}}
		}
		conn, err := upgrader.Upgrade(w, r, header)
		if err != nil {
			s.log.Debug("a client could not open a WebSocket", slog.Any("err", err))
			return
		}
		defer conn.Close()
		conn.SetReadLimit(limit)
		serveWebSocket(s, conn, r, next)
	})
}

func serveWebSocket(s *Server, conn *websocket.Conn, r *http.Request, next http.Handler) {
	// Nobody else ends a connection that HTTP's server has given away.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stop := context.AfterFunc(s.lifetime, func() {
		cancel()
		_ = conn.NetConn().SetDeadline(clock.Real{}.Now().Add(webSocketGrace))
	})
	defer stop()

	body, in := io.Pipe()
	defer in.Close()
	go func() {
		defer cancel()
		defer in.Close()
		for {
			_, message, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if _, err := in.Write(append(message, '\n')); err != nil {
				return
			}
		}
	}()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL.String(), body)
	if err != nil {
		return
	}
	request.RemoteAddr, request.TLS = r.RemoteAddr, r.TLS
	for _, h := range []string{"Origin", "Referer"} {
		if v := r.Header.Get(h); v != "" {
			request.Header.Set(h, v)
		}
	}
	if _, token, ok := strings.Cut(r.Header.Get(webSocketProtocol), webSocketBearer+","); ok {
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	}
	if c, err := r.Cookie(webSocketCookie); err == nil {
		request.Header.Set("Authorization", "Bearer "+c.Value)
	}
	answer := &webSocketWriter{conn: conn, header: http.Header{}}
	next.ServeHTTP(answer, request)
	if answer.end() == nil {
		_ = conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
	}
}

// webSocketWriter makes a message of each line that is written.
type webSocketWriter struct {
	conn   *websocket.Conn
	header http.Header
	// line is what has been written of a line that has not ended.
	line []byte
}

func (w *webSocketWriter) Header() http.Header { return w.header }
func (w *webSocketWriter) WriteHeader(int)     {}

// Flush implements http.Flusher: lines are sent as they end.
func (w *webSocketWriter) Flush() {}

func (w *webSocketWriter) Write(b []byte) (int, error) {
	n := len(b)
	for {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		w.line = append(w.line, line...)
		if !ended {
			return n, nil
		}
		if err := w.send(); err != nil {
			return 0, err
		}
		b = rest
	}
}

// end sends what stands on a line that has not ended.
func (w *webSocketWriter) end() error { return w.send() }

func (w *webSocketWriter) send() error {
	if len(w.line) == 0 {
		return nil
	}
	err := w.conn.WriteMessage(websocket.TextMessage, w.line)
	if w.line = w.line[:0]; cap(w.line) > 1<<20 {
		w.line = nil
	}
	return err
}
