package member

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/peer"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// openPeers makes the transport to the other members. A member without
// listeners, as in tests of one, has none.
func (m *Member) openPeers() error {
	if len(m.cfg.PeerListeners) == 0 {
		return nil
	}
	m.peers = peer.New(peer.Config{
		ClusterID: m.id.ClusterID, MemberID: m.id.MemberID, Handler: handler{m},
		Listeners: m.cfg.PeerListeners, DialTLS: m.cfg.PeerTLS,
		Logger: m.cfg.Logger, Clock: m.cfg.Clock, Registerer: m.cfg.Registerer,
	})
	return nil
}

func (m *Member) servePeers(ctx context.Context) {
	if err := m.peers.Serve(); err != nil && ctx.Err() == nil {
		m.fail(fmt.Errorf("member: serve other members: %w", err))
	}
}

// Send implements group.Transport.
func (m *Member) Send(g mvcc.GroupID, messages []*raftpb.Message) {
	if m.peers == nil {
		return
	}
	for _, msg := range messages {
		payload, err := proto.Marshal(msg)
		if err != nil {
			panic(err)
		}
		t := msg.GetType()
		lazy := t == raftpb.MsgHeartbeat || t == raftpb.MsgHeartbeatResp
		// A heartbeat that confirms a reign is waited for.
		lazy = lazy && len(msg.GetContext()) == 0
		m.peers.Send(msg.GetTo(), uint16(g), payload, lazy)
	}
}

// snapshotChunk is about how many bytes of rows are sent at once.
const snapshotChunk = 512 << 10

// SendSnapshot implements group.Transport.
func (m *Member) SendSnapshot(g mvcc.GroupID, msg *raftpb.Message) {
	if m.peers == nil {
		return
	}
	m.run(func(ctx context.Context) {
		p := m.parts[g-mvcc.CoreGroup]
		err := m.sendSnapshot(ctx, p, msg)
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("could not send a snapshot", "group", p.name, "to", FormatID(msg.GetTo()), "error", err)
		}
		p.SnapshotSent(msg.GetTo(), err == nil)
	})
}

func (m *Member) sendSnapshot(ctx context.Context, p *part, msg *raftpb.Message) error {
	export, err := p.store.Export(snapshotChunk)
	if err != nil {
		return err
	}
	defer func() { _ = export.Close() }()
	conf := &raftpb.ConfState{}
	if err := proto.Unmarshal(export.ConfState(), conf); err != nil {
		return err
	}
	applied := export.Applied()
	// What is sent may be newer than what raft has asked for.
	msg.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: conf, Index: &applied.Index, Term: &applied.Term,
	}}
	payload, err := proto.Marshal(msg)
	if err != nil {
		return err
	}
	header := append(binary.BigEndian.AppendUint16(nil, uint16(p.id)), payload...)
	m.cfg.Logger.Info("sending a snapshot", "group", p.name, "to", FormatID(msg.GetTo()), "index", applied.Index)
	return m.peers.SendSnapshot(ctx, msg.GetTo(), header, export.Next)
}

// promise tells the other members what is closed.
func (m *Member) promise() {
	if m.peers == nil {
		return
	}
	p, ok := m.line.Promise()
	if !ok {
		return
	}
	r := m.core.Replicas()
	if len(r.Voters)+len(r.Learners) <= 1 {
		return
	}
	payload := p.Append(nil)
	for _, ids := range [...][]uint64{r.Voters, r.Learners} {
		for _, id := range ids {
			if id != m.id.MemberID {
				m.peers.Notify(id, payload)
			}
		}
	}
}

// handler is the member as the other members see it.
type handler struct{ m *Member }

// Raft implements peer.Handler.
func (h handler) Raft(from uint64, g uint16, payload []byte) {
	h.m.heardFrom(from)
	i := int(g) - int(mvcc.CoreGroup)
	if i < 0 || i >= len(h.m.parts) {
		return
	}
	msg := &raftpb.Message{}
	if err := proto.Unmarshal(payload, msg); err != nil || msg.GetTo() != h.m.id.MemberID {
		return
	}
	h.m.parts[i].Step(msg)
}

// Notice implements peer.Handler.
func (h handler) Notice(_ uint64, payload []byte) {
	p, err := revline.DecodePromise(payload, len(h.m.parts))
	if err != nil {
		return
	}
	h.m.line.Promised(p)
	// The first one says how far this member has to get before it can serve.
	h.m.firstPromise.CompareAndSwap(0, p.Closed)
	h.m.maybeReady()
}

// Call implements peer.Handler.
func (h handler) Call(ctx context.Context, from uint64, method byte, payload []byte) ([]byte, error) {
	m := h.m
	if method == methodJoin {
		return m.serveJoin(ctx, payload)
	}
	if from == 0 {
		return nil, toRemote(errors.New("member: asked by nobody who is a member"))
	}
	var reply []byte
	var err error
	switch {
	case method == methodHash:
		reply, err = m.serveHash(ctx, payload)
	case method == methodCaughtUp:
		reply, err = m.serveCaughtUp(ctx, payload)
	case !m.reigning.Load():
		err = group.ErrNotSequencer
	default:
		reply, err = m.serve(ctx, method, payload)
	}
	if err != nil {
		return nil, toRemote(err)
	}
	return reply, nil
}

// joinAnswer tells a member that joins who the cluster is.
type joinAnswer struct {
	ClusterID uint64 `json:"cluster_id"`
	Routes    string `json:"routes"`
	Members   []Info `json:"members"`
}

// joinQuestion says which members a joinAnswer is to have; part of the protocol between
// members.
type joinQuestion byte

const (
	// knownMembers are those that the asked member knows of.
	knownMembers joinQuestion = iota
	// currentMembers are those that the sequencer knows of: a member that lags may not have
	// heard of the one that asks.
	currentMembers
)

func (m *Member) serveJoin(ctx context.Context, payload []byte) ([]byte, error) {
	answer := joinAnswer{ClusterID: m.id.ClusterID, Routes: m.id.Routes, Members: m.Members()}
	if len(payload) > 0 && joinQuestion(payload[0]) == currentMembers {
		// Without a quorum there is no sequencer, and the one that asks may be what the
		// quorum waits for, as the second member does.
		ctx, cancel := context.WithTimeout(ctx, m.cfg.electionTimeout())
		defer cancel()
		if members, err := m.MembersNow(ctx); err == nil {
			answer.Members = members
		}
	}
	return json.Marshal(answer)
}

// Snapshot implements peer.Handler.
func (h handler) Snapshot(_ context.Context, from uint64, header []byte, next func() ([]byte, error)) error {
	m := h.m
	if len(header) < 2 {
		return errors.New("member: bad snapshot")
	}
	i := int(binary.BigEndian.Uint16(header)) - int(mvcc.CoreGroup)
	msg := &raftpb.Message{}
	if err := proto.Unmarshal(header[2:], msg); err != nil || i < 0 || i >= len(m.parts) ||
		msg.GetType() != raftpb.MsgSnap || msg.GetTo() != m.id.MemberID {
		return errors.New("member: bad snapshot")
	}
	p := m.parts[i]
	m.cfg.Logger.Info("taking a snapshot", "group", p.name, "from", FormatID(from),
		"index", msg.GetSnapshot().GetMetadata().GetIndex())
	in, err := m.takeRows(p, next)
	if err != nil {
		return err
	}
	if meta := msg.GetSnapshot().GetMetadata(); in.Applied().Index != meta.GetIndex() || in.Applied().Term != meta.GetTerm() {
		in.Drop()
		return errors.New("member: the rows of a snapshot are not those that its message names")
	}
	p.StepSnapshot(&group.Incoming{Message: msg, Rows: in})
	return nil
}

// Admit implements peer.Handler.
func (h handler) Admit(from uint64) error {
	c := &h.m.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed[from] {
		return toRemote(ErrRemoved)
	}
	return nil
}

// Connected implements peer.Handler.
func (h handler) Connected(id uint64) {
	c := &h.m.cluster
	c.mu.Lock()
	if c.since == nil {
		c.since = map[uint64]time.Time{}
	}
	if _, ok := c.since[id]; !ok {
		c.since[id] = h.m.cfg.Clock.Now()
	}
	c.mu.Unlock()
	h.m.promise()
	h.m.news.tell()
}

// Lost implements peer.Handler.
func (h handler) Lost(id uint64) {
	c := &h.m.cluster
	c.mu.Lock()
	delete(c.since, id)
	c.mu.Unlock()
	h.m.lost(id)
}

// Refused implements peer.Handler.
func (h handler) Refused(by uint64, err error) {
	if errors.Is(fromRemote(err), ErrRemoved) {
		h.m.fail(ErrRemoved)
		return
	}
	h.m.cfg.Logger.Error("another member refuses to talk with this one", "member", FormatID(by), "error", err)
}
