package gateway

import (
	"errors"
	"io"
	"log/slog"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// snapshotChunk is how much of a snapshot is in a message; etcd has half of it.
const snapshotChunk = 64 << 10

// Snapshot sends a backup in etcd's file format. The checksum at its end is a message
// of its own, as etcd has it.
func (s *maintenanceServer) Snapshot(_ *pb.SnapshotRequest, stream grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
	if err := s.permitted(stream.Context(), admin); err != nil {
		return err
	}
	start := s.clock.Now()
	out := &snapshotSender{stream: stream, version: s.cfg.StorageVersion, buf: make([]byte, 0, snapshotChunk)}
	err := s.store.Snapshot(stream.Context(), s.cfg.StorageVersion, s.cfg.ClusterVersion, func(size int64) io.Writer {
		s.log.Info("sending a snapshot to a client", "bytes", size)
		out.left = size
		return out
	})
	if err == nil {
		err = out.flush()
	}
	if err == nil && out.left != 0 {
		err = errors.New("the snapshot has not the length that was told")
	}
	if err != nil {
		s.log.Warn("could not send a snapshot to a client", slog.Int64("bytes_left", out.left), slog.Any("err", err))
		return toGRPC(err)
	}
	s.log.Info("sent a snapshot to a client", "took", s.clock.Since(start))
	return nil
}

// snapshotSender sends what is written to it in messages.
type snapshotSender struct {
	stream  grpc.ServerStreamingServer[pb.SnapshotResponse]
	version string
	buf     []byte
	// left is what is still to be sent.
	left int64
}

// snapshotSum is the length of the checksum at the end.
const snapshotSum = 32

// Write implements io.Writer. What fills a message by itself is not copied.
func (s *snapshotSender) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		room := snapshotChunk - len(s.buf)
		if body := s.left - snapshotSum - int64(len(s.buf)); body > 0 {
			room = int(min(int64(room), body))
		}
		if len(s.buf) == 0 && len(p) >= room {
			if err := s.send(p[:room]); err != nil {
				return 0, err
			}
			p = p[room:]
			continue
		}
		take := min(room, len(p))
		s.buf, p = append(s.buf, p[:take]...), p[take:]
		if take == room {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// flush sends what is kept.
func (s *snapshotSender) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	err := s.send(s.buf)
	s.buf = s.buf[:0]
	return err
}

// send sends a message. The codec copies it.
func (s *snapshotSender) send(blob []byte) error {
	s.left -= int64(len(blob))
	// What etcd says is left does not count the checksum.
	return s.stream.Send(&pb.SnapshotResponse{
		RemainingBytes: uint64(max(s.left-snapshotSum, 0)), Blob: blob, Version: s.version,
	})
}
