package migrate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net/url"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/migrationpb"
)

// Endpoint is where a cluster is, and who asks it.
type Endpoint struct {
	// URLs are those of its members; one is used, and another when that fails.
	URLs []string
	// TLS is for URLs that begin with https.
	TLS *tls.Config
	// User may be empty.
	User, Password string
}

// cluster is a connection to a member of the source or of the destination.
type cluster struct {
	conn        *grpc.ClientConn
	kv          pb.KVClient
	watch       pb.WatchClient
	lease       pb.LeaseClient
	maintenance pb.MaintenanceClient
	auth        pb.AuthClient
	migration   migrationpb.MigrationClient
}

// token is a user's, for each call.
type token string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{rpctypes.TokenFieldNameGRPC: string(t)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: as in etcd who
// has a user and no TLS is served.
func (t token) RequireTransportSecurity() bool { return false }

// connect connects to the endpoint of an attempt, which count on.
func connect(ctx context.Context, e Endpoint, attempt int) (*cluster, error) {
	if len(e.URLs) == 0 {
		return nil, errors.New("no endpoint is given")
	}
	u, err := url.Parse(e.URLs[attempt%len(e.URLs)])
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("endpoint %q is no http:// or https:// URL", e.URLs[attempt%len(e.URLs)])
	}
	transport := insecure.NewCredentials()
	if u.Scheme == "https" {
		transport = credentials.NewTLS(e.TLS)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		// Who loses power says nothing.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
	}
	conn, err := grpc.NewClient(u.Host, options...)
	if err != nil || e.User == "" {
		return newCluster(conn), err
	}
	got, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: e.User, Password: e.Password})
	if err == nil {
		_ = conn.Close()
		conn, err = grpc.NewClient(u.Host, append(options, grpc.WithPerRPCCredentials(token(got.Token)))...)
	} else if code := status.Code(err); code == codes.FailedPrecondition {
		err = nil // authentication is not on yet
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s: %w", u.Host, err)
	}
	return newCluster(conn), nil
}

func newCluster(conn *grpc.ClientConn) *cluster {
	return &cluster{
		conn: conn, kv: pb.NewKVClient(conn), watch: pb.NewWatchClient(conn), lease: pb.NewLeaseClient(conn),
		maintenance: pb.NewMaintenanceClient(conn), auth: pb.NewAuthClient(conn), migration: migrationpb.NewMigrationClient(conn),
	}
}

func (c *cluster) close() { _ = c.conn.Close() }

// head returns the header of now.
func (c *cluster) head(ctx context.Context) (*pb.ResponseHeader, error) {
	r, err := c.kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, CountOnly: true})
	return r.GetHeader(), err
}

// isPebbledash says whether there is the Migration service, which not everybody may use.
func (c *cluster) isPebbledash(ctx context.Context) (bool, error) {
	_, err := c.migration.Status(ctx, &migrationpb.StatusRequest{})
	switch status.Code(err) {
	case codes.OK, codes.PermissionDenied:
		return true, nil
	case codes.Unimplemented:
		return false, nil
	default:
		return false, err
	}
}

// leases returns the ids of all leases.
func (c *cluster) leases(ctx context.Context) (map[int64]bool, error) {
	r, err := c.lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	ids := map[int64]bool{}
	for _, l := range r.GetLeases() {
		ids[l.ID] = true
	}
	return ids, err
}

// ttl returns the TTL with which a lease was granted, 0 if there is none.
func (c *cluster) ttl(ctx context.Context, id int64) (int64, error) {
	r, err := c.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id})
	if status.Code(err) == codes.NotFound || err == nil && r.TTL < 0 {
		return 0, nil
	}
	return r.GetGrantedTTL(), err
}

// compacted returns the compacted revision if it is greater than known, which is the
// last that was seen, or 0.
func (c *cluster) compacted(ctx context.Context, known int64) (int64, error) {
	// A read at a revision that is compacted is refused, and costs nothing otherwise;
	// only a watch says where the compaction was.
	known = max(known, 1)
	_, err := c.kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, Revision: known, CountOnly: true})
	if !isCompacted(err) {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := c.watch.Watch(ctx)
	if err != nil {
		return 0, err
	}
	err = w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte{0}, StartRevision: known},
	}})
	for err == nil {
		var r *pb.WatchResponse
		if r, err = w.Recv(); err == nil && r.Canceled {
			return r.CompactRevision, nil
		}
	}
	return 0, err
}

func isCompacted(err error) bool {
	return status.Code(err) == codes.OutOfRange && status.Convert(err).Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCCompacted)
}
