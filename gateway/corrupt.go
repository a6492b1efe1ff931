package gateway

import (
	"context"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchMembers compares the members from time to time, while this one leads: every
// CorruptCheckTime, and every CompactHashCheckTime if there was a compaction. Who
// differs raises the alarm CORRUPT.
func (s *Server) watchMembers() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.background.Go(func() {
		<-s.stopping
		cancel()
	})
	always, compactions := s.every(s.cfg.CorruptCheckTime), s.every(s.cfg.CompactHashCheckTime)
	compacted := s.store.Compacted()
	for {
		select {
		case <-s.stopping:
			return
		case <-always:
		case <-compactions:
			if s.store.Compacted() == compacted {
				continue
			}
		}
		if s.headers.raft.Leader() != s.headers.memberID {
			continue
		}
		compacted = s.store.Compacted()
		s.compareMembers(ctx)
	}
}

// every returns when to do something, never if d is 0, until the server stops.
func (s *Server) every(d time.Duration) <-chan time.Time {
	if d == 0 {
		return nil
	}
	ticker := s.clock.NewTicker(d)
	s.background.Go(func() {
		<-s.stopping
		ticker.Stop()
	})
	return ticker.C()
}

func (s *Server) compareMembers(ctx context.Context) {
	began := s.clock.Now()
	c, err := s.store.Compare(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("the members could not be compared", slog.Any("err", err))
		}
		return
	}
	s.log.Info("compared what the members have", slog.Int64("revision", c.Revision),
		slog.Int("members", len(c.Compared)), slog.Int("missing", len(c.Missing)),
		slog.Int("different", len(c.Different)), slog.Duration("took", s.clock.Since(began)))
	for _, id := range c.Different {
		s.alarms.raise(ctx, alarm{kind: pb.AlarmType_CORRUPT, member: id})
	}
}
