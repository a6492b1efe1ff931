package member

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// maxCheckpoints bounds the checkpoints that there are at a time: each may keep files that
// the state has replaced.
const maxCheckpoints = 2

// ErrTooManyBackups means that other backups are being taken of this member.
var ErrTooManyBackups = fmt.Errorf("pebbledash: %d backups are being taken of this member already", maxCheckpoints)

// CheckpointFile is one file of a Checkpoint.
type CheckpointFile struct {
	Name string
	Size int64
}

// Checkpoint is the state of all groups in files, which do not change any more. It must
// be closed. It is for one goroutine.
type Checkpoint struct {
	m   *Member
	dir string

	ClusterID, MemberID uint64
	Name, Routes        string
	// Revision is that of the backup: the files have every change up to it, and of later
	// ones some. Compacted is the compacted revision.
	Revision, Compacted int64
	// Files are sorted by name.
	Files []CheckpointFile
}

// checkpoints is what a Member knows of its checkpoints.
type checkpoints struct {
	// mu guards the fields below; nothing is taken after it.
	mu   sync.Mutex
	open int
	// sums are the checksums of files by their names, as long as this process has the
	// database open: its files never change, and no number is given twice.
	sums map[string][sha256.Size]byte
}

// Checkpoint fixes the state for a backup: a hard link for each of its tables, and what is
// only in memory is flushed. It has everything that was acknowledged before the call; or,
// where nobody can confirm that, everything that this member knows to be closed.
//
// The groups apply their logs each for itself, so that at no moment all are at one
// revision, and to have them wait for each other would make writes wait. So nobody is
// stopped. A revision is chosen that all have applied; the files have it, and some of what
// came while they were made; and who restores them drops that (mvcc.Adopt).
func (m *Member) Checkpoint(ctx context.Context) (_ *Checkpoint, err error) {
	if !m.hold() {
		return nil, group.ErrStopped
	}
	defer m.workers.Done()
	if !m.checkpoints.enter() {
		return nil, ErrTooManyBackups
	}
	c := &Checkpoint{m: m, ClusterID: m.id.ClusterID, MemberID: m.id.MemberID, Name: m.id.Name, Routes: m.id.Routes}
	defer func() {
		if err != nil {
			_ = c.Close()
			if m.stopCtx.Err() != nil {
				err = group.ErrStopped
			}
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.stopCtx, cancel)()
	for {
		if c.Revision, err = m.backupRevision(ctx); err != nil {
			return nil, err
		}
		if err := m.flushState(); err != nil {
			return nil, err
		}
		// What has failed meanwhile may not be flushed.
		if err := m.Err(); err != nil {
			return nil, err
		}
		c.dir = m.cfg.FS.PathJoin(m.dir.checkpointsDir(), fmt.Sprintf("%016x", rand.Uint64()))
		if err := engine.Checkpoint(m.state, c.dir); err != nil {
			return nil, err
		}
		// Nothing above what is compacted now can be missing, for the files are older. A
		// compaction may overtake it, as it may a read.
		if c.Compacted = m.compactedFor(); c.Compacted <= c.Revision {
			return c, c.list()
		}
		if err := c.remove(); err != nil {
			return nil, err
		}
	}
}

// compactedFor is the greatest revision below which rows may be missing in any group.
func (m *Member) compactedFor() int64 {
	compacted := m.space.Compacted()
	for _, s := range m.stores() {
		compacted = max(compacted, s.Compacted())
	}
	return compacted
}

// stores are the groups' states, core's first.
func (m *Member) stores() []*mvcc.Store {
	stores := make([]*mvcc.Store, len(m.parts))
	for i, p := range m.parts {
		stores[i] = p.store
	}
	return stores
}

// backupRevision is the revision that a backup is to be of, which is applied here.
func (m *Member) backupRevision(ctx context.Context) (int64, error) {
	rev, err := m.ReadIndex(ctx)
	if errors.Is(err, group.ErrTimeout) || errors.Is(err, group.ErrNoLeader) {
		m.cfg.Logger.Warn("nobody confirms what is newest, the snapshot will have what this member has", "error", err)
		rev, err = m.closedRevision(ctx)
	}
	return rev, err
}

func (c *checkpoints) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open >= maxCheckpoints {
		return false
	}
	c.open++
	return true
}

// removeCheckpoints removes what the process before has left.
func (m *Member) removeCheckpoints() error {
	if err := m.cfg.FS.RemoveAll(m.dir.checkpointsDir()); err != nil {
		return fmt.Errorf("member: remove old checkpoints: %w", err)
	}
	return nil
}

func (c *Checkpoint) list() error {
	names, err := c.m.cfg.FS.List(c.dir)
	if err != nil {
		return fmt.Errorf("member: checkpoint: %w", err)
	}
	there := map[string]bool{}
	for _, name := range names {
		info, err := c.m.cfg.FS.Stat(c.m.cfg.FS.PathJoin(c.dir, name))
		if err != nil {
			return fmt.Errorf("member: checkpoint: %w", err)
		}
		there[name] = true
		c.Files = append(c.Files, CheckpointFile{name, info.Size()})
	}
	slices.SortFunc(c.Files, func(a, b CheckpointFile) int { return cmp.Compare(a.Name, b.Name) })
	s := &c.m.checkpoints
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.sums {
		if !there[name] {
			delete(s.sums, name)
		}
	}
	return nil
}

// Open opens a file to read.
func (c *Checkpoint) Open(f CheckpointFile) (io.ReadCloser, error) {
	return c.m.cfg.FS.Open(c.m.cfg.FS.PathJoin(c.dir, f.Name))
}

// Sum returns the SHA-256 of a file, and how much had to be read for that: nothing of a
// table that an earlier checkpoint of this process had.
func (c *Checkpoint) Sum(ctx context.Context, f CheckpointFile) (sum [sha256.Size]byte, read int64, err error) {
	s := &c.m.checkpoints
	s.mu.Lock()
	sum, ok := s.sums[f.Name]
	s.mu.Unlock()
	if ok {
		return sum, 0, nil
	}
	file, err := c.Open(f)
	if err != nil {
		return sum, 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	hash := sha256.New()
	buf := make([]byte, sumBuffer)
	for {
		n, err := file.Read(buf)
		hash.Write(buf[:n])
		read += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return sum, read, fmt.Errorf("member: checkpoint: %s: %w", f.Name, err)
		}
	}
	if read != f.Size {
		return sum, read, fmt.Errorf("member: checkpoint: %s has %d bytes, and had %d", f.Name, read, f.Size)
	}
	sum = [sha256.Size]byte(hash.Sum(nil))
	// Others than tables have the same names in every checkpoint, and other content.
	if strings.HasSuffix(f.Name, ".sst") || strings.HasSuffix(f.Name, ".blob") {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sums == nil {
			s.sums = map[string][sha256.Size]byte{}
		}
		s.sums[f.Name] = sum
	}
	return sum, read, nil
}

// sumBuffer is how much of a file is in memory.
const sumBuffer = 256 << 10

func (c *Checkpoint) remove() error {
	if c.dir == "" {
		return nil
	}
	if err := c.m.cfg.FS.RemoveAll(c.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("member: remove checkpoint: %w", err)
	}
	c.dir = ""
	return nil
}

// Close removes the files. What can't be removed now is when the member starts again.
func (c *Checkpoint) Close() error {
	s := &c.m.checkpoints
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
	return c.remove()
}
