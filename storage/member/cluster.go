package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pebbledash/pebbledash/storage/group"
)

// Errors of changes of the members, which are etcd's.
var (
	// ErrRemoved ends a member that was removed from its cluster.
	ErrRemoved = errors.New("member: this member was removed from the cluster")
	// ErrMemberNotFound says that there is no such member.
	ErrMemberNotFound = errors.New("member: no such member")
	// ErrMemberExists says that a member was there, or is, with the id.
	ErrMemberExists = errors.New("member: the member is there already")
	// ErrPeerURLExists says that another member has a peer URL.
	ErrPeerURLExists = errors.New("member: a member has this peer URL already")
	// ErrNotLearner says that a member to promote is none.
	ErrNotLearner = errors.New("member: only a learner can be promoted")
	// ErrLearnerNotReady says that a learner lags too far behind to be promoted.
	ErrLearnerNotReady = errors.New("member: the learner is not in sync with the leader yet")
	// ErrTooManyLearners says that there are as many as there may be.
	ErrTooManyLearners = errors.New("member: too many learners")
	// ErrNotEnoughStarted says that a change would lose the quorum, because too few
	// members have been started.
	ErrNotEnoughStarted = errors.New("member: not enough started members")
	// ErrUnhealthy says that a change might lose the quorum, because too few members
	// have been connected for long enough.
	ErrUnhealthy = errors.New("member: unhealthy cluster")
)

// Info describes a member of the cluster. Its JSON is what core keeps of it, part
// of the file format, and should not be changed.
type Info struct {
	ID         uint64   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peer_urls"`
	ClientURLs []string `json:"client_urls"`
	IsLearner  bool     `json:"-"`
}

func (i Info) row() []byte {
	b, err := json.Marshal(i)
	if err != nil {
		panic(err) // strings and a number
	}
	return b
}

// cluster is who is in the cluster, as core has it here.
type cluster struct {
	// changed is told of when it, or a group's replicas, have changed.
	changed news
	// change is held by who changes the members: raft takes one change at a time.
	change sync.Mutex

	mu sync.Mutex // guards the fields below; nothing is taken after it
	// members are by id; removed are those that were once.
	members []Info
	removed map[uint64]bool
	// since has when each member was connected to last, if it still is.
	since map[uint64]time.Time
}

// founders returns the first voters and their rows, of a cluster that is made.
func (m *Member) founders() ([]uint64, map[uint64][]byte, error) {
	var ids []uint64
	rows := map[uint64][]byte{}
	for _, v := range m.id.Voters {
		ids = append(ids, v.ID)
		rows[v.ID] = Info{ID: v.ID, Name: v.Name, PeerURLs: v.PeerURLs}.row()
	}
	return ids, rows, nil
}

// loadMembers reads the members from core's state, and connects to them. Who was
// removed is refused from now on, and so told. It stops then, and nobody can ask it
// for a vote any more, or how far a group's log is committed: that it was removed must
// not be forgotten here.
func (m *Member) loadMembers() error {
	var members []Info
	removed := map[uint64]bool{}
	var bad error
	err := m.core.store.Members(func(id uint64, row []byte) {
		if len(row) == 0 {
			removed[id] = true
			return
		}
		var info Info
		if err := json.Unmarshal(row, &info); err != nil || info.ID != id {
			bad = fmt.Errorf("member: bad row of member %s: %q", FormatID(id), row)
		}
		members = append(members, info)
	})
	if err = errors.Join(err, bad); err != nil {
		return err
	}
	c := &m.cluster
	c.mu.Lock()
	news := len(removed) > len(c.removed)
	c.mu.Unlock()
	if news {
		if err := m.flushState(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.members, c.removed = members, removed
	c.mu.Unlock()
	if m.peers != nil {
		for id := range removed {
			m.peers.RemovePeer(id)
		}
		for _, info := range members {
			if info.ID != m.id.MemberID {
				m.peers.SetPeer(info.ID, info.PeerURLs)
			}
		}
	}
	switch {
	case !removed[m.id.MemberID]:
	case len(members) == 0:
		m.fail(ErrRemoved)
	case news:
		m.cfg.Logger.Info("this member was removed from the cluster, and stops when another says so")
	}
	return nil
}

// Members returns the cluster's members, as far as this one knows. A change of the
// members is none of the revision line: no read of that says whether one is here.
func (m *Member) Members() []Info {
	r := m.core.Replicas()
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	members := slices.Clone(m.cluster.members)
	for i := range members {
		members[i].IsLearner = slices.Contains(r.Learners, members[i].ID)
	}
	return members
}

func find(members []Info, id uint64) (Info, bool) {
	i := slices.IndexFunc(members, func(i Info) bool { return i.ID == id })
	if i < 0 {
		return Info{}, false
	}
	return members[i], true
}

// memberChange is one change of the members.
type memberChange struct {
	Kind group.ConfChange `json:"kind"`
	Info Info             `json:"info"`
	// Promote says that AddVoter is for a learner; Publish that UpdateMember is
	// about the name and the client URLs.
	Promote bool `json:"promote,omitempty"`
	Publish bool `json:"publish,omitempty"`
	// Again says that nobody knows what came of an attempt before: what it may have
	// made is no reason to refuse.
	Again bool `json:"again,omitempty"`
}

// MembersNow returns the cluster's members with every change that was acknowledged
// before the call.
func (m *Member) MembersNow(ctx context.Context) ([]Info, error) {
	reply, err := m.ask(ctx, methodMembersNow, nil)
	if err != nil {
		return nil, err
	}
	return decodeMembers(reply)
}

// MemberAdd adds a member with these peer URLs, which must be as ParseURLs
// returns them, and returns it with all members.
func (m *Member) MemberAdd(ctx context.Context, peerURLs []string, learner bool) (Info, []Info, error) {
	info := Info{ID: addedMemberID(peerURLs, m.cfg.Clock.Now()), PeerURLs: peerURLs}
	kind := group.AddVoter
	if learner {
		kind = group.AddLearner
	}
	members, err := m.changeMembers(ctx, memberChange{Kind: kind, Info: info})
	info.IsLearner = learner
	return info, members, err
}

// MemberRemove removes a member, and returns the others.
func (m *Member) MemberRemove(ctx context.Context, id uint64) ([]Info, error) {
	return m.changeMembers(ctx, memberChange{Kind: group.RemoveReplica, Info: Info{ID: id}})
}

// MemberUpdate gives a member other peer URLs.
func (m *Member) MemberUpdate(ctx context.Context, id uint64, peerURLs []string) ([]Info, error) {
	return m.changeMembers(ctx, memberChange{Kind: group.UpdateMember, Info: Info{ID: id, PeerURLs: peerURLs}})
}

// MemberPromote makes a learner a voter.
func (m *Member) MemberPromote(ctx context.Context, id uint64) ([]Info, error) {
	return m.changeMembers(ctx, memberChange{Kind: group.AddVoter, Info: Info{ID: id}, Promote: true})
}

// changeMembers has the sequencer make a change, and returns the members after
// it. A change of the members often takes the sequencer's lead, or the connection
// to it, away: it is asked for again, of whoever reigns then.
func (m *Member) changeMembers(ctx context.Context, change memberChange) ([]Info, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	var reply []byte
	for {
		payload, err := json.Marshal(change)
		if err != nil {
			return nil, err
		}
		reply, err = m.atSequencer(ctx, methodMembers, payload)
		if err == nil {
			break
		}
		if change.Kind == group.RemoveReplica && change.Info.ID == m.id.MemberID &&
			(m.isMade(change) || errors.Is(m.Err(), ErrRemoved)) {
			// The others talk with this one no more, which may not even have come to its
			// removal.
			isThis := func(i Info) bool { return i.ID == m.id.MemberID }
			return slices.DeleteFunc(m.Members(), isThis), nil
		}
		if !errors.Is(err, group.ErrLeaderChanged) || ctx.Err() != nil {
			return nil, err
		}
		change.Again = true
	}
	return decodeMembers(reply)
}

type membersAnswer struct {
	Members  []Info `json:"members"`
	Learners []bool `json:"learners"`
}

func decodeMembers(reply []byte) ([]Info, error) {
	var answer membersAnswer
	if err := json.Unmarshal(reply, &answer); err != nil {
		return nil, fmt.Errorf("member: bad answer of the leader: %w", err)
	}
	for i, learner := range answer.Learners {
		answer.Members[i].IsLearner = learner
	}
	return answer.Members, nil
}

// serveMembersNow is MembersNow at the sequencer. Who confirms that it reigns has
// applied what was acknowledged.
func (m *Member) serveMembersNow(ctx context.Context) ([]byte, error) {
	if _, err := m.pointHere(ctx, 0); err != nil {
		return nil, err
	}
	return m.answerMembers()
}

// serveMembers is changeMembers at the sequencer.
func (m *Member) serveMembers(ctx context.Context, payload []byte) ([]byte, error) {
	var change memberChange
	if err := json.Unmarshal(payload, &change); err != nil {
		return nil, err
	}
	m.cluster.change.Lock()
	defer m.cluster.change.Unlock()
	if !m.reigning.Load() {
		return nil, group.ErrNotSequencer
	}
	if !change.Again || !m.isMade(change) {
		err := m.makeChange(ctx, change)
		if change.Promote {
			m.metrics.promotion(err)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := m.followInAll(ctx, m.core.Replicas()); err != nil {
		return nil, err
	}
	return m.answerMembers()
}

func (m *Member) answerMembers() ([]byte, error) {
	answer := membersAnswer{Members: m.Members()}
	for _, i := range answer.Members {
		answer.Learners = append(answer.Learners, i.IsLearner)
	}
	return json.Marshal(answer)
}

// isMade says whether core has a change, except another row of a member, which may
// be written again.
func (m *Member) isMade(change memberChange) bool {
	r, id := m.core.Replicas(), change.Info.ID
	switch change.Kind {
	case group.AddVoter:
		return slices.Contains(r.Voters, id)
	case group.AddLearner:
		return slices.Contains(r.Learners, id)
	case group.RemoveReplica:
		m.cluster.mu.Lock()
		defer m.cluster.mu.Unlock()
		return m.cluster.removed[id]
	default:
		return false
	}
}

// makeChange makes a change in core, and in every group what must come before.
func (m *Member) makeChange(ctx context.Context, change memberChange) error {
	if err := m.checkChange(ctx, &change); err != nil {
		return err
	}
	if change.Kind == group.RemoveReplica && change.Info.ID == m.id.MemberID {
		// Who removes stays: it has applied the removal in every group before the
		// member that goes stops, which may have been needed to commit it. Of two
		// members the other might never learn that it was.
		if to := m.successor(); to != 0 {
			m.core.GiveLead(to)
			return group.ErrNotSequencer
		}
	}
	// What a change before has left is finished first. Who comes does so in core
	// first, and who goes leaves core last: so core's members are there to reach
	// the quorum of every other group (storage/PROTOCOL.md, 8).
	if err := m.followInAll(ctx, m.core.Replicas()); err != nil {
		return err
	}
	if change.Kind == group.RemoveReplica {
		if err := m.followInAll(ctx, m.core.Replicas().Without(change.Info.ID)); err != nil {
			return err
		}
	}
	return m.changeCore(ctx, change)
}

// checkChange refuses what etcd refuses, and fills in what the change leaves as
// it is.
func (m *Member) checkChange(ctx context.Context, change *memberChange) error {
	members := m.Members()
	have, found := find(members, change.Info.ID)
	m.cluster.mu.Lock()
	removed := m.cluster.removed[change.Info.ID]
	m.cluster.mu.Unlock()
	for _, other := range members {
		for _, u := range change.Info.PeerURLs {
			if other.ID != change.Info.ID && slices.Contains(other.PeerURLs, u) {
				return ErrPeerURLExists
			}
		}
	}
	adds := change.Kind == group.AddLearner || change.Kind == group.AddVoter && !change.Promote
	if adds {
		if found || removed {
			return ErrMemberExists
		}
		return m.checkAdd(members, change.Kind == group.AddLearner)
	}
	if !found {
		return ErrMemberNotFound
	}
	switch {
	case change.Kind == group.RemoveReplica:
		return m.checkRemove(members, have)
	case change.Promote:
		change.Info = have
		if !have.IsLearner {
			return ErrNotLearner
		}
		return m.checkPromote(ctx, have)
	case change.Publish:
		have.Name, have.ClientURLs = change.Info.Name, change.Info.ClientURLs
	default:
		have.PeerURLs = change.Info.PeerURLs
	}
	change.Info = have
	return nil
}

// changeCore makes the change in core.
func (m *Member) changeCore(ctx context.Context, change memberChange) error {
	id := change.Info.ID
	done := func() bool {
		r := m.core.Replicas()
		have, found := find(m.Members(), id)
		same := found && string(have.row()) == string(change.Info.row())
		switch change.Kind {
		case group.AddVoter:
			return slices.Contains(r.Voters, id) && same
		case group.AddLearner:
			return slices.Contains(r.Learners, id) && same
		case group.RemoveReplica:
			return !r.Has(id) && !found
		default:
			return same
		}
	}
	return m.until(ctx, done, func() {
		m.core.ProposeConfChange(m.core.Replicas(), change.Kind, id, change.Info.row())
	})
}

// followInAll brings the replicas of every other group to those of to, one step
// at a time.
func (m *Member) followInAll(ctx context.Context, to group.Replicas) error {
	for _, p := range m.parts[1:] {
		err := m.until(ctx,
			func() bool { return p.Replicas().Equal(to) },
			func() {
				from := p.Replicas()
				if change, id, ok := step(from, to); ok {
					p.ProposeConfChange(from, change, id, nil)
				}
			})
		if err != nil {
			return err
		}
	}
	return nil
}

// step returns the next step from one set of replicas to another. Who comes goes
// before who leaves, so that the quorum is not made smaller on the way.
func step(from, to group.Replicas) (change group.ConfChange, id uint64, ok bool) {
	for _, id := range to.Voters {
		if !slices.Contains(from.Voters, id) {
			return group.AddVoter, id, true
		}
	}
	for _, id := range to.Learners {
		if !from.Has(id) {
			return group.AddLearner, id, true
		}
	}
	for _, id := range append(slices.Clone(from.Voters), from.Learners...) {
		if !to.Has(id) {
			return group.RemoveReplica, id, true
		}
	}
	return 0, 0, false
}

// until proposes, again and again, until done says that it has come about. Raft
// takes a change when the one before is applied, and drops it otherwise.
func (m *Member) until(ctx context.Context, done func() bool, propose func()) error {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	for {
		changed := m.cluster.changed.wait()
		if done() {
			return nil
		}
		if !m.reigning.Load() {
			return group.ErrLeaderChanged
		}
		propose()
		timer := m.cfg.Clock.NewTimer(m.cfg.TickInterval)
		select {
		case <-changed:
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return m.cause(ctx)
		}
		timer.Stop()
	}
}

// followCore brings the groups' replicas to core's wherever they differ: a
// change that a crash has left half made.
func (m *Member) followCore(ctx context.Context) {
	for {
		news, changed := m.news.wait(), m.cluster.changed.wait()
		if m.reigning.Load() && m.cluster.change.TryLock() {
			if err := m.followInAll(ctx, m.core.Replicas()); err != nil {
				m.cfg.Logger.Debug("groups do not have core's replicas yet", "error", err)
			}
			m.cluster.change.Unlock()
		}
		// A change that is given up half made tells nobody.
		timer := m.cfg.Clock.NewTimer(m.cfg.electionTimeout())
		select {
		case <-ctx.Done():
		case <-news:
		case <-changed:
		case <-timer.C():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// healthInterval is etcd's: how long a member must have been connected to count
// as healthy.
const healthInterval = 5 * time.Second

// connected returns how many of the members are this one or have been connected
// for so long.
func (m *Member) connected(members []Info, atLeast time.Duration) int {
	now := m.cfg.Clock.Now()
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	n := 0
	for _, i := range members {
		since, ok := m.cluster.since[i.ID]
		if i.ID == m.id.MemberID || ok && now.Sub(since) >= atLeast {
			n++
		}
	}
	return n
}

func voters(members []Info) []Info {
	return slices.DeleteFunc(slices.Clone(members), func(i Info) bool { return i.IsLearner })
}

// started counts the members that have told their client URLs.
func started(members []Info) int {
	n := 0
	for _, i := range members {
		if len(i.ClientURLs) > 0 {
			n++
		}
	}
	return n
}

func (m *Member) checkAdd(members []Info, learner bool) error {
	if learner && len(members)-len(voters(members)) >= m.cfg.MaxLearners {
		return ErrTooManyLearners
	}
	if m.cfg.LaxReconfig {
		return nil
	}
	v := voters(members)
	if !learner {
		// As in etcd: a cluster of one whose second member never started must be
		// able to get on.
		n, after := started(v), len(v)+1
		if (n != 1 || after != 2) && n < after/2+1 {
			return ErrNotEnoughStarted
		}
	}
	if m.connected(v, healthInterval) < len(v) {
		return ErrUnhealthy
	}
	return nil
}

func (m *Member) checkRemove(members []Info, gone Info) error {
	v := voters(members)
	if !gone.IsLearner && len(v) == 1 {
		return ErrNotEnoughStarted // raft has no configuration without a voter
	}
	if gone.IsLearner || m.cfg.LaxReconfig {
		return nil
	}
	rest := slices.DeleteFunc(slices.Clone(v), func(i Info) bool { return i.ID == gone.ID })
	if n, after := started(rest), len(rest); after == 0 || n < after/2+1 {
		return ErrNotEnoughStarted
	}
	m.cluster.mu.Lock()
	_, up := m.cluster.since[gone.ID]
	m.cluster.mu.Unlock()
	if gone.ID != m.id.MemberID && !up {
		return nil // it is no part of the quorum that there is
	}
	if m.connected(v, healthInterval)-1 < 1+(len(v)-1)/2 {
		return ErrUnhealthy
	}
	return nil
}

// caughtUp is how far a learner may be behind to be promoted, of a hundred: as
// in etcd.
const caughtUp = 90

func (m *Member) checkPromote(ctx context.Context, learner Info) error {
	for i := range m.parts {
		if err := m.askCaughtUp(ctx, caughtUpQuestion{Part: i, Learner: learner.ID}); err != nil {
			return err
		}
	}
	if m.cfg.LaxReconfig {
		return nil
	}
	v := voters(m.Members())
	if n := started(append(v, learner)); n < (len(v)+1)/2+1 {
		return ErrNotEnoughStarted
	}
	return nil
}

// caughtUpQuestion asks who leads a group whether a learner is in sync there.
type caughtUpQuestion struct {
	// Part is the group's place in the order of their ids.
	Part    int    `json:"part"`
	Learner uint64 `json:"learner"`
}

// askCaughtUp returns ErrLearnerNotReady unless the leader of the group, and only it
// knows, says that the learner is in sync.
func (m *Member) askCaughtUp(ctx context.Context, q caughtUpQuestion) error {
	leader := m.parts[q.Part].Status().Leader
	if leader == m.id.MemberID {
		return m.isCaughtUp(ctx, q)
	}
	if leader == 0 {
		return ErrLearnerNotReady
	}
	payload, err := json.Marshal(q)
	if err != nil {
		return err
	}
	if _, err = m.callMember(ctx, leader, methodCaughtUp, payload); err != nil && ctx.Err() == nil {
		return ErrLearnerNotReady // also if the leader is another by now, or gone
	}
	return err
}

// serveCaughtUp answers a caughtUpQuestion, with nothing if the learner is in sync.
func (m *Member) serveCaughtUp(ctx context.Context, payload []byte) ([]byte, error) {
	var q caughtUpQuestion
	if err := json.Unmarshal(payload, &q); err != nil || q.Part < 0 || q.Part >= len(m.parts) {
		return nil, errors.New("member: bad question about a learner")
	}
	return nil, m.isCaughtUp(ctx, q)
}

// isCaughtUp is askCaughtUp at the leader.
func (m *Member) isCaughtUp(ctx context.Context, q caughtUpQuestion) error {
	got := make(chan map[uint64]group.Progress, 1)
	if err := m.parts[q.Part].Progress(func(all map[uint64]group.Progress) { got <- all }); err != nil {
		return err
	}
	select {
	case all := <-got:
		pr, ok := all[q.Learner]
		if !ok || pr.Match*100 < pr.Last*caughtUp || !pr.Active {
			return ErrLearnerNotReady
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// publish tells the cluster this member's name and client URLs, as soon as
// somebody reigns. Before that is done, the member is not ready: who lists the
// members of a cluster that has started finds where they are.
func (m *Member) publish(ctx context.Context) {
	defer func() {
		m.published.Store(true)
		m.maybeReady()
	}()
	for ctx.Err() == nil {
		self, found := find(m.Members(), m.id.MemberID)
		if found && self.Name == m.cfg.Name && slices.Equal(self.ClientURLs, m.cfg.ClientURLs) {
			return
		}
		self.ID, self.Name, self.ClientURLs = m.id.MemberID, m.cfg.Name, m.cfg.ClientURLs
		change := memberChange{Kind: group.UpdateMember, Info: self, Publish: true}
		change.Info.PeerURLs = nil
		if _, err := m.changeMembers(ctx, change); err == nil || ctx.Err() != nil {
			return
		}
		timer := m.cfg.Clock.NewTimer(m.cfg.electionTimeout())
		select {
		case <-m.news.wait():
		case <-m.cluster.changed.wait():
		case <-timer.C():
		case <-ctx.Done():
		}
		timer.Stop()
	}
}
