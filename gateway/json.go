package gateway

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pebbledash/pebbledash/gateway/electionpb"
	"github.com/pebbledash/pebbledash/gateway/lockpb"
)

// jsonPath is where etcd's API is served as JSON; jsonAlias is what it was once
// called.
const (
	jsonPath  = "/v3/"
	jsonAlias = "/v3beta/"
)

// jsonGrowth is how many bytes of JSON may stand for one of the message: twice the
// base64 of a value is more than enough.
const jsonGrowth = 2

// errTooLargeJSON ends the reading of a message that the server would refuse.
var errTooLargeJSON = bodyError(status.Convert(rpctypes.ErrGRPCRequestTooLarge).Message())

type bodyError string

func (e bodyError) Error() string { return string(e) }

// jsonGateway serves etcd's API as JSON over HTTP, by grpc-gateway, as etcd does: a
// request becomes a call to this server. Who calls is known by the token in the
// Authorization header, and not by a certificate. What it needs is made at the first
// request.
type jsonGateway struct {
	server *Server
	conn   *loopback

	once    sync.Once
	handler http.Handler
	err     error
}

func newJSONGateway(s *Server) *jsonGateway {
	return &jsonGateway{server: s, conn: newLoopback(s, false)}
}

// ServeHTTP implements http.Handler.
func (g *jsonGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.once.Do(g.init)
	if g.err != nil {
		http.Error(w, g.err.Error(), http.StatusServiceUnavailable)
		return
	}
	g.handler.ServeHTTP(w, r)
}

// maxMessage bounds the JSON of one message.
func (g *jsonGateway) maxMessage() int64 {
	return jsonGrowth * int64(g.server.cfg.MaxRequestBytes+recvOverhead)
}

func (g *jsonGateway) init() {
	conn, err := g.conn.dial()
	if err != nil {
		g.err = err
		return
	}
	mux := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, boundedMarshaler{&runtime.HTTPBodyMarshaler{
		Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		},
	}}))
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		gw.RegisterKVHandler,
		gw.RegisterWatchHandler,
		gw.RegisterLeaseHandler,
		gw.RegisterClusterHandler,
		gw.RegisterMaintenanceHandler,
		gw.RegisterAuthHandler,
		lockpb.RegisterLockHandler,
		electionpb.RegisterElectionHandler,
	} {
		if g.err = register(g.server.lifetime, mux, conn); g.err != nil {
			return
		}
	}
	limit := g.maxMessage()
	g.handler = webSockets(g.server, limit, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &boundedBody{ReadCloser: r.Body, max: limit, left: limit}
		mux.ServeHTTP(w, r)
	}))
}

// boundedMarshaler bounds each message of a request's body by itself: a stream of
// requests may go on for ever.
type boundedMarshaler struct{ *runtime.HTTPBodyMarshaler }

// NewDecoder implements runtime.Marshaler.
func (m boundedMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	d := m.HTTPBodyMarshaler.NewDecoder(r)
	body, ok := r.(*boundedBody)
	if !ok {
		return d
	}
	return runtime.DecoderFunc(func(v any) error {
		body.left = body.max
		return d.Decode(v)
	})
}

// boundedBody ends when more is read of it than may be. It is read by one goroutine.
type boundedBody struct {
	io.ReadCloser
	max, left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLargeJSON
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
