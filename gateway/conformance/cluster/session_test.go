package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	// most is how many members a session may have, one after another.
	most = 9
	// patience bounds every wait of a script.
	patience = 30 * time.Second
	// pause is between two questions that wait for something.
	pause = 20 * time.Millisecond
)

// session is a cluster and what is known of it.
type session struct {
	t       *testing.T // of the current command
	clk     clock.Clock
	binary  *server.Binary
	ctl     string
	folder  string
	flags   []string
	members []*member // m1 first, also those that do not run
	certs   *authority
	// known are the members as they were when one was asked last, as
	// --initial-cluster has them.
	known []string
	// seen are the ids that were learnt.
	seen map[uint64]bool
	// filled are the keys of the last fill.
	filled []string
	// leading and following are what the last command `leader` has found.
	leading, following *member
}

// member is a place for a process, with addresses.
type member struct {
	name                string
	client, peer, spare string
	id                  uint64 // once it is known
	srv                 *server.Server
}

func newSession(t *testing.T, binary *server.Binary, ctl string) *session {
	t.Helper()
	s := &session{t: t, clk: clock.Real{}, binary: binary, ctl: ctl, folder: t.TempDir(), seen: map[uint64]bool{}}
	urls, err := server.FreeURLs(3 * most)
	require.NoError(t, err)
	for i := range most {
		s.members = append(s.members, &member{
			name: server.MemberName(i), client: urls[3*i], peer: urls[3*i+1], spare: urls[3*i+2],
		})
	}
	t.Cleanup(func() {
		for _, m := range s.members {
			if m.srv == nil {
				continue
			}
			if err := m.srv.Kill(); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Logf("the log of %s ends:\n%s", m.name, m.srv.LogTail())
			}
		}
	})
	return s
}

// named returns a member by its name, which may be leader or follower.
func (s *session) named(name string) *member {
	s.t.Helper()
	switch name {
	case "leader":
		return s.leading
	case "follower":
		return s.following
	}
	i := slices.IndexFunc(s.members, func(m *member) bool { return m.name == name })
	require.GreaterOrEqual(s.t, i, 0, "there is no member %s", name)
	return s.members[i]
}

func (m *member) running() bool {
	if m.srv == nil {
		return false
	}
	select {
	case <-m.srv.Exited():
		return false
	default:
		return true
	}
}

func (s *session) running() []*member {
	return slices.DeleteFunc(slices.Clone(s.members), func(m *member) bool { return !m.running() })
}

// list writes members as a sentence's subject.
func list(members []*member) string {
	var all []string
	for _, m := range members {
		all = append(all, m.name)
	}
	return strings.Join(all, ", ")
}

// each does something with several members at a time.
func (s *session) each(names []string, done string, do func(*member) error) string {
	s.t.Helper()
	var out strings.Builder
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		m := s.named(name)
		fmt.Fprintf(&out, "%s %s\n", name, done)
		all.Go(func() { errs[i] = do(m) })
	}
	all.Wait()
	require.NoError(s.t, errors.Join(errs...))
	return out.String()
}

// launch starts a member and waits until it serves.
func (s *session) launch(ctx context.Context, m *member, initial, state string, flags ...string) error {
	args := append([]string{"--initial-cluster-state=" + state, "--initial-cluster-token=" + filepath.Base(s.folder)}, s.flags...)
	if s.certs != nil {
		args = append(args, s.certs.flags()...)
	}
	srv, err := server.Start(ctx, server.Config{
		Binary: s.binary.Path, Name: m.name, DataDir: filepath.Join(s.folder, m.name),
		LogPath: s.logOf(m), ClientURL: m.client, PeerURL: m.peer, InitialCluster: initial,
		Args: append(args, flags...),
	})
	if err != nil {
		return err
	}
	m.srv = srv
	return nil
}

func (s *session) logOf(m *member) string { return filepath.Join(s.folder, m.name+".log") }

// newCluster starts the first n members.
func (s *session) newCluster(n int, tls bool, without string) string {
	s.t.Helper()
	if tls {
		s.certs = newAuthority(s.t, s.folder)
		for _, m := range s.members {
			m.peer, m.spare = strings.Replace(m.peer, "http:", "https:", 1), strings.Replace(m.spare, "http:", "https:", 1)
		}
	}
	var peers []string
	for _, m := range s.members[:n] {
		peers = append(peers, m.peer)
	}
	errs := make([]error, n)
	var all sync.WaitGroup
	for i, m := range s.members[:n] {
		if m.name != without {
			all.Go(func() { errs[i] = s.launch(s.t.Context(), m, server.InitialCluster(peers), "new") })
		}
	}
	all.Wait()
	require.NoError(s.t, errors.Join(errs...))
	return list(s.running()) + " serve\n"
}

// start starts members that are in the cluster, or so they think.
func (s *session) start(names []string, state string, flags []string, says string) string {
	s.t.Helper()
	if len(s.running()) > 0 {
		s.known = nil
		for _, info := range s.memberLists()[0] {
			name := info.Name
			for _, m := range s.members {
				if slices.Contains(info.PeerURLs, m.peer) {
					name = m.name
				}
			}
			for _, u := range info.PeerURLs {
				s.known = append(s.known, name+"="+u)
			}
		}
	}
	initial := slices.Clone(s.known)
	for _, name := range names {
		if m := s.named(name); !slices.Contains(initial, m.name+"="+m.peer) {
			initial = append(initial, m.name+"="+m.peer)
		}
	}
	if says != "" {
		return s.startInVain(s.named(names[0]), strings.Join(initial, ","), state, flags, says)
	}
	return s.each(names, "serves", func(m *member) error {
		return s.launch(s.t.Context(), m, strings.Join(initial, ","), state, flags...)
	})
}

// startInVain starts a member that is to say why it does not serve.
func (s *session) startInVain(m *member, initial, state string, flags []string, says string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	old, err := os.ReadFile(s.logOf(m))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	began := make(chan error, 1)
	go func() { began <- s.launch(ctx, m, initial, state, flags...) }()
	said := func() bool {
		log, err := os.ReadFile(s.logOf(m))
		return err == nil && bytes.Contains(log[len(old):], []byte(says))
	}
	for {
		select {
		case err := <-began:
			require.Error(s.t, err, "%s serves", m.name)
			require.True(s.t, said(), "%s does not say %q: %v", m.name, says, err)
			return fmt.Sprintf("%s does not serve: %s\n", m.name, says)
		case <-s.clk.After(pause):
			if said() {
				cancel()
			}
		}
	}
}

func (s *session) stop(m *member) error {
	_, err := m.srv.Stop()
	return err
}

func (s *session) wipe(m *member) error {
	if m.running() {
		return fmt.Errorf("%s runs", m.name)
	}
	return os.RemoveAll(filepath.Join(s.folder, m.name))
}

func (s *session) move(m *member) error {
	m.peer, m.spare = m.spare, m.peer
	return nil
}

// exits waits until a member ends by itself.
func (s *session) exits(name string) string {
	s.t.Helper()
	m := s.named(name)
	select {
	case <-m.srv.Exited():
	case <-s.clk.After(patience):
		s.t.Fatalf("%s goes on", name)
	}
	state, err := m.srv.Stop()
	require.NoError(s.t, err)
	return fmt.Sprintf("%s ends by itself: %v\n", name, state)
}

// ask calls a member's API.
func (s *session) ask(m *member, do func(context.Context, *clientv3.Client) error) error {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{m.client}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	return errors.Join(do(ctx, c), c.Close())
}

// status asks a member how it is.
func (s *session) status(m *member) (r *pb.StatusResponse, err error) {
	err = s.ask(m, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Status(ctx, m.client)
		r = (*pb.StatusResponse)(resp)
		return err
	})
	return r, err
}

// memberLists asks every member that runs: who is on its way out may not answer, but
// somebody must.
func (s *session) memberLists() (lists [][]*pb.Member) {
	s.t.Helper()
	var errs error
	for _, m := range s.running() {
		err := s.ask(m, func(ctx context.Context, c *clientv3.Client) error {
			// There may be no quorum.
			r, err := pb.NewClusterClient(c.ActiveConnection()).MemberList(ctx, &pb.MemberListRequest{})
			if err == nil {
				lists = append(lists, r.Members)
			}
			return err
		})
		errs = errors.Join(errs, err)
	}
	require.NotEmpty(s.t, lists, "nobody tells the members: %v", errs)
	return lists
}

// learnIDs notes which id is whose. One member may not have heard of a change that
// another has acknowledged.
func (s *session) learnIDs() {
	s.t.Helper()
	for _, info := range slices.Concat(s.memberLists()...) {
		for _, m := range s.members {
			if slices.Contains(info.PeerURLs, m.peer) && !s.seen[info.ID] {
				m.id, s.seen[info.ID] = info.ID, true
			}
		}
	}
}

// agree waits until all name the same leader.
func (s *session) agree() string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for {
		leaders, voters := map[uint64]bool{}, map[uint64]*member{}
		for _, m := range s.running() {
			r, err := s.status(m)
			if err != nil {
				leaders[0] = true
				continue
			}
			leaders[r.Leader] = true
			if !r.IsLearner {
				voters[r.Header.MemberId] = m
			}
		}
		for id := range leaders {
			if m := voters[id]; m != nil && len(leaders) == 1 {
				s.leading, s.following = m, nil
				for _, v := range s.members {
					if v != m && slices.Contains(slices.Collect(values(voters)), v) {
						s.following = v
						break
					}
				}
				return list(s.running()) + " name the same leader\n"
			}
		}
		select {
		case <-s.clk.After(pause):
		case <-ctx.Done():
			s.t.Fatalf("they name %v", leaders)
		}
	}
}

func values(m map[uint64]*member) func(func(*member) bool) {
	return func(yield func(*member) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// hashes compares what the members have, at the revision of the last.
func (s *session) hashes() string {
	s.t.Helper()
	var revision int64
	hash := func(m *member, at int64) (r *pb.HashKVResponse) {
		require.NoError(s.t, s.ask(m, func(ctx context.Context, c *clientv3.Client) error {
			// So that the member has everything.
			all, err := c.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
			if err != nil {
				return err
			}
			revision = max(revision, all.Header.Revision)
			resp, err := c.HashKV(ctx, m.client, at)
			r = (*pb.HashKVResponse)(resp)
			return err
		}))
		return r
	}
	var first *pb.HashKVResponse
	for _, m := range s.running() {
		if r, err := s.status(m); err == nil && r.IsLearner {
			continue
		}
		r := hash(m, revision)
		if first == nil {
			first = hash(m, revision)
		}
		if r.Hash != first.Hash || r.CompactRevision != first.CompactRevision {
			return fmt.Sprintf("%s differs: %v, not %v\n", m.name, r, first)
		}
	}
	return fmt.Sprintf("%s have the same hash at revision %d\n", list(s.running()), revision)
}

// families are where keys are put: one of each group that there is by default.
var families = []string{"/registry/configmaps/", "/registry/events/", "/registry/leases/", "/registry/pods/"}

// put puts keys of all groups, by all members, several at a time.
func (s *session) put(n, size int) string {
	s.t.Helper()
	var endpoints []string
	for _, m := range s.running() {
		endpoints = append(endpoints, m.client)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	require.NoError(s.t, err)
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*patience)
	defer cancel()
	const workers = 16
	errs := make([]error, workers)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				key := fmt.Sprintf("%s%06d", families[i%len(families)], i)
				_, errs[w] = c.Put(ctx, key, strings.Repeat("p", size))
			}
		})
	}
	all.Wait()
	require.NoError(s.t, errors.Join(errors.Join(errs...), c.Close()))
	return fmt.Sprintf("%d keys are put\n", n)
}

// fill puts keys until one is refused.
func (s *session) fill(key string, size int) string {
	s.t.Helper()
	var refusal error
	require.NoError(s.t, s.ask(s.running()[0], func(ctx context.Context, c *clientv3.Client) error {
		for i := 0; refusal == nil; i++ {
			k := fmt.Sprintf("%sfilled-%06d", key, i)
			_, refusal = c.Put(ctx, k, strings.Repeat("f", size))
			if refusal == nil {
				s.filled = append(s.filled, k)
			}
		}
		return nil
	}))
	// Whatever was acknowledged is there.
	require.NoError(s.t, s.ask(s.running()[0], func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Get(ctx, key+"filled-", clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.EqualValues(s.t, len(s.filled), r.Count)
		return err
	}))
	require.NotEmpty(s.t, s.filled, "refused at once: %v", refusal)
	return refusal.Error() + "\n"
}

// shrink gives the space back that fill has taken.
func (s *session) shrink() string {
	s.t.Helper()
	require.NoError(s.t, s.ask(s.running()[0], func(ctx context.Context, c *clientv3.Client) error {
		var last int64
		for _, k := range s.filled {
			r, err := c.Delete(ctx, k)
			if err != nil {
				return err
			}
			require.EqualValues(s.t, 1, r.Deleted)
			last = r.Header.Revision
		}
		if _, err := c.Compact(ctx, last); err != nil {
			return err
		}
		for _, m := range s.running() {
			if _, err := c.Defragment(ctx, m.client); err != nil {
				return err
			}
		}
		return nil
	}))
	n := len(s.filled)
	s.filled = nil
	require.Positive(s.t, n)
	return "deleted, compacted and defragmented\n"
}
