package group_test

import (
	"context"
	"io"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// network is what lies between the members: a link from each to each other, whose
// packets come in order, unless a fault has it otherwise. What one link brings
// says nothing of another.
type network struct {
	c     *cluster
	links [maxMembers + 1][maxMembers + 1]link
	// cuts counts the links that are cut.
	cuts int
}

type link struct {
	queue []*packet
	// promise is the newest that was not delivered: it takes the place of the one
	// before.
	promise *packet
	// cut drops everything. Nothing arrives before the step held.
	cut  bool
	held int
}

// packet is what is on its way.
type packet struct {
	kind  packetKind
	group int
	// raft is a message as it leaves; payload is what comes of it.
	raft    *raftpb.Message
	payload []byte
	promise revline.Promise
	call    *remoteCall
	rows    *rowsOnTheirWay
}

type packetKind int

const (
	carriesRaft packetKind = iota
	carriesPromise
	carriesCall
	carriesReply
	carriesRows
)

func (n *network) send(from *member, to uint64, p *packet) {
	if to == 0 || to > maxMembers || from.removed[to] {
		n.lose(p)
		return
	}
	l := &n.links[from.id][to]
	switch p.kind {
	case carriesRaft:
		payload, err := proto.Marshal(p.raft)
		must(err)
		p.raft, p.payload = nil, payload
	case carriesPromise:
		// An older one may come late, by another connection.
		if l.promise != nil && n.c.faults.duplicate > 0 && n.c.rng.IntN(8) == 0 {
			l.queue = append(l.queue, l.promise)
		}
		l.promise = p
		return
	case carriesCall, carriesReply, carriesRows:
	}
	l.queue = append(l.queue, p)
}

// lose has a packet not arrive.
func (n *network) lose(p *packet) {
	n.c.tally.Dropped++
	switch p.kind {
	case carriesCall, carriesReply:
		p.call.end(nil, group.ErrLeaderChanged)
	case carriesRows:
		p.rows.sent(false)
	case carriesRaft, carriesPromise:
	}
}

// deliver takes the next packet of a link.
func (n *network) deliver(from, to uint64) {
	f, l := &n.c.faults, &n.links[from][to]
	i, stays := 0, false
	if f.reorder > 0 && n.c.rng.IntN(f.reorder) == 0 {
		i = n.c.rng.IntN(min(len(l.queue), 10))
	}
	p := l.queue[i]
	if p.kind == carriesRaft && f.duplicate > 0 && n.c.rng.IntN(f.duplicate) == 0 {
		stays = true
	}
	if !stays {
		l.queue = slices.Delete(l.queue, i, i+1)
	}
	if f.lose > 0 && n.c.rng.IntN(f.lose) == 0 {
		n.lose(p)
		return
	}
	n.arrive(from, to, p)
}

func (n *network) deliverPromise(from, to uint64) {
	l := &n.links[from][to]
	p := l.promise
	l.promise = nil
	n.arrive(from, to, p)
}

func (n *network) arrive(from, to uint64, p *packet) {
	m := n.c.members[to-1]
	if n.links[from][to].cut || !m.up || m.removed[from] {
		n.lose(p)
		return
	}
	if !m.connected[from] {
		m.connected[from] = true
		m.promise()
		m.news++
	}
	switch p.kind {
	case carriesRaft:
		msg := &raftpb.Message{}
		must(proto.Unmarshal(p.payload, msg))
		if msg.GetTo() == m.id {
			m.groups[p.group].Step(msg)
		}
	case carriesPromise:
		m.promised(p.promise)
	case carriesCall:
		m.serve(p.call)
	case carriesReply:
		p.call.end(p.call.reply, nil)
	case carriesRows:
		m.take(p.rows)
	}
}

// drop empties a link.
func (n *network) drop(from, to uint64) {
	l := &n.links[from][to]
	queue := l.queue
	l.queue, l.promise = nil, nil
	for _, p := range queue {
		n.lose(p)
	}
}

// cutOff cuts a link, or mends it.
func (n *network) cutOff(from, to uint64, cut bool) {
	l := &n.links[from][to]
	if l.cut != cut {
		l.cut = cut
		if cut {
			n.cuts++
		} else {
			n.cuts--
		}
	}
}

// promise tells the other members what is closed.
func (m *member) promise() {
	p, ok := m.line.Promise()
	if !ok || !m.up {
		return
	}
	m.shown = append(m.shown, p.Closed)
	r := m.core().Replicas()
	for _, id := range append(slices.Clone(r.Voters), r.Learners...) {
		if id != m.id {
			// As bytes, as it goes over the wire.
			q, err := revline.DecodePromise(p.Append(nil), len(m.groups))
			must(err)
			m.c.net.send(m, id, &packet{kind: carriesPromise, promise: q})
		}
	}
}

func (m *member) promised(p revline.Promise) {
	m.line.Promised(p)
	if m.firstPromise == 0 {
		m.firstPromise = p.Closed
	}
	m.maybeReady()
}

// remoteCall is what one member asks of another.
type remoteCall struct {
	caller *member
	life   int
	server uint64
	ctx    context.Context
	// op is a request; without one, the question where to read the groups of mask.
	op   evaluate.Op
	mask revline.Mask
	// reply is on its way from when it is set; over says that it is known.
	reply *reply
	over  bool
	err   error
}

type reply struct {
	res   evaluate.Result
	point revline.Point
	err   error
}

func (k *remoteCall) end(r *reply, err error) {
	if k.over {
		return
	}
	k.over, k.reply, k.err = true, r, err
	if r != nil && r.err != nil {
		k.err = r.err
	}
}

// call asks the sequencer, which is another member.
func (m *member) call(t *task, k *remoteCall, then func(*remoteCall)) {
	k.caller, k.life = m, m.life
	leader := m.core().Status().Leader
	if leader == 0 || leader == m.id {
		k.end(nil, group.ErrNotSequencer)
		then(k)
		return
	}
	k.server = leader
	m.c.calls = append(m.c.calls, k)
	m.c.net.send(m, leader, &packet{kind: carriesCall, call: k})
	t.wait(func() bool { return k.over }, func() { then(k) })
}

// serve answers what another member asks.
func (m *member) serve(k *remoteCall) {
	if k.over || k.caller.life != k.life || !k.caller.up {
		return // it is gone: nobody would read the answer
	}
	answer := func(r *reply) {
		k.reply = r
		m.c.net.send(m, k.caller.id, &packet{kind: carriesReply, call: k})
	}
	if !m.reigning {
		answer(&reply{err: group.ErrNotSequencer})
		return
	}
	t := m.newTask()
	if k.op != nil {
		m.doHere(k.ctx, t, k.op, func(res evaluate.Result, err error) { answer(&reply{res: res, err: err}) })
		return
	}
	m.pointHere(t, k.mask, func(p revline.Point, err error) { answer(&reply{point: p, err: err}) })
}

// export is a snapshot that raft wants to be sent.
type export struct {
	group int
	raft  *raftpb.Message
}

// rowsOnTheirWay is a snapshot between two members.
type rowsOnTheirWay struct {
	from   *member
	life   int
	to     uint64
	group  int
	raft   []byte
	chunks [][]byte
	over   bool
}

// sent tells the sender whether it has arrived.
func (r *rowsOnTheirWay) sent(ok bool) {
	if !r.over && r.from.up && r.from.life == r.life {
		r.from.groups[r.group].SnapshotSent(r.to, ok)
	}
	r.over = true
}

// export sends the next snapshot, as it is now.
func (m *member) export() {
	e := m.exports[0]
	m.exports = slices.Delete(m.exports, 0, 1)
	r := &rowsOnTheirWay{from: m, life: m.life, to: e.raft.GetTo(), group: e.group}
	out, err := m.stores[e.group].Export(1 + m.c.rng.IntN(4000))
	must(err)
	for {
		chunk, err := out.Next()
		if err == io.EOF { //nolint:errorlint // Next's own.
			break
		}
		must(err)
		r.chunks = append(r.chunks, slices.Clone(chunk))
	}
	conf := &raftpb.ConfState{}
	must(proto.Unmarshal(out.ConfState(), conf))
	applied := out.Applied()
	must(out.Close())
	e.raft.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: conf, Index: &applied.Index, Term: &applied.Term,
	}}
	r.raft, err = proto.Marshal(e.raft)
	must(err)
	m.c.trace("member %d sends group %d to %d, as of entry %d", m.id, e.group, r.to, applied.Index)
	m.c.net.send(m, r.to, &packet{kind: carriesRows, rows: r})
}

// rows are a snapshot's, at the member that it was sent to.
type rows struct {
	*mvcc.Ingest
	store *mvcc.Store
}

// Commit implements group.Rows.
func (r rows) Commit() error { return r.Ingest.Commit(context.Background(), r.store) }

// Floor implements group.Rows.
func (r rows) Floor() int64 { return r.Scrubbed() }

// take takes a snapshot.
func (m *member) take(r *rowsOnTheirWay) {
	in, err := mvcc.NewIngest(m.state, m.stateFS, "ingest", m.c.groups[r.group])
	must(err)
	chunks := r.chunks
	broken := m.c.faults.lose > 0 && m.c.rng.IntN(8) == 0
	if broken {
		chunks = chunks[:m.c.rng.IntN(len(chunks))]
	}
	for _, chunk := range chunks {
		must(in.Add(chunk))
	}
	if broken {
		in.Drop()
		r.sent(false)
		return
	}
	must(in.Finish())
	msg := &raftpb.Message{}
	must(proto.Unmarshal(r.raft, msg))
	m.groups[r.group].StepSnapshot(&group.Incoming{Message: msg, Rows: rows{in, m.stores[r.group]}})
	r.sent(true)
}
