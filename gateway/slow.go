package gateway

import (
	"context"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/gateway/electionpb"
	"github.com/pebbledash/pebbledash/gateway/lockpb"
)

// loggedKeyBytes bounds what a line shows of a key.
const loggedKeyBytes = 256

// slow logs a slow call, or counts it for the next line. When all calls are slow, a
// line for each would make them slower.
func (s *Server) slow(method string, req any, took time.Duration, err error) {
	if method == lockpb.Lock_Lock_FullMethodName || method == electionpb.Election_Campaign_FullMethodName {
		return // They wait for others to be done.
	}
	suppressed, ok := s.slowCalls.Allow(s.clock.Now())
	if !ok {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", method),
		slog.Duration("took", took),
		slog.String("code", codeOf(err).String()),
		slog.Int("suppressed", suppressed),
	}
	s.log.LogAttrs(context.Background(), slog.LevelWarn, "slow request", append(attrs, subject(req)...)...)
}

// subject says what a request is about: its keys, never its values.
func subject(req any) []slog.Attr {
	key := func(k []byte) slog.Attr { return slog.String("key", string(k[:min(len(k), loggedKeyBytes)])) }
	end := func(e []byte) slog.Attr { return slog.String("range_end", string(e[:min(len(e), loggedKeyBytes)])) }
	switch r := req.(type) {
	case *pb.RangeRequest:
		return []slog.Attr{
			key(r.Key), end(r.RangeEnd),
			slog.Int64("limit", r.Limit), slog.Int64("revision", r.Revision), slog.Bool("count_only", r.CountOnly),
		}
	case *pb.PutRequest:
		return []slog.Attr{key(r.Key), slog.Int("value_bytes", len(r.Value))}
	case *pb.DeleteRangeRequest:
		return []slog.Attr{key(r.Key), end(r.RangeEnd)}
	case *pb.TxnRequest:
		attrs := []slog.Attr{
			slog.Int("compares", len(r.Compare)), slog.Int("success_ops", len(r.Success)), slog.Int("failure_ops", len(r.Failure)),
		}
		if len(r.Compare) > 0 {
			attrs = append(attrs, key(r.Compare[0].GetKey()))
		}
		return attrs
	case *pb.CompactionRequest:
		return []slog.Attr{slog.Int64("revision", r.Revision), slog.Bool("physical", r.Physical)}
	default:
		return nil
	}
}
