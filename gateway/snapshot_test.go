package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// snapshotSink is a stream that keeps what is sent, and fails after some messages.
type snapshotSink struct {
	grpc.ServerStreamingServer[pb.SnapshotResponse]
	got  []*pb.SnapshotResponse
	fail int
}

var errGone = status.Error(codes.Unavailable, "the client is gone")

func (s *snapshotSink) Context() context.Context { return context.Background() }

func (s *snapshotSink) Send(r *pb.SnapshotResponse) error {
	if s.fail > 0 && len(s.got) == s.fail {
		return errGone
	}
	s.got = append(s.got, &pb.SnapshotResponse{
		RemainingBytes: r.RemainingBytes, Blob: bytes.Clone(r.Blob), Version: r.Version,
	})
	return nil
}

// TestSnapshotMessages writes files of all lengths, in pieces of all lengths: messages
// are full but for the last, and the checksum has one of its own.
func TestSnapshotMessages(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, body := range []int{512, snapshotChunk - 1, snapshotChunk, snapshotChunk + 1, 3 * snapshotChunk, 5*snapshotChunk + 512} {
		for _, piece := range []int{1, 1000, snapshotChunk - 1, snapshotChunk, snapshotChunk + 1, 10 * snapshotChunk} {
			file := make([]byte, body)
			for i := range file {
				file[i] = byte(rng.Uint32())
			}
			sum := sha256.Sum256(file)
			file = append(file, sum[:]...)
			sink := &snapshotSink{}
			out := &snapshotSender{stream: sink, version: "3.7.0", left: int64(len(file))}
			for rest := file[:body]; len(rest) > 0; {
				n := min(1+rng.IntN(piece), len(rest))
				written, err := out.Write(rest[:n])
				require.NoError(t, err)
				require.Equal(t, n, written)
				rest = rest[n:]
			}
			_, err := out.Write(file[body:])
			require.NoError(t, err)
			require.NoError(t, out.flush())
			require.Zero(t, out.left)

			var got []byte
			for i, r := range sink.got {
				got = append(got, r.Blob...)
				require.Equal(t, "3.7.0", r.Version)
				require.EqualValues(t, max(body-len(got), 0), r.RemainingBytes)
				if i < len(sink.got)-2 {
					require.Len(t, r.Blob, snapshotChunk)
				}
			}
			require.Equal(t, file, got)
			require.Equal(t, sum[:], sink.got[len(sink.got)-1].Blob)
			require.Len(t, sink.got, (body+snapshotChunk-1)/snapshotChunk+1)
		}
	}
}

// TestSnapshotFails ends a stream with an error if the store fails in the middle, if it
// writes less than it has told, and if the client goes away.
func TestSnapshotFails(t *testing.T) {
	broken := errors.New("the disk is gone")
	page := make([]byte, snapshotChunk)
	for _, c := range []struct {
		name  string
		fail  int
		write func(io.Writer) error
		want  string
		sent  int
	}{
		{"store", 0, func(w io.Writer) error { _, err := w.Write(page); return errors.Join(err, broken) }, broken.Error(), 1},
		{"short", 0, func(w io.Writer) error { _, err := w.Write(page); return err }, "length", 1},
		{"client", 1, func(w io.Writer) error {
			_, err := w.Write(page)
			if err == nil {
				_, err = w.Write(page)
			}
			return err
		}, "the client is gone", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newFakeStore()
			store.snapshot = func(begin func(int64) io.Writer) error { return c.write(begin(3*snapshotChunk + snapshotSum)) }
			s := New(Config{}, store)
			t.Cleanup(s.Close)
			sink := &snapshotSink{fail: c.fail}
			require.ErrorContains(t, (&maintenanceServer{Server: s}).Snapshot(&pb.SnapshotRequest{}, sink), c.want)
			require.Len(t, sink.got, c.sent, "no checksum follows")
		})
	}
}
