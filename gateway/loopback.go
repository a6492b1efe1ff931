package gateway

import (
	"context"
	"errors"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/test/bufconn"
)

// Some calls are served by other calls to this server: those that come as JSON,
// and those of locks and elections. They take a connection in memory and pass the
// same interceptors, limits and metrics as if they had come from outside.

const (
	// loopbackBuffer is what a connection in memory holds in one direction.
	loopbackBuffer = 64 << 10
	// loopbackIdle is how long such a connection is kept unused.
	loopbackIdle = 5 * time.Minute
)

var errLoopbackClosed = errors.New("gateway: the server has stopped")

// loopback is a connection from a server to itself. There is none before the
// first use.
type loopback struct {
	server *Server
	info   loopbackInfo

	// mu guards the fields below; nothing is taken after it.
	mu     sync.Mutex
	conn   *grpc.ClientConn
	closed bool
}

// loopbackInfo is what a call over a loopback has for the credentials of its peer.
type loopbackInfo struct {
	credentials.CommonAuthInfo
	// trusted says that what the calls say about who is behind them is true.
	trusted bool
}

// AuthType implements credentials.AuthInfo.
func (loopbackInfo) AuthType() string { return "loopback" }

func newLoopback(s *Server, trusted bool) *loopback {
	return &loopback{server: s, info: loopbackInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		trusted:        trusted,
	}}
}

// dial returns the connection.
func (l *loopback) dial() (*grpc.ClientConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errLoopbackClosed
	}
	if l.conn != nil {
		return l.conn, nil
	}
	listener := bufconn.Listen(loopbackBuffer)
	conn, err := grpc.NewClient("passthrough:///loopback",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithIdleTimeout(loopbackIdle),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
	)
	if err != nil {
		return nil, err
	}
	l.conn = conn
	// It ends when gRPC's server does, at the latest with Close.
	l.server.background.Go(func() { _ = l.server.grpc.Serve(&loopbackListener{listener, l.info}) })
	return conn, nil
}

// shut lets no connection be made any more.
func (l *loopback) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// close ends the connection. REQUIRES: shut was called.
func (l *loopback) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_ = l.conn.Close()
		l.conn = nil
	}
}

type loopbackListener struct {
	*bufconn.Listener
	info loopbackInfo
}

func (l *loopbackListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &loopbackConn{c, l.info}, nil
}

// loopbackConn is the server's end. The door lets it pass.
type loopbackConn struct {
	net.Conn
	info loopbackInfo
}

// callerKey is the metadata with which a call over a trusted loopback says in
// whose name it is made.
const callerKey = "pebbledash-caller"

// forwardedFor is the metadata with which grpc-gateway ends the list of the addresses
// that a request came from.
const forwardedFor = "x-forwarded-for"

// callers are those whose calls are being served by calls of our own. Who came
// with a certificate is known by it also to those.
type callers struct {
	last atomic.Uint64
	// peers has a *peer.Peer by what stands in callerKey, as long as its call
	// lasts.
	peers sync.Map
}

// restore gives a call its caller's peer, if it is a call of our own. Of who has sent
// JSON it is the address, by which queues tell clients apart.
func (c *callers) restore(ctx context.Context, header metadata.MD) context.Context {
	ids, addresses := header[callerKey], header[forwardedFor]
	if len(ids) == 0 && len(addresses) == 0 {
		return ctx
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ctx
	}
	info, ok := p.AuthInfo.(loopbackInfo)
	switch {
	case !ok:
	case !info.trusted && len(addresses) > 0:
		// What stands before it is what the client says.
		list := addresses[len(addresses)-1]
		address := strings.TrimSpace(list[strings.LastIndexByte(list, ',')+1:])
		return peer.NewContext(ctx, &peer.Peer{Addr: &net.IPAddr{IP: net.ParseIP(address)}, LocalAddr: p.LocalAddr, AuthInfo: info})
	case info.trusted && len(ids) > 0:
		if caller, ok := c.peers.Load(ids[0]); ok {
			return peer.NewContext(ctx, caller.(*peer.Peer))
		}
	}
	return ctx
}

// forwarded is the metadata that calls of our own have from the call that they
// are for: who it is, and what it speaks.
var forwarded = []string{
	rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger, rpctypes.MetadataClientAPIVersionKey,
}

// callAs makes a client of this server that acts for the caller of ctx. It is for
// one call: what it holds goes with close, and what it does is not ended with
// ctx, so that what a call leaves behind can be removed. The context that is
// returned is for what it does otherwise; it also ends when the server stops.
func (s *Server) callAs(ctx context.Context) (client *clientv3.Client, bound context.Context, end func(), err error) {
	conn, err := s.inner.dial()
	if err != nil {
		return nil, nil, nil, rpctypes.ErrGRPCStopped
	}
	md := metadata.MD{}
	if in, ok := metadata.FromIncomingContext(ctx); ok {
		for _, key := range forwarded {
			if vs := in.Get(key); len(vs) > 0 {
				md.Set(key, vs...)
			}
		}
	}
	forget := func() {}
	if p, ok := peer.FromContext(ctx); ok {
		id := strconv.FormatUint(s.callers.last.Add(1), 10)
		s.callers.peers.Store(id, p)
		forget = func() { s.callers.peers.Delete(id) }
		md.Set(callerKey, id)
	}
	ctx = metadata.NewOutgoingContext(ctx, md)
	bound, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.lifetime, func() { cancel(rpctypes.ErrGRPCStopped) })
	client = clientv3.NewCtxClient(context.WithoutCancel(ctx))
	client.KV = firmKV{clientv3.NewKVFromKVClient(pb.NewKVClient(conn), client)}
	client.Lease = clientv3.NewLeaseFromLeaseClient(pb.NewLeaseClient(conn), client, time.Second)
	client.Watcher = clientv3.NewWatchFromWatchClient(pb.NewWatchClient(conn), client)
	end = func() {
		stop()
		cancel(nil)
		_ = client.Close() // It says that its context has ended.
		forget()
	}
	return client, bound, end, nil
}

// firmKV sees transactions through, also if the caller has left: it is a transaction
// that takes a place in a queue, and who doesn't know whether it has one can't give it
// up. The server bounds how long it takes.
type firmKV struct{ clientv3.KV }

// Txn implements clientv3.KV.
func (kv firmKV) Txn(ctx context.Context) clientv3.Txn {
	return kv.KV.Txn(context.WithoutCancel(ctx))
}

// asCaller does a call by calls in the name of its caller (callAs).
func asCaller[R any](
	ctx context.Context, s *Server, do func(context.Context, *clientv3.Client) (*R, error),
) (*R, error) {
	client, ctx, end, err := s.callAs(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	r, err := do(ctx, client)
	return r, because(ctx, err)
}

// because is the error of a call that callAs was for: the server's end explains
// what came of it.
func because(bound context.Context, err error) error {
	if err != nil && context.Cause(bound) == rpctypes.ErrGRPCStopped { //nolint:errorlint // The cause is our own.
		return rpctypes.ErrGRPCStopped
	}
	return err
}
