//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	clientPort, peerPort = "2379", "2380"

	// retryPause is how long is waited until a change of members is tried again.
	retryPause = 200 * time.Millisecond

	// noClusters is what a program says that can not form one yet.
	noClusters = "only clusters of one member are supported"
)

// memberArgs make happen within seconds what would else take minutes: truncated
// logs, progress notifications. Elections take as long as they do by default.
var memberArgs = []string{
	"--snapshot-count=1000", "--watch-progress-notify-interval=200ms",
	"--heartbeat-interval=100", "--election-timeout=1000",
	"--initial-cluster-token=faults",
}

// member is a place for a process: a namespace, an address, perhaps a disk.
type member struct {
	node int // from 1
	name string
	disk *disk            // or nil
	lib  *clientv3.Client // of this member alone

	srv *server.Server
	up  bool // it should run
	// generation counts the members that have had this place.
	generation int
}

// cluster is a few members in a network of their own.
type cluster struct {
	*network
	clk     clock.Clock
	program string
	folder  string
	logs    string
	members []*member // by node, from 1
	disks   bool
}

// newCluster starts a cluster and has the test end it.
func newCluster(ctx context.Context, t *testing.T, program *server.Binary, size int, disks bool) *cluster {
	t.Helper()
	c := &cluster{
		network: newNetwork(t, size), clk: clock.Real{}, program: program.Path,
		folder: t.TempDir(), logs: t.ArtifactDir(), disks: disks,
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	for i := range size {
		m := &member{node: i + 1}
		c.members = append(c.members, m)
		if err := c.prepare(m); err != nil {
			t.Fatal(err)
		}
	}
	err := c.together(c.members, func(m *member) error { return c.launch(ctx, m, c.initial(), "new") })
	if err != nil {
		if strings.Contains(err.Error(), noClusters) {
			t.Skipf("%s says that %s", filepath.Base(program.Path), noClusters)
		}
		t.Fatal(err)
	}
	return c
}

// wrapper is a script that runs the program in a member's namespace.
func (c *cluster) wrapper(m *member) string {
	return filepath.Join(c.folder, fmt.Sprintf("m%d.sh", m.node))
}

// prepare makes what a member needs. It is done before anything runs: a script
// can not be run while another process has it open, as a child that is just
// being started has all that its parent writes.
func (c *cluster) prepare(m *member) error {
	script := fmt.Sprintf("#!/bin/sh\nexec nsenter --net=/run/netns/%s -- %s \"$@\"\n", c.namespace(m.node), c.program)
	err := os.WriteFile(c.wrapper(m), []byte(script), 0o700)
	if err != nil {
		return err
	}
	if c.disks {
		if m.disk, err = newDisk(c.scratch(), fmt.Sprint(m.node)); err != nil {
			return err
		}
	}
	m.lib, err = dial(c.clientURL(m))
	return err
}

func (c *cluster) clientURL(m *member) string {
	return "http://" + c.address(m.node) + ":" + clientPort
}

func (c *cluster) peerURL(m *member) string { return "http://" + c.address(m.node) + ":" + peerPort }

// endpoints are all members' URLs.
func (c *cluster) endpoints() []string {
	var all []string
	for _, m := range c.members {
		all = append(all, c.clientURL(m))
	}
	return all
}

// initial is --initial-cluster.
func (c *cluster) initial() string {
	var all []string
	for _, m := range c.members {
		all = append(all, fmt.Sprintf("m%d=%s", m.node, c.peerURL(m)))
	}
	return strings.Join(all, ",")
}

// launch starts a new member on an empty folder, and returns when it serves.
func (c *cluster) launch(ctx context.Context, m *member, initial, state string) error {
	m.generation++
	m.name = fmt.Sprintf("m%d", m.node)
	if m.generation > 1 {
		m.name = fmt.Sprintf("m%d.%d", m.node, m.generation)
	}
	folder := c.folder
	if m.disk != nil {
		folder = m.disk.folder
	}
	srv, err := server.Start(ctx, server.Config{
		Binary: c.wrapper(m), Name: m.name, DataDir: filepath.Join(folder, m.name),
		LogPath:   filepath.Join(c.logs, m.name+".log"),
		ClientURL: c.clientURL(m), PeerURL: c.peerURL(m), InitialCluster: initial,
		Args: append([]string{"--initial-cluster-state=" + state}, memberArgs...),
	})
	if err != nil {
		return err
	}
	m.srv, m.up = srv, true
	return nil
}

// together does the same with several members at a time.
func (c *cluster) together(members []*member, do func(*member) error) error {
	errs := make([]error, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() { errs[i] = do(m) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// kill ends members with SIGKILL, at once.
func (c *cluster) kill(members ...*member) error {
	return c.together(members, func(m *member) error {
		m.up = false
		return m.srv.Kill()
	})
}

// restart starts members again that were killed or have ended, and returns when
// they serve.
func (c *cluster) restart(ctx context.Context, members ...*member) error {
	return c.together(members, func(m *member) error {
		m.up = true
		return m.srv.Restart(ctx)
	})
}

// pause stops a member's time; resume lets it go on.
func (c *cluster) pause(m *member) error  { return m.srv.Signal(syscall.SIGSTOP) }
func (c *cluster) resume(m *member) error { return m.srv.Signal(syscall.SIGCONT) }

// ended says that a member's process is gone.
func (m *member) ended() bool {
	if m.srv == nil {
		return true
	}
	select {
	case <-m.srv.Exited():
		return true
	default:
		return false
	}
}

// status asks a member what it thinks.
func (c *cluster) status(ctx context.Context, m *member) (*pb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return pb.NewMaintenanceClient(m.lib.ActiveConnection()).Status(ctx, &pb.StatusRequest{})
}

// leader is the member that leads, as those say that know of the latest term.
// It waits until there is one.
func (c *cluster) leader(ctx context.Context) (*member, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		var term, id uint64
		byID := map[uint64]*member{}
		for _, m := range c.members {
			if r, err := c.status(ctx, m); err == nil {
				byID[r.Header.MemberId] = m
				if r.RaftTerm > term || r.RaftTerm == term && id == 0 {
					term, id = r.RaftTerm, r.Leader
				}
			}
		}
		if m := byID[id]; id != 0 && m != nil {
			return m, nil
		}
		select {
		case <-c.clk.After(reopenPause):
		case <-ctx.Done():
			return nil, errors.New("there is no leader")
		}
	}
}

// others are all members but some.
func (c *cluster) others(some ...*member) []*member {
	var rest []*member
	for _, m := range c.members {
		mine := false
		for _, s := range some {
			mine = mine || s == m
		}
		if !mine {
			rest = append(rest, m)
		}
	}
	return rest
}

// replace removes a member from the cluster and has a new one take its place:
// it learns, and is then given its vote.
func (c *cluster) replace(ctx context.Context, old *member, removed func()) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := c.status(ctx, old)
	if err != nil {
		return err
	}
	via := pb.NewClusterClient(c.others(old)[0].lib.ActiveConnection())
	if err := c.retry(ctx, func(ctx context.Context) error {
		_, err := via.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: r.Header.MemberId})
		if err != nil && strings.Contains(err.Error(), "member not found") {
			return nil // It was done, though the answer was lost.
		}
		return err
	}); err != nil {
		return fmt.Errorf("remove %s: %w", old.name, err)
	}
	removed()
	if err := errors.Join(c.kill(old), os.RemoveAll(old.srv.DataDir())); err != nil {
		return err
	}
	if err := c.retry(ctx, func(ctx context.Context) error {
		_, err := via.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{c.peerURL(old)}, IsLearner: true})
		if err != nil && strings.Contains(err.Error(), "already exists") {
			return nil
		}
		return err
	}); err != nil {
		return fmt.Errorf("add %s: %w", old.name, err)
	}
	return c.join(ctx, old, via)
}

// join starts a member that has been added, and promotes it.
func (c *cluster) join(ctx context.Context, m *member, via pb.ClusterClient) error {
	list, err := via.MemberList(ctx, &pb.MemberListRequest{})
	if err != nil {
		return err
	}
	var initial []string
	var id uint64
	for _, other := range list.Members {
		name := other.Name
		if other.PeerURLs[0] == c.peerURL(m) {
			id, name = other.ID, fmt.Sprintf("m%d.%d", m.node, m.generation+1)
		}
		initial = append(initial, name+"="+other.PeerURLs[0])
	}
	if err := c.launch(ctx, m, strings.Join(initial, ","), "existing"); err != nil {
		return err
	}
	if err := c.retry(ctx, func(ctx context.Context) error {
		_, err := via.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id})
		if err != nil && strings.Contains(err.Error(), "not a learner") {
			return nil
		}
		return err
	}); err != nil {
		return fmt.Errorf("promote %s: %w", m.name, err)
	}
	return nil
}

// retry does something until it succeeds. A change of members that is lost
// with a leader is never answered, so that none is waited for long.
func (c *cluster) retry(ctx context.Context, do func(context.Context) error) error {
	var last error
	for {
		once, cancel := context.WithTimeout(ctx, requestTimeout)
		err := do(once)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-c.clk.After(retryPause):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		}
	}
}

// close ends everything.
func (c *cluster) close() error {
	var errs []error
	for _, m := range c.members {
		if m.disk != nil {
			_ = m.disk.thaw() // An error says that it is not frozen.
			if canThrottle() {
				errs = append(errs, m.disk.throttle(0))
			}
		}
		if m.srv != nil {
			errs = append(errs, m.srv.Kill())
		}
		if m.lib != nil {
			errs = append(errs, m.lib.Close())
		}
	}
	return errors.Join(errs...)
}

// tails are the ends of all logs, for who looks for the cause of a failure.
func (c *cluster) tails() string {
	var b strings.Builder
	for _, m := range c.members {
		if m.srv != nil {
			fmt.Fprintf(&b, "the log of %s ends:\n%s", m.name, m.srv.LogTail())
		}
	}
	return b.String()
}
