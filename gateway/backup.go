package gateway

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/backuppb"
	"github.com/pebbledash/pebbledash/storage/member"
)

// What is told and sent at a time.
const (
	// backupChunk is how much of a file is in a message.
	backupChunk = 128 << 10
	// backupFiles and backupAhead bound the files that are told in a message: their
	// number, and how much of them was read for their checksums. The second is what is
	// read before the client says whether it wants it.
	backupFiles = 1000
	backupAhead = 64 << 20
)

// backupServer serves backups of the files of the state. As Snapshot it is for
// administrators.
type backupServer struct {
	*Server
	backuppb.UnsafeBackupServer
}

type backupStream = grpc.BidiStreamingServer[backuppb.CreateRequest, backuppb.CreateResponse]

// Create sends what the client does not have of a checkpoint.
func (s *backupServer) Create(stream backupStream) error {
	if err := s.permitted(stream.Context(), admin); err != nil {
		return err
	}
	start := s.clock.Now()
	b := &backupSender{stream: stream, buf: make([]byte, backupChunk)}
	err := s.backup(b)
	if err != nil {
		s.log.Warn("could not send a backup to a client", slog.Int64("bytes_sent", b.sent), slog.Any("err", err))
		return toGRPC(err)
	}
	s.log.Info("sent a backup to a client", slog.Int64("revision", b.Revision), slog.Int("files", len(b.Files)),
		slog.Int64("bytes", b.bytes()), slog.Int64("bytes_sent", b.sent), slog.Duration("took", s.clock.Since(start)))
	return nil
}

func (s *backupServer) backup(b *backupSender) (err error) {
	// What is raised now is raised in the backup, or was lowered after its revision.
	var alarms []string
	for _, a := range s.alarms.now.Load().members() {
		alarms = append(alarms, a.String())
	}
	if b.Checkpoint, err = s.store.Checkpoint(b.stream.Context()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	err = b.stream.Send(&backuppb.CreateResponse{What: &backuppb.CreateResponse_Head{Head: &backuppb.Head{
		ClusterId: b.ClusterID, MemberId: b.MemberID, Member: b.Name, Version: s.cfg.ProductVersion,
		Revision: b.Revision, Compacted: b.Compacted, Routes: b.Routes, Alarms: alarms,
		Files: uint64(len(b.Files)), Bytes: uint64(b.bytes()),
	}}})
	if err != nil {
		return err
	}
	return b.sendAll()
}

// backupSender sends a checkpoint.
type backupSender struct {
	*member.Checkpoint
	stream backupStream
	buf    []byte
	sent   int64
}

func (b *backupSender) bytes() (n int64) {
	for _, f := range b.Files {
		n += f.Size
	}
	return n
}

func (b *backupSender) sendAll() error {
	for files := b.Files; len(files) > 0; {
		told, err := b.tell(files)
		if err != nil {
			return err
		}
		wanted, err := b.stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Canceled, "pebbledash: the client has closed the stream before the end of the backup")
		}
		if err != nil {
			return err
		}
		last := -1
		for _, w := range wanted.Wanted {
			if uint64(w) >= uint64(told) || int(w) <= last {
				return status.Errorf(codes.InvalidArgument, "pebbledash: file %d of %d is wanted after file %d", w, told, last)
			}
			last = int(w)
			if err := b.send(files[w]); err != nil {
				return err
			}
		}
		files = files[told:]
	}
	return nil
}

// tell tells the client of the next files, and returns how many.
func (b *backupSender) tell(files []member.CheckpointFile) (n int, err error) {
	var msg backuppb.Files
	for read := int64(0); n < len(files) && n < backupFiles && read < backupAhead; n++ {
		f := files[n]
		sum, more, err := b.Sum(b.stream.Context(), f)
		if err != nil {
			return 0, err
		}
		read += more
		msg.Files = append(msg.Files, &backuppb.File{Name: f.Name, Size: uint64(f.Size), Sha256: sum[:]})
	}
	return n, b.stream.Send(&backuppb.CreateResponse{What: &backuppb.CreateResponse_Files{Files: &msg}})
}

// send sends a file's content.
func (b *backupSender) send(f member.CheckpointFile) (err error) {
	file, err := b.Open(f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for left := f.Size; left > 0; {
		n, err := io.ReadFull(file, b.buf[:min(left, backupChunk)])
		if err != nil {
			return fmt.Errorf("%s ends %d bytes too early: %w", f.Name, left, err)
		}
		// The codec copies it.
		if err := b.stream.Send(&backuppb.CreateResponse{What: &backuppb.CreateResponse_Chunk{Chunk: b.buf[:n]}}); err != nil {
			return err
		}
		left -= int64(n)
		b.sent += int64(n)
	}
	return nil
}
