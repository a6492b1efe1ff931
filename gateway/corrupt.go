package gateway

import (
	"context"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/storage/alarm"
)

// watchMembers compares the members from time to time, while this one leads: every
// CorruptCheckTime, and every CompactHashCheckTime if there was a compaction. Who
// differs raises the alarm CORRUPT.
func (s *Server) watchMembers() {
	always, stopAlways := s.every(s.cfg.CorruptCheckTime)
	defer stopAlways()
	compactions, stopCompactions := s.every(s.cfg.CompactHashCheckTime)
	defer stopCompactions()
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
		s.compareMembers(s.lifetime)
	}
}

// every returns when to do something, never if d is 0, until stop is called.
func (s *Server) every(d time.Duration) (when <-chan time.Time, stop func()) {
	if d == 0 {
		return nil, func() {}
	}
	ticker := s.clock.NewTicker(d)
	return ticker.C(), ticker.Stop
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
		s.alarms.raise(ctx, alarm.Alarm{Kind: alarm.Corrupt, Member: id})
	}
}

// refusedWhenCorrupt says whether a request is one that etcd refuses while members
// are known to differ.
func refusedWhenCorrupt(req any) bool {
	switch req.(type) {
	case *pb.RangeRequest, *pb.PutRequest, *pb.DeleteRangeRequest, *pb.TxnRequest, *pb.CompactionRequest,
		*pb.LeaseGrantRequest, *pb.LeaseRevokeRequest:
		return true
	}
	return false
}
