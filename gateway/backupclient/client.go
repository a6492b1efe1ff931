// Package backupclient brings a backup from a member into a repository. It is what
// "pebbledash backup create" does; the other side is gateway/backup.go.
//
// Run may be called concurrently, with a Creation for each; progress is called on the
// caller's goroutine.
package backupclient

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/backuppb"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/repository"
)

// Config says whom to ask, and as whom.
type Config struct {
	// Endpoints are URLs, or addresses, of members; the first that answers is taken. Who
	// names always the same first adds least: members have different files.
	Endpoints []string
	// TLS is for endpoints with https, and for addresses if it is set; nil is the system's
	// own authorities.
	TLS *tls.Config
	// User is "" for nobody.
	User, Password string
	// DialTimeout is how long one endpoint may take to answer.
	DialTimeout time.Duration
}

// Progress is what has come so far.
type Progress struct {
	// Bytes of Total have come, or were there; New of them have come.
	Bytes, Total, New int64
	// Files and NewFiles are the same of files.
	Files, NewFiles int
}

// The keep-alive is that of etcd's clients, so that a server that has gone away is missed.
const keepaliveTime, keepaliveTimeout = 30 * time.Second, 20 * time.Second

// maxMessage bounds what a server may send at once.
const maxMessage = 16 << 20

// Run adds a backup to a repository, and tells progress of each step.
func Run(ctx context.Context, cfg Config, to *repository.Creation, progress func(Progress), now func() time.Time) (*repository.Manifest, Progress, error) {
	conn, stream, err := connect(ctx, cfg)
	if err != nil {
		return nil, Progress{}, err
	}
	defer func() { _ = conn.Close() }()
	r := receiver{stream: stream, to: to, progress: progress}
	m, err := r.run(ctx)
	if err != nil {
		return nil, r.Progress, err
	}
	return m, r.Progress, to.Finish(m, now())
}

// connect finds a member that gives a backup.
func connect(ctx context.Context, cfg Config) (*grpc.ClientConn, *opened, error) {
	var errs []error
	for _, endpoint := range cfg.Endpoints {
		conn, err := dial(cfg, endpoint)
		if err != nil {
			return nil, nil, err
		}
		stream, err := open(ctx, cfg, conn)
		if err == nil {
			return conn, stream, nil
		}
		_ = conn.Close()
		err = explain(endpoint, err)
		// Another endpoint says the same to a bad password.
		if c := status.Code(err); c != codes.Unavailable && c != codes.DeadlineExceeded || ctx.Err() != nil {
			return nil, nil, err
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, nil, errors.New("no endpoint is given; say by --endpoints where a member is")
	}
	return nil, nil, errors.Join(errs...)
}

func explain(endpoint string, err error) error {
	if status.Code(err) == codes.Unimplemented {
		return fmt.Errorf("%s is no Pebbledash that gives backups of this kind; \"etcdctl snapshot save\" takes one of etcd and of Pebbledash: %w", endpoint, err)
	}
	return fmt.Errorf("%s: %w", endpoint, err)
}

// dial makes the connection to a member, as etcdctl reads endpoints.
func dial(cfg Config, endpoint string) (*grpc.ClientConn, error) {
	scheme, address, ok := strings.Cut(endpoint, "://")
	if !ok {
		scheme, address = "", endpoint
	}
	creds := insecure.NewCredentials()
	switch {
	case scheme == "https" || scheme == "unixs" || scheme == "" && cfg.TLS != nil:
		creds = credentials.NewTLS(cfg.TLS)
	case scheme != "" && scheme != "http" && scheme != "unix":
		return nil, fmt.Errorf("endpoint %q is neither an address nor a URL of http, https, unix or unixs", endpoint)
	case cfg.TLS != nil:
		return nil, fmt.Errorf("endpoint %q is without TLS, and certificates are given: write https://", endpoint)
	}
	target := "passthrough:///" + address
	if strings.HasPrefix(scheme, "unix") {
		target = "unix:" + address
	}
	return grpc.NewClient(target, grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
}

// opened is a stream of which the head has come.
type opened struct {
	backuppb.Backup_CreateClient
	head *backuppb.Head
}

func open(ctx context.Context, cfg Config, conn *grpc.ClientConn) (*opened, error) {
	if cfg.User != "" {
		asking, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
		defer cancel()
		r, err := pb.NewAuthClient(conn).Authenticate(asking, &pb.AuthenticateRequest{Name: cfg.User, Password: cfg.Password})
		switch {
		case status.Code(err) == codes.FailedPrecondition: // As to etcdctl: authentication is off.
		case err != nil:
			return nil, err
		default:
			ctx = metadata.AppendToOutgoingContext(ctx, "token", r.Token)
		}
	} else if err := reach(ctx, cfg, conn); err != nil {
		return nil, err
	}
	stream, err := backuppb.NewBackupClient(conn).Create(ctx)
	if err != nil {
		return nil, err
	}
	msg, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if msg.GetHead() == nil {
		return nil, errors.New("the server does not say what the backup is of")
	}
	return &opened{stream, msg.GetHead()}, nil
}

// reach waits, but not for ever, for a connection; the backup's head itself may take a
// while, until everything is flushed.
func reach(ctx context.Context, cfg Config, conn *grpc.ClientConn) error {
	asking, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	_, err := pb.NewAuthClient(conn).AuthStatus(asking, &pb.AuthStatusRequest{})
	if c := status.Code(err); c == codes.Unavailable || c == codes.DeadlineExceeded {
		return err
	}
	return nil // Whatever it says, somebody is there.
}

// receiver takes one backup.
type receiver struct {
	Progress
	stream   *opened
	to       *repository.Creation
	progress func(Progress)
}

func (r *receiver) run(ctx context.Context) (*repository.Manifest, error) {
	head := r.stream.head
	r.Total = int64(head.Bytes)
	for left := head.Files; left > 0; {
		msg, err := r.recv()
		if err != nil {
			return nil, err
		}
		files := msg.GetFiles().GetFiles()
		if len(files) == 0 || uint64(len(files)) > left {
			return nil, fmt.Errorf("the server tells of %d files where %d are left", len(files), left)
		}
		left -= uint64(len(files))
		if err := r.take(ctx, files); err != nil {
			return nil, err
		}
	}
	// The server has seen its end, too.
	if _, err := r.stream.Recv(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the server does not end the backup: %w", err)
	}
	return &repository.Manifest{
		ClusterID: member.FormatID(head.ClusterId), MemberID: member.FormatID(head.MemberId),
		Member: head.Member, Version: head.Version,
		Revision: head.Revision, Compacted: head.Compacted, Routes: head.Routes,
		Alarms: head.Alarms,
	}, nil
}

func (r *receiver) recv() (*backuppb.CreateResponse, error) {
	msg, err := r.stream.Recv()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("the backup has broken off: %w", err)
	}
	return msg, nil
}

// take takes those of the files that are not there.
func (r *receiver) take(ctx context.Context, told []*backuppb.File) error {
	var wanted backuppb.CreateRequest
	files := make([]repository.File, len(told))
	for i, f := range told {
		if len(f.Sha256) != sha256.Size {
			return fmt.Errorf("the server tells of file %q with a checksum of %d bytes", f.Name, len(f.Sha256))
		}
		files[i] = repository.File{Name: f.Name, Size: int64(f.Size), SHA: repository.Sum(f.Sha256)}
		has, err := r.to.Has(files[i])
		if err != nil {
			return err
		}
		r.Files++
		if has {
			r.Bytes += files[i].Size
			continue
		}
		wanted.Wanted = append(wanted.Wanted, uint32(i))
	}
	r.progress(r.Progress)
	if err := r.stream.Send(&wanted); err != nil {
		if _, why := r.recv(); why != nil {
			return why
		}
		return err
	}
	for _, i := range wanted.Wanted {
		if err := r.receive(ctx, files[i]); err != nil {
			return err
		}
		r.NewFiles++
	}
	return nil
}

// receive takes the content of a file.
func (r *receiver) receive(ctx context.Context, f repository.File) error {
	w, err := r.to.Write(f)
	if err != nil {
		return err
	}
	for left := f.Size; left > 0; {
		msg, err := r.recv()
		if err == nil {
			chunk := msg.GetChunk()
			if len(chunk) == 0 || int64(len(chunk)) > left {
				err = fmt.Errorf("the server sends %d bytes of file %s where %d are left", len(chunk), f.Name, left)
			} else if _, err = w.Write(chunk); err == nil {
				left -= int64(len(chunk))
				r.Bytes += int64(len(chunk))
				r.New += int64(len(chunk))
				r.progress(r.Progress)
				err = ctx.Err()
			}
		}
		if err != nil {
			w.Drop()
			return err
		}
	}
	return w.Finish()
}
