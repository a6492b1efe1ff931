package gateway

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// certify returns a server's TLS configuration and one of a client that trusts
// it.
func certify(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, &tls.Config{RootCAs: roots}
}

// put makes a call on a connection of its own.
func put(t *testing.T, addr string, opts ...grpc.DialOption) error {
	t.Helper()
	_, err := pb.NewKVClient(dial(t, addr, opts...)).Put(within(t), &pb.PutRequest{Key: []byte("k")})
	return err
}

// get fetches a page on a connection of its own.
func get(t *testing.T, url string, config *tls.Config) (proto, body string, err error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.Proto, string(b), err
}

func TestOnePortForGRPCAndHTTP(t *testing.T) {
	serverTLS, clientTLS := certify(t)
	secure := grpc.WithTransportCredentials(credentials.NewTLS(clientTLS))
	const version = `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`

	t.Run("plain", func(t *testing.T) {
		_, addr := serve(t, Config{}, newFakeStore())
		require.NoError(t, put(t, addr))
		_, body, err := get(t, "http://"+addr+"/version", nil)
		require.NoError(t, err)
		require.JSONEq(t, version, body)
		require.Error(t, put(t, addr, secure))
	})
	t.Run("secure", func(t *testing.T) {
		store, authenticated := newFakeStore(), false
		store.do = func(ctx context.Context, _ evaluate.Op) (evaluate.Result, error) {
			p, _ := peer.FromContext(ctx)
			_, authenticated = p.AuthInfo.(credentials.TLSInfo)
			return evaluate.Result{Revision: fakeRevision}, nil
		}
		_, addr := serve(t, Config{TLS: serverTLS}, store)
		require.NoError(t, put(t, addr, secure))
		require.True(t, authenticated)
		proto, body, err := get(t, "https://"+addr+"/version", clientTLS)
		require.NoError(t, err)
		require.JSONEq(t, version, body)
		require.Equal(t, "HTTP/1.1", proto)
		require.Error(t, put(t, addr))
		// A gRPC client that offers HTTP/1.1 too is told by what it says.
		both := clientTLS.Clone()
		both.NextProtos = []string{"h2", "http/1.1"}
		require.NoError(t, put(t, addr, grpc.WithTransportCredentials(credentials.NewTLS(both))))
	})
	t.Run("either", func(t *testing.T) {
		s := New(Config{TLS: serverTLS}, newFakeStore())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- s.serveMode(l, modeEither) }()
		addr := l.Addr().String()
		require.NoError(t, put(t, addr))
		require.NoError(t, put(t, addr, secure))
		for _, scheme := range []string{"http", "https"} {
			_, body, err := get(t, scheme+"://"+addr+"/version", clientTLS)
			require.NoError(t, err)
			require.JSONEq(t, version, body)
		}
		s.Close()
		require.NoError(t, <-served)
	})
	t.Run("renewed certificates", func(t *testing.T) {
		calls := 0
		renewing := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			calls++
			return serverTLS, nil
		}}
		_, addr := serve(t, Config{TLS: renewing}, newFakeStore())
		require.NoError(t, put(t, addr, secure))
		proto, _, err := get(t, "https://"+addr+"/version", clientTLS)
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1", proto)
		require.Equal(t, 2, calls)
	})
	t.Run("TLS listener", func(t *testing.T) {
		s := New(Config{}, newFakeStore())
		l, err := tls.Listen("tcp", "127.0.0.1:0", ServerTLS(serverTLS))
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		require.NoError(t, put(t, l.Addr().String(), secure))
		proto, body, err := get(t, "https://"+l.Addr().String()+"/version", clientTLS)
		require.NoError(t, err)
		require.JSONEq(t, version, body)
		require.Equal(t, "HTTP/1.1", proto)
		s.Close()
		require.NoError(t, <-served)
	})
	t.Run("no configuration", func(t *testing.T) {
		s := New(Config{}, newFakeStore())
		t.Cleanup(s.Close)
		require.Error(t, s.serveMode(nil, modeSecure))
	})
}

// TestSniff has clients that speak one byte at a time.
func TestSniff(t *testing.T) {
	_, addr := serve(t, Config{}, newFakeStore())
	speak := func(text string) *bufio.Reader {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second))) //nolint:forbidigo // A socket's deadline.
		for i := range len(text) {
			_, err = c.Write([]byte{text[i]})
			require.NoError(t, err)
		}
		return bufio.NewReader(c)
	}
	for _, text := range []string{"GET /version HTTP/1.0\r\n\r\n", "PROPFIND / HTTP/1.0\r\n\r\n", "PRI * HTTP/1.0\r\n\r\n"} {
		line, err := speak(text).ReadString('\n')
		require.NoError(t, err, text)
		require.Contains(t, line, "HTTP/1.")
	}
	// gRPC's transport answers with a SETTINGS frame: three bytes of length and
	// a type of 4.
	frame := make([]byte, 4)
	_, err := io.ReadFull(speak(http2Preface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"), frame)
	require.NoError(t, err)
	require.EqualValues(t, 4, frame[3])
}

func TestSilentConnections(t *testing.T) {
	s, addr := serve(t, Config{MaxPendingConnections: 2}, newFakeStore())
	open := func(text string) net.Conn {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		_, err = c.Write([]byte(text))
		require.NoError(t, err)
		return c
	}
	ended := func(c net.Conn) {
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second))) //nolint:forbidigo // A socket's deadline.
		n, err := io.Copy(io.Discard, c)
		require.LessOrEqual(t, n, int64(100), "at most gRPC's SETTINGS")
		if nerr := net.Error(nil); err != nil {
			require.NotErrorAs(t, err, &nerr, "still open") // A reset is as good as an end.
		}
	}
	silent, half := open(""), open(http2Preface[:5])
	require.Eventually(t, func() bool { return s.door.pendingConnections() == 2 }, 20*time.Second, time.Millisecond)
	ended(open("")) // There is no room for a third.
	require.EqualValues(t, 1, s.door.refused.Load())
	require.NoError(t, half.Close())
	require.Eventually(t, func() bool { return s.door.pendingConnections() == 1 }, 20*time.Second, time.Millisecond)
	require.NoError(t, put(t, addr), "there is room again")

	// gRPC would wait for the silent one for as long as it may take.
	s.Stop(within(t))
	ended(silent)
	require.Zero(t, s.door.pendingConnections())
	require.Eventually(t, func() bool { return s.door.connections() == 0 }, 20*time.Second, time.Millisecond)
}

func TestTooManyConnections(t *testing.T) {
	s, addr := serve(t, Config{MaxConnections: 1}, newFakeStore())
	first := dial(t, addr)
	_, err := pb.NewKVClient(first).Put(within(t), &pb.PutRequest{Key: []byte("k")})
	require.NoError(t, err)
	_, _, err = get(t, "http://"+addr+"/version", nil)
	require.Error(t, err)
	require.Positive(t, s.door.refused.Load())
	require.NoError(t, first.Close())
	require.Eventually(t, func() bool { return s.door.connections() == 0 }, 20*time.Second, time.Millisecond)
	_, _, err = get(t, "http://"+addr+"/version", nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.door.connections() == 0 }, 20*time.Second, time.Millisecond, "HTTP connections leave too")
}

func TestHandshakeTimeout(t *testing.T) {
	s, addr := serve(t, Config{HandshakeTimeout: 50 * time.Millisecond}, newFakeStore())
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.Eventually(t, func() bool { return s.door.pendingConnections() == 1 || s.door.connections() == 0 }, 20*time.Second, time.Millisecond)
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second))) //nolint:forbidigo // A socket's deadline.
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Eventually(t, func() bool { return s.door.connections() == 0 }, 20*time.Second, time.Millisecond)
}
