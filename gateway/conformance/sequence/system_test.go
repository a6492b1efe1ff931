package sequence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	// requestTimeout bounds a request, and every wait for something that a
	// server owes. Reaching it ends the sequence.
	requestTimeout = 30 * time.Second
	// pause is between two questions that wait for something.
	pause = 2 * time.Millisecond
	// maxMessageBytes is more than any answer has.
	maxMessageBytes = 256 << 20
)

// kind is how a program is run.
type kind struct {
	name    string
	binary  string
	members int
	args    []string
	// lax says that a member may be behind in what it knows of leases: etcd.
	lax bool
}

// system is a kind that runs.
type system struct {
	kind
	clk     clock.Clock
	servers []*server.Server
	conns   []*grpc.ClientConn
	lanes   []*lane
	// settled is the revision that each member is known to have.
	settled []int64
	// settles counts how often a member was behind.
	settles int
}

// open starts a system on empty data.
func open(ctx context.Context, k kind, folder string) (*system, error) {
	folder, err := os.MkdirTemp(folder, strings.ReplaceAll(k.name, " ", "-")+"-")
	if err != nil {
		return nil, err
	}
	s := &system{kind: k, clk: clock.Real{}, settled: make([]int64, k.members)}
	s.servers, err = server.StartCluster(ctx, server.Config{Binary: k.binary, DataDir: folder, Args: k.args}, k.members)
	if err != nil {
		return nil, err
	}
	for _, srv := range s.servers {
		conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(srv.Endpoint(), "http://"),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(
				grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)))
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.conns = append(s.conns, conn)
	}
	for i := range lanes {
		l, err := newLane(s.conns[i%k.members])
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.lanes = append(s.lanes, l)
	}
	return s, nil
}

func (s *system) close() error {
	var errs []error
	for _, l := range s.lanes {
		l.close()
	}
	for _, c := range s.conns {
		errs = append(errs, c.Close())
	}
	for _, srv := range s.servers {
		errs = append(errs, srv.Kill())
	}
	return errors.Join(errs...)
}

// logs are the ends of the members' logs.
func (s *system) logs() string {
	var b strings.Builder
	for _, srv := range s.servers {
		fmt.Fprintf(&b, "%s, the log of %s ends:\n%s", s.name, srv.LogPath(), srv.LogTail())
	}
	return b.String()
}

// asked is the member that a step is for. A stream stays with its member.
func (s *system) asked(st step) int {
	switch st.req.(type) {
	case *pb.WatchCreateRequest, *pb.WatchCancelRequest:
		return st.lane % s.members
	default:
		return st.member % s.members
	}
}

// settle waits until a member has everything up to a revision, and knows it.
func (s *system) settle(ctx context.Context, member int, revision int64, force bool) error {
	if s.settled[member] >= revision && !force {
		return nil
	}
	kv := pb.NewKVClient(s.conns[member])
	r := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true}
	for behind := false; ; r.Serializable = true {
		resp, err := kv.Range(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: settle m%d: %w", s.name, member+1, err)
		}
		switch {
		case resp.Header.Revision > revision:
			return fmt.Errorf("%s: m%d is at revision %d, and %d is the last", s.name, member+1, resp.Header.Revision, revision)
		case resp.Header.Revision < revision && !r.Serializable:
			return fmt.Errorf("%s: a linearizable read at m%d shows revision %d, and %d is the last", s.name, member+1, resp.Header.Revision, revision)
		case resp.Header.Revision == revision && r.Serializable:
			s.settled[member] = revision
			return nil
		case r.Serializable && !behind:
			behind = true
			s.settles++
		}
		if r.Serializable {
			select {
			case <-s.clk.After(pause):
			case <-ctx.Done():
				return fmt.Errorf("%s: m%d shows revision %d in a serializable read, and not %d for long",
					s.name, member+1, resp.Header.Revision, revision)
			}
		}
	}
}

// do sends a step.
func (s *system) do(ctx context.Context, st step) answer {
	member := s.asked(st)
	switch r := st.req.(type) {
	case *pb.WatchCreateRequest:
		return s.lanes[st.lane].create(ctx, st.watch, r)
	case *pb.WatchCancelRequest:
		return s.lanes[st.lane].cancel(ctx, st.watch)
	default:
		return send(ctx, s.conns[member], st)
	}
}
