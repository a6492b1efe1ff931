package cluster

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// newLeaderWithin and goneWithin are what users of etcd rely on.
	newLeaderWithin = 500 * time.Millisecond
	goneWithin      = 1500 * time.Millisecond
	// handovers is how often it is tried: a machine that does other work may
	// be late, but not every time.
	handovers = 3
)

// handover stops the leader with SIGTERM, and starts it again.
func (s *session) handover() string {
	s.t.Helper()
	var slow []string
	for range handovers {
		s.agree()
		old := s.leading
		elected, gone := s.handOver(old)
		s.start([]string{old.name}, "existing", nil, "")
		s.t.Logf("a new leader after %v, the old one gone after %v", elected, gone)
		if elected <= newLeaderWithin && gone <= goneWithin {
			return fmt.Sprintf("a new leader within %v at a greater term, the old one gone within %v\n", newLeaderWithin, goneWithin)
		}
		slow = append(slow, fmt.Sprintf("a new leader after %v, the old one gone after %v", elected, gone))
	}
	return strings.Join(slow, "\n") + "\n"
}

// handOver stops a leader, and returns when all others named another, and when
// it was gone.
func (s *session) handOver(old *member) (elected, gone time.Duration) {
	s.t.Helper()
	before, err := s.status(old)
	require.NoError(s.t, err)
	others := slices.DeleteFunc(s.running(), func(m *member) bool { return m == old })
	took := make([]time.Duration, len(others))
	errs := make([]error, len(others))
	began := s.clk.Now()
	require.NoError(s.t, old.srv.Signal(syscall.SIGTERM))
	var all sync.WaitGroup
	for i, m := range others {
		all.Go(func() { took[i], errs[i] = s.untilLed(m, before, began) })
	}
	<-old.srv.Exited()
	gone = s.clk.Since(began)
	all.Wait()
	for _, err := range errs {
		require.NoError(s.t, err)
	}
	return slices.Max(took), gone
}

// untilLed waits until a member names another leader than before, at a greater
// term.
func (s *session) untilLed(m *member, before *pb.StatusResponse, began time.Time) (time.Duration, error) {
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(m.client, "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	for s.clk.Since(began) < patience {
		r, err := pb.NewMaintenanceClient(conn).Status(s.t.Context(), &pb.StatusRequest{})
		if err != nil {
			return 0, err
		}
		if r.Leader != 0 && r.Leader != before.Leader && r.RaftTerm > before.RaftTerm {
			return s.clk.Since(began), nil
		}
		<-s.clk.After(pause / 4)
	}
	return 0, fmt.Errorf("%s does not name another leader", m.name)
}
