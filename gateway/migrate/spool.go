package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// spool keeps what was watched and is not mirrored yet, in a file that has no name: so
// much may come while a snapshot is replayed that it would not fit into memory. One
// writes and one reads.
//
// A record is its length, 4 bytes, when it came, 8 bytes of Unix nanoseconds, and a
// WatchResponse.
type spool struct {
	file *os.File
	// news has room for one: there is something to read.
	news chan struct{}

	// mu guards the fields below, and the file.
	mu            sync.Mutex
	read, written int64
	// whole is up to where responses are: behind it lie fragments of one that has not come
	// to its end, whose last revision may go on in the next.
	whole int64
	// err has ended the writing.
	err error
}

const spoolHead = 4 + 8

// spoolShrink is how long the file may stay when all of it was read.
const spoolShrink = 16 << 20

func newSpool(dir string) (*spool, error) {
	file, err := os.CreateTemp(dir, "pebbledash-migrate-*.spool")
	if err == nil {
		err = os.Remove(file.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("can't keep what is watched: %w", err)
	}
	return &spool{file: file, news: make(chan struct{}, 1)}, nil
}

func (s *spool) close() { _ = s.file.Close() }

func (s *spool) tell() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// put appends what came.
func (s *spool) put(r *pb.WatchResponse, at time.Time) error {
	record, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, spoolHead, spoolHead+proto.Size(r)), r)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(record, uint32(len(record)-spoolHead))
	binary.BigEndian.PutUint64(record[4:], uint64(at.UnixNano()))
	defer s.tell()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.file.WriteAt(record, s.written); err != nil {
		return err
	}
	if s.written += int64(len(record)); !r.Fragment {
		s.whole = s.written
	}
	return nil
}

// end says that nothing comes any more.
func (s *spool) end(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	s.tell()
}

// take returns what came first, nil if there is nothing whole now, or what has ended the
// writing once everything is read.
func (s *spool) take() (*pb.WatchResponse, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read == s.whole {
		return nil, time.Time{}, s.err
	}
	head := make([]byte, spoolHead)
	if _, err := s.file.ReadAt(head, s.read); err != nil {
		return nil, time.Time{}, err
	}
	data := make([]byte, binary.BigEndian.Uint32(head))
	if _, err := s.file.ReadAt(data, s.read+spoolHead); err != nil {
		return nil, time.Time{}, err
	}
	if s.read += spoolHead + int64(len(data)); s.read == s.written {
		if s.written > spoolShrink {
			_ = s.file.Truncate(0)
		}
		s.read, s.written, s.whole = 0, 0, 0
	}
	r := new(pb.WatchResponse)
	return r, time.Unix(0, int64(binary.BigEndian.Uint64(head[4:]))), proto.Unmarshal(data, r)
}

// errLeftBehind says that the source does not have any more what comes next.
var errLeftBehind = errors.New("the source has compacted changes that were not mirrored yet: empty the destination and start over")

// watch fills the spool with the source's changes from a revision on, until ctx ends.
// It returns once the source watches.
func (m *mirror) watchFrom(ctx context.Context, revision int64) error {
	w, err := m.src.watch.Watch(ctx)
	if err != nil {
		return err
	}
	all := []byte{0}
	err = w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: all, RangeEnd: all, StartRevision: revision, ProgressNotify: true, Fragment: true,
	}}})
	if err != nil {
		return err
	}
	created, err := w.Recv()
	if err != nil {
		return err
	}
	if err := watchEnded(created); err != nil {
		return err
	}
	m.watch = w
	m.workers.Go(func() {
		for {
			r, err := w.Recv()
			if err == nil {
				err = watchEnded(r)
			}
			if err == nil {
				err = m.spool.put(r, m.cfg.Clock.Now())
			}
			if err != nil {
				m.spool.end(err)
				return
			}
		}
	})
	return nil
}

func watchEnded(r *pb.WatchResponse) error {
	switch {
	case r.CompactRevision > 0:
		return errLeftBehind
	case r.Canceled:
		return fmt.Errorf("the source has ended the watch: %s", r.CancelReason)
	}
	return nil
}
