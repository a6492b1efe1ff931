package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pebbledash/pebbledash/storage/peer"
)

// bind opens the data directory and finds out who this member is: who the
// directory says it is or, if it is new, who the flags say, or the cluster that it
// joins. As in etcd the flags of the first start mean nothing for a later one,
// but for the routes, which must be the same.
func bind(ctx context.Context, cfg Config) (*DataDir, Identity, error) {
	dir, err := OpenDataDir(DataDirConfig{Dir: cfg.Dir, FS: cfg.FS, Logger: cfg.Logger})
	if err != nil {
		return nil, Identity{}, err
	}
	id, err := bindDir(ctx, dir, cfg)
	return dir, id, err
}

func bindDir(ctx context.Context, dir *DataDir, cfg Config) (Identity, error) {
	initial, err := ParseInitialCluster(cfg.InitialCluster, cfg.ClusterToken)
	if known, isOld := dir.Identity(); isOld {
		if err == nil && !known.Joined && initial.ID != known.ClusterID {
			cfg.Logger.Warn("the data directory belongs to another cluster than the one --initial-cluster describes; the flag has no effect",
				"data_dir", cfg.Dir, "cluster", FormatID(known.ClusterID))
		}
		_, _, err := dir.Bind(Identity{Routes: cfg.Routes.String()}, cfg.Version)
		if err != nil {
			return Identity{}, fmt.Errorf("member: %w", err)
		}
		return known, nil
	}
	if cfg.ForceNewCluster {
		// A mistyped directory would become an empty cluster that serves.
		return Identity{}, fmt.Errorf("--force-new-cluster: %s holds no member: correct --data-dir, or restore a snapshot there (pebbledash snapshot restore)", cfg.Dir)
	}
	if err != nil {
		return Identity{}, err
	}
	self, err := initial.Member(cfg.Name)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{
		Name: cfg.Name, ClusterID: initial.ID, MemberID: self.ID,
		Routes: cfg.Routes.String(), Voters: initial.Members,
	}
	if cfg.Join {
		if id, err = join(ctx, cfg, initial, self); err != nil {
			return Identity{}, err
		}
	} else if err := checkNew(ctx, cfg, initial, self); err != nil {
		return Identity{}, err
	}
	if _, _, err := dir.Bind(id, cfg.Version); err != nil {
		return Identity{}, fmt.Errorf("member: %w", err)
	}
	return id, nil
}

// newTimeout bounds the question whether a cluster that is to be new is there
// already. It is etcd's: others that start just now take the connection, and can
// not answer yet.
const newTimeout = time.Second

// checkNew returns an error if the cluster that is to be new is there and has had
// this member, which would have forgotten its votes and what it has acknowledged; or
// if it has other routes.
func checkNew(ctx context.Context, cfg Config, initial InitialCluster, self InitialMember) error {
	others := othersOf(initial, self)
	if len(others) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, newTimeout)
	defer cancel()
	answer, err := askFirst(ctx, cfg, others, knownMembers)
	if err != nil {
		return nil //nolint:nilerr // as far as anybody knows it is new
	}
	for _, m := range answer.Members {
		if m.ID == self.ID && hasServed(m) {
			return errBootstrapped(m)
		}
	}
	return sameRoutes(cfg, answer)
}

// sameRoutes returns an error if the flags say other routes than the cluster has.
func sameRoutes(cfg Config, answer joinAnswer) error {
	if flags := cfg.Routes.String(); answer.Routes != flags {
		return fmt.Errorf("the cluster has other routes than the flags say, and all its members must have the same: correct --resource-groups and --etcd-prefix; the cluster has %q, the flags say %q",
			answer.Routes, flags)
	}
	return nil
}

// hasServed says that a member has served, and so has had data.
func hasServed(m Info) bool { return len(m.ClientURLs) > 0 }

func errBootstrapped(m Info) error {
	return fmt.Errorf("member %s has already been bootstrapped, but its data directory is empty; it must not come back as who it was: remove it (etcdctl member remove %s), and add it anew",
		FormatID(m.ID), FormatID(m.ID))
}

// joinTimeout bounds one round of questions to the members of a cluster.
const joinTimeout = 5 * time.Second

// join asks the members of a cluster who this member, which they must have added,
// is in it.
func join(ctx context.Context, cfg Config, initial InitialCluster, self InitialMember) (Identity, error) {
	others := othersOf(initial, self)
	if len(others) == 0 {
		return Identity{}, errors.New("--initial-cluster-state=existing, but --initial-cluster names no other member to ask")
	}
	answer, err := askFirst(ctx, cfg, others, currentMembers)
	if err != nil {
		return Identity{}, fmt.Errorf("could not ask the cluster that is to be joined: %w", err)
	}
	// As etcd: every member of the cluster must be named, and nobody else.
	named := map[string]string{}
	for _, m := range initial.Members {
		for _, u := range m.PeerURLs {
			named[u] = m.Name
		}
	}
	var me *Info
	for i, m := range answer.Members {
		for _, u := range m.PeerURLs {
			if _, ok := named[u]; !ok {
				return Identity{}, fmt.Errorf("member %s (%s) of the cluster has the peer URL %s, which --initial-cluster does not name: give it all members as the cluster has them",
					FormatID(m.ID), m.Name, u)
			}
			if slices.Contains(self.PeerURLs, u) {
				me = &answer.Members[i]
			}
		}
	}
	if me == nil {
		return Identity{}, fmt.Errorf("the cluster has no member with the peer URLs %v: add it first (etcdctl member add %s --peer-urls=...)", self.PeerURLs, cfg.Name)
	}
	if hasServed(*me) {
		return Identity{}, errBootstrapped(*me)
	}
	if err := sameRoutes(cfg, answer); err != nil {
		return Identity{}, err
	}
	if len(named) != countURLs(answer.Members) {
		return Identity{}, errors.New("--initial-cluster names a member that the cluster does not have: give it all members as the cluster has them")
	}
	return Identity{
		Name: cfg.Name, ClusterID: answer.ClusterID, MemberID: me.ID, Routes: answer.Routes, Joined: true,
	}, nil
}

func othersOf(initial InitialCluster, self InitialMember) (urls []string) {
	for _, m := range initial.Members {
		if m.ID != self.ID {
			urls = append(urls, m.PeerURLs...)
		}
	}
	return urls
}

// meet connects a member that has joined to the others for as long as it has
// nothing of core's state, and so does not know who they are.
func (m *Member) meet(ctx context.Context) {
	initial, err := ParseInitialCluster(m.cfg.InitialCluster, m.cfg.ClusterToken)
	if err != nil {
		return
	}
	self, err := initial.Member(m.cfg.Name)
	if err != nil {
		return
	}
	for len(m.Members()) == 0 {
		changed := m.cluster.changed.wait()
		answer, err := askFirst(ctx, m.cfg, othersOf(initial, self), knownMembers)
		if err != nil {
			m.cfg.Logger.Warn("could not ask the cluster that is to be joined, will try again", "error", err)
		}
		for _, i := range answer.Members {
			if i.ID != m.id.MemberID {
				m.peers.SetPeer(i.ID, i.PeerURLs)
			}
		}
		timer := m.cfg.Clock.NewTimer(time.Second)
		select {
		case <-changed:
		case <-timer.C():
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func countURLs(members []Info) int {
	n := 0
	for _, m := range members {
		n += len(m.PeerURLs)
	}
	return n
}

// askFirst asks the members at all the URLs at once, for one that is silent must not
// hide what another knows, and returns the first answer.
func askFirst(ctx context.Context, cfg Config, urls []string, which joinQuestion) (joinAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	answers := make(chan joinAnswer, len(urls))
	failures := make(chan error, len(urls))
	for _, url := range urls {
		go func() {
			reply, err := peer.Ask(ctx, []string{url}, cfg.PeerTLS, methodJoin, []byte{byte(which)})
			var answer joinAnswer
			if err == nil {
				err = json.Unmarshal(reply, &answer)
			}
			if err != nil {
				failures <- err
				return
			}
			answers <- answer
		}()
	}
	var errs []error
	for range urls {
		select {
		case answer := <-answers:
			return answer, nil
		case err := <-failures:
			errs = append(errs, err)
		}
	}
	return joinAnswer{}, errors.Join(errs...)
}
