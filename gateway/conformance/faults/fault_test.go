//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// fault is something that goes wrong with a cluster.
type fault struct {
	name string
	// least is how many members it needs.
	least int
	// since is what the time to the next write is counted from; "" if it is
	// not.
	since string
	// disks gives members disks of their own.
	disks bool
	// calm says that nothing goes wrong: every request is answered, and
	// revisions leave no gaps.
	calm bool
	// ends says that members may end because of it.
	ends bool
	// long leaves it out where each fault is made but once.
	long bool
	// once makes it, lets it last, and ends it. n counts up, and chooses where
	// there are variants.
	once func(ctx context.Context, s *session, n int) error
}

const (
	// lasting is how long a fault lasts before it ends.
	lasting = 1500 * time.Millisecond
	// deposed is how long a leader has to be away so that it is none any more
	// when it comes back.
	deposed = 2500 * time.Millisecond

	// floods values of floodBytes are written to a full disk, and maxFloods in
	// all: the history is kept in memory.
	floods, maxFloods, floodBytes = 150, 1000, 250 << 10
)

// suite is all faults, in the order of the table.
var suite = []fault{
	{name: "none", least: 1, calm: true, once: none},
	{name: "kill -9 leader", least: 1, since: "kill", once: killLeader},
	{name: "kill -9 follower", long: true, least: 3, since: "kill", once: killFollower},
	{name: "kill -9 majority", least: 3, since: "restart", once: killMajority},
	{name: "restart of all", least: 1, since: "restart", once: restartAll},
	{name: "partition leader", least: 3, since: "cut", once: partitionLeader},
	{name: "partition minority", long: true, least: 3, since: "cut", once: partitionMinority},
	{name: "asymmetric partition", least: 3, since: "cut", once: partitionOneWay},
	{name: "flapping partition", least: 3, since: "first cut", once: flap},
	{name: "SIGSTOP leader", least: 1, since: "SIGSTOP", once: stopLeader},
	{name: "slow disk", long: true, least: 1, since: "slow", disks: true, once: slowDisk},
	{name: "hanging disk", long: true, least: 1, since: "hang", disks: true, once: hangDisk},
	{name: "full disk", least: 1, since: "full", disks: true, ends: true, once: fullDisk},
	{name: "leader moved", least: 3, since: "move", once: moveLeader},
	{name: "member replaced", least: 3, since: "removal", once: replaceMember},
}

func none(ctx context.Context, s *session, _ int) error { return s.wait(ctx, lasting) }

// killLeader kills the leader, and starts it again.
func killLeader(ctx context.Context, s *session, _ int) error {
	m, err := s.leader(ctx)
	if err != nil {
		return err
	}
	return s.crash(ctx, m)
}

// killFollower kills a member that does not lead.
func killFollower(ctx context.Context, s *session, n int) error {
	m, err := s.follower(ctx, n)
	if err != nil {
		return err
	}
	return s.crash(ctx, m)
}

// follower is a member that does not lead: another for each n.
func (s *session) follower(ctx context.Context, n int) (*member, error) {
	leader, err := s.leader(ctx)
	if err != nil {
		return nil, err
	}
	rest := s.others(leader)
	if len(rest) == 0 {
		return leader, nil
	}
	return rest[n%len(rest)], nil
}

// crash kills a member and starts it again. Where it was the only one, there
// is no write before it is back.
func (s *session) crash(ctx context.Context, m *member) error {
	if len(s.members) == 1 {
		return s.strike(ctx, func() error { return errors.Join(s.kill(m), s.restart(ctx, m)) })
	}
	if err := s.strike(ctx, func() error { return s.kill(m) }); err != nil {
		return err
	}
	if err := s.wait(ctx, lasting); err != nil {
		return err
	}
	return s.restart(ctx, m)
}

// killMajority leaves less than what can decide anything.
func killMajority(ctx context.Context, s *session, n int) error {
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	victims := s.others(leader)
	if n%2 == 0 { // The leader is among them, every other time.
		victims = append([]*member{leader}, victims...)
	}
	victims = victims[:len(s.members)/2+1]
	if err := s.kill(victims...); err != nil {
		return err
	}
	if err := s.noWrites(ctx, s.others(victims...)...); err != nil {
		return err
	}
	return s.strike(ctx, func() error { return s.restart(ctx, victims...) })
}

// noWrites waits, and sees to it that nothing is answered to what members are
// asked meanwhile.
func (s *session) noWrites(ctx context.Context, members ...*member) error {
	since := s.recorder.now()
	if err := s.wait(ctx, lasting); err != nil {
		return err
	}
	s.recorder.mu.Lock()
	defer s.recorder.mu.Unlock()
	for i := len(s.recorder.ops) - 1; i >= 0 && s.recorder.ops[i].call > since; i-- {
		if o := s.recorder.ops[i]; o.ret != 0 && o.outcome == answered && !o.serializable {
			s.violation("%v, though only %d of %d members ran", o, len(members), len(s.members))
		}
	}
	return nil
}

func restartAll(ctx context.Context, s *session, _ int) error {
	if err := s.kill(s.members...); err != nil {
		return err
	}
	return s.strike(ctx, func() error { return s.restart(ctx, s.members...) })
}

// partition cuts members off from the others, and from clients every other
// time.
func (s *session) partition(ctx context.Context, n int, members ...*member) error {
	var nodes []int
	for _, m := range members {
		nodes = append(nodes, m.node)
	}
	cut := s.split
	if n%2 == 1 {
		cut = s.isolate
	}
	if err := s.strike(ctx, func() error { return cut(nodes...) }); err != nil {
		return err
	}
	if err := s.wait(ctx, deposed); err != nil {
		return err
	}
	return s.heal()
}

func partitionLeader(ctx context.Context, s *session, n int) error {
	m, err := s.leader(ctx)
	if err != nil {
		return err
	}
	return s.partition(ctx, n, m)
}

func partitionMinority(ctx context.Context, s *session, n int) error {
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	rest := s.others(leader)
	var minority []*member
	for i := range (len(s.members) - 1) / 2 {
		minority = append(minority, rest[(n+i)%len(rest)])
	}
	return s.partition(ctx, n, minority...)
}

// partitionOneWay has packets lost in one direction only: from the leader to
// the others, from the others to the leader, or from the leader to one of them.
func partitionOneWay(ctx context.Context, s *session, n int) error {
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	rest := s.others(leader)
	if err := s.strike(ctx, func() error {
		for _, m := range rest {
			from, to := leader.node, m.node
			if n%3 == 1 {
				from, to = to, from
			}
			if err := s.cut(from, to); err != nil || n%3 == 2 {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := s.wait(ctx, deposed); err != nil {
		return err
	}
	return s.heal()
}

// flap cuts the leader off and mends that again, quickly and at random. Each
// time it is whoever leads by then.
func flap(ctx context.Context, s *session, _ int) error {
	short := func() time.Duration { return time.Duration(30+s.random.IntN(500)) * time.Millisecond }
	cut := func() error {
		m, err := s.leader(ctx)
		if err != nil {
			return err
		}
		return s.split(m.node)
	}
	if err := s.strike(ctx, cut); err != nil {
		return err
	}
	for range 5 {
		if err := errors.Join(s.wait(ctx, short()), s.heal(), s.wait(ctx, short()), cut()); err != nil {
			return err
		}
	}
	return s.heal()
}

// stopLeader takes the leader's time away. When it wakes it does not know that
// it leads no more, and finds requests that have waited for it.
func stopLeader(ctx context.Context, s *session, _ int) error {
	m, err := s.leader(ctx)
	if err != nil {
		return err
	}
	if len(s.members) == 1 {
		if err := errors.Join(s.pause(m), s.wait(ctx, deposed)); err != nil {
			return err
		}
		return s.strike(ctx, func() error { return s.resume(m) })
	}
	if err := s.strike(ctx, func() error { return s.pause(m) }); err != nil {
		return errors.Join(err, s.resume(m))
	}
	return errors.Join(s.wait(ctx, deposed), s.resume(m))
}

// someone is the leader and a follower by turns.
func (s *session) someone(ctx context.Context, n int) (*member, error) {
	if n%2 == 0 {
		return s.leader(ctx)
	}
	return s.follower(ctx, n/2)
}

// slowDisk has a member's disk do a few writes a second only. Where devices can
// not be throttled it stops and goes instead.
func slowDisk(ctx context.Context, s *session, n int) error {
	m, err := s.someone(ctx, n)
	if err != nil {
		return err
	}
	if canThrottle() {
		if err := s.strike(ctx, func() error { return m.disk.throttle(slowWrites) }); err != nil {
			return err
		}
		return errors.Join(s.wait(ctx, 2*lasting), m.disk.throttle(0))
	}
	stopping, stop := context.WithCancel(ctx)
	stopped := make(chan error)
	go func() {
		var err error
		for err == nil && stopping.Err() == nil {
			err = errors.Join(m.disk.freeze(), s.wait(ctx, 80*time.Millisecond), m.disk.thaw(), s.wait(ctx, 20*time.Millisecond))
		}
		stopped <- err
	}()
	err = s.strike(ctx, func() error { return nil })
	err = errors.Join(err, s.wait(ctx, 2*lasting))
	stop()
	return errors.Join(err, <-stopped)
}

// hangDisk has a member's disk do nothing at all for a while.
func hangDisk(ctx context.Context, s *session, n int) error {
	m, err := s.someone(ctx, n)
	if err != nil {
		return err
	}
	if len(s.members) == 1 {
		if err := errors.Join(m.disk.freeze(), s.wait(ctx, deposed)); err != nil {
			return err
		}
		return s.strike(ctx, m.disk.thaw)
	}
	if err := s.strike(ctx, m.disk.freeze); err != nil {
		return errors.Join(err, m.disk.thaw())
	}
	return errors.Join(s.wait(ctx, deposed), m.disk.thaw())
}

// fullDisk leaves a member's disk no room. Whether the member ends because of
// that, or goes on as well as it can, is up to it; when there is room again it
// is started again if need be.
func fullDisk(ctx context.Context, s *session, n int) error {
	m, err := s.someone(ctx, n)
	if err != nil {
		return err
	}
	if len(s.members) == 1 {
		if err := m.disk.fill(); err != nil {
			return err
		}
		s.flood(ctx, m)
		return s.strike(ctx, func() error { return s.room(ctx, m) })
	}
	if err := s.strike(ctx, m.disk.fill); err != nil {
		return err
	}
	s.flood(ctx, m)
	return s.room(ctx, m)
}

// flood writes so much that a full disk is noticed, whatever room a member has
// laid out in advance.
func (s *session) flood(ctx context.Context, m *member) {
	c := &client{name: "flood", recorder: s.recorder, library: s.all}
	stone := strings.Repeat("stone ", floodBytes/6)
	for n := 0; n < floods && s.flooded < maxFloods && !m.ended(); n++ {
		s.flooded++
		if o := c.do(ctx, request{then: []step{{verb: put, key: numbered(prefixes[n%len(prefixes)], 0), value: stone}}}); o.outcome != answered {
			_ = s.wait(ctx, failurePause) // If ctx is done whoever comes next will see that.
		}
	}
}

// room gives a member room again, and starts it if it has ended for want of it.
func (s *session) room(ctx context.Context, m *member) error {
	if err := m.disk.empty(); err != nil {
		return err
	}
	return s.revive(ctx, m)
}

// revive starts a member that has ended because of the fault.
func (s *session) revive(ctx context.Context, m *member) error {
	if !m.up || !m.ended() {
		return nil
	}
	if !s.fault.ends {
		return fmt.Errorf("%s has ended by itself; its log ends:\n%s", m.name, m.srv.LogTail())
	}
	return s.restart(ctx, m)
}

// moveLeader has the lead given to another member, a few times. It may fail
// now and then: another may lead by then.
func moveLeader(ctx context.Context, s *session, n int) error {
	var failed error
	for i := range 4 {
		leader, err := s.leader(ctx)
		if err != nil {
			return err
		}
		rest := s.others(leader)
		to := rest[(n+i)%len(rest)]
		err = s.strike(ctx, func() error { return s.move(ctx, leader, to) })
		if errors.Is(err, errNotMoved) {
			failed = errors.Join(failed, err)
		} else if err != nil {
			return err
		}
		if err := s.wait(ctx, lasting/5); err != nil {
			return err
		}
	}
	if s.struck == 0 {
		return failed
	}
	return nil
}

var errNotMoved = errors.New("the lead was not moved")

// move asks a leader to give the lead to another.
func (s *session) move(ctx context.Context, from, to *member) error {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	r, err := s.status(ctx, to)
	if err == nil {
		_, err = pb.NewMaintenanceClient(from.lib.ActiveConnection()).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: r.Header.MemberId})
	}
	if err != nil {
		return fmt.Errorf("%w from %s to %s: %w", errNotMoved, from.name, to.name, err)
	}
	return nil
}

// replaceMember removes a follower or the leader by turns, and a new member
// takes its place.
func replaceMember(ctx context.Context, s *session, n int) error {
	m, err := s.someone(ctx, n+1)
	if err != nil {
		return err
	}
	measured := make(chan error, 1)
	removed := func() {
		since := s.recorder.now()
		s.struck++
		go func() { measured <- s.nextWrite(ctx, since) }()
	}
	if err := s.replace(ctx, m, removed); err != nil {
		return err
	}
	return <-measured
}
