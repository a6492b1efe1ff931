package member

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/route"
)

// The layout of a data directory:
//
//	<dir>/VERSION    whose data this is, and in which format (JSON)
//	<dir>/LOCK       locked while a process has the directory open; empty
//	<dir>/LOCK.pid   who that is; only for the error that others get
//	<dir>/log/       the Pebble of the raft logs
//	<dir>/state/     the Pebble of the state
//	<dir>/checkpoints/  hard links to what backups are being taken of, if any
//	<dir>/fixtures/  certificates of --auto-tls and --peer-auto-tls, if any
//
// VERSION is made last: where it is, log/ and state/ are; and until it is there
// nothing is written to them. So a directory without it holds no data of ours,
// and can be made again by whoever comes next.
//
// The names are part of the file format, and should not be changed.
const (
	versionName = "VERSION"
	tempName    = "VERSION.tmp"
	lockName    = "LOCK"
	holderName  = "LOCK.pid"
	logName     = "log"
	stateName   = "state"

	checkpointsName = "checkpoints"

	// FixturesName is the folder of certificates that a member has made for itself,
	// as in etcd's data directories. It may be there before the member.
	FixturesName = "fixtures"
)

// dirMode is etcd's: keys and values are nobody else's business.
const dirMode = 0o700

// diskWriteCategory is what Pebble's file system counts these writes under.
const diskWriteCategory = "pebbledash-datadir"

// ErrLocked means that another process has the data directory open.
var ErrLocked = errors.New("data directory is in use")

// Identity is what a data directory belongs to, and all that was decided when it
// was made. What a group's log begins with is made from this and not from flags,
// so that a crash before that changes nothing.
type Identity struct {
	Name                string
	ClusterID, MemberID uint64
	// Routes is the text of the cluster's route.Table.
	Routes string
	// Voters are the members that the cluster began with, sorted by name, this one
	// among them. Joined says that this member joined a cluster that was there.
	//
	// Invariant: there are voters, or else it joined.
	Voters []InitialMember
	Joined bool
}

// check returns an error if no member can be like that.
func (id Identity) check() error {
	if id.Name == "" || id.ClusterID == 0 || id.MemberID == 0 {
		return errors.New("there is no name, cluster ID or member ID")
	}
	if id.Routes == "" {
		return errors.New("there are no routes")
	}
	if _, err := route.Decode(id.Routes); err != nil {
		return err
	}
	if id.Joined {
		if len(id.Voters) > 0 {
			return errors.New("there are first members, although it joined later")
		}
		return nil
	}
	var ids []uint64
	found := false
	for i, v := range id.Voters {
		urls, err := ParseURLs(v.PeerURLs)
		if err != nil || !slices.Equal(urls, v.PeerURLs) {
			return fmt.Errorf("the peer URLs of member %q are not in order", v.Name)
		}
		if v.ID == 0 || slices.Contains(ids, v.ID) || v.Name == "" || i > 0 && id.Voters[i-1].Name >= v.Name {
			return errors.New("the first members are not in order")
		}
		ids = append(ids, v.ID)
		found = found || v.ID == id.MemberID && v.Name == id.Name
	}
	if !found || ClusterID(ids) != id.ClusterID {
		return errors.New("the first members are not those of the cluster")
	}
	return nil
}

// DataDirConfig says which data directory to open.
type DataDirConfig struct {
	Dir string
	// FS is nil for the operating system's.
	FS engine.FS
	// Logger gets warnings; nil is nobody.
	Logger *slog.Logger
}

// DataDir is a data directory that this process has locked. It is not for
// concurrent use.
type DataDir struct {
	fs   engine.FS
	dir  string
	lock io.Closer
	// version is what VERSION says; nil until there is one.
	version *versionFile
}

// HoldsMember says whether there is a member's data in a directory. It looks at
// nothing but VERSION, and that it is there; the directory may not be.
func HoldsMember(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, versionName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// OpenDataDir locks a data directory. It makes the directory if it is not
// there, and repairs what a crash has left of an earlier making; anything else
// that is not in order is refused, and not touched.
func OpenDataDir(cfg DataDirConfig) (*DataDir, error) {
	d := &DataDir{fs: cfg.FS, dir: cfg.Dir}
	if d.fs == nil {
		d.fs = engine.OSFS()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if d.dir == "" {
		return nil, errors.New("no data directory is given")
	}
	// A look before anything is written, so that nothing of others is touched.
	if _, err := d.inspect(); err != nil {
		return nil, err
	}
	if err := d.makeDir(cfg.Logger); err != nil {
		return nil, fmt.Errorf("can't make data directory %s: %w", d.dir, err)
	}
	if err := d.takeLock(); err != nil {
		return nil, err
	}
	if err := d.settle(); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// settle is the second look, under the lock.
func (d *DataDir) settle() error {
	if err := d.writeHolder(); err != nil {
		return fmt.Errorf("can't write to data directory %s: %w", d.dir, err)
	}
	version, err := d.inspect()
	if err != nil {
		return err
	}
	d.version = version
	if version != nil {
		return nil
	}
	if err := d.fs.Remove(d.path(tempName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("can't write to data directory %s: %w", d.dir, err)
	}
	return nil
}

// Identity returns whose directory this is; false if it is new. What it points to
// must not be changed.
func (d *DataDir) Identity() (Identity, bool) {
	if d.version == nil {
		return Identity{}, false
	}
	return d.version.identity, true
}

// CreatedBy returns the version of Pebbledash that made the directory; "" if it
// is new.
func (d *DataDir) CreatedBy() string {
	if d.version == nil {
		return ""
	}
	return d.version.createdBy
}

// Bind makes the directory want's if it is new, durably, and says that it did.
// want must then be whole. If the directory is not new, what is set in want must
// agree with what it says, but for Voters and Joined: as in etcd, who was there at
// the start is asked only once.
func (d *DataDir) Bind(want Identity, createdBy string) (id Identity, created bool, err error) {
	if d.version != nil {
		if err := d.check(want); err != nil {
			return Identity{}, false, err
		}
		return d.version.identity, false, nil
	}
	if err := want.check(); err != nil {
		return Identity{}, false, fmt.Errorf("data directory %s is new, and can't be made: %w", d.dir, err)
	}
	if want.Joined {
		want.Voters = nil // none, however it is written
	}
	v := &versionFile{format: dataFormat, identity: want, createdBy: createdBy}
	if err := d.create(v); err != nil {
		return Identity{}, false, fmt.Errorf("can't make data directory %s: %w", d.dir, err)
	}
	d.version = v
	return want, true, nil
}

// LogDir returns the directory of the raft logs. It exists once Bind has
// returned.
func (d *DataDir) LogDir() string { return d.path(logName) }

// StateDir returns the directory of the state. It exists once Bind has returned.
func (d *DataDir) StateDir() string { return d.path(stateName) }

// checkpointsDir returns the directory of checkpoints, which need not be there.
func (d *DataDir) checkpointsDir() string { return d.path(checkpointsName) }

// Close gives the directory back. Both Pebbles must be closed.
func (d *DataDir) Close() error {
	// Without it the next one still knows all it needs.
	_ = d.fs.Remove(d.path(holderName))
	return d.lock.Close()
}

func (d *DataDir) path(name string) string { return d.fs.PathJoin(d.dir, name) }

// check compares what is set in want with what the directory says.
func (d *DataDir) check(want Identity) error {
	have := d.version.identity
	mismatch := func(what, have, want string) error {
		return fmt.Errorf("data directory %s belongs to another member: its %s is %s, and the flags say %s; correct the flags, or give another data directory", d.dir, what, have, want)
	}
	switch {
	case want.Name != "" && want.Name != have.Name:
		return mismatch("name", strconv.Quote(have.Name), strconv.Quote(want.Name))
	case want.ClusterID != 0 && want.ClusterID != have.ClusterID:
		return mismatch("cluster ID", FormatID(have.ClusterID), FormatID(want.ClusterID))
	case want.MemberID != 0 && want.MemberID != have.MemberID:
		return mismatch("member ID", FormatID(have.MemberID), FormatID(want.MemberID))
	case want.Routes != "" && want.Routes != have.Routes:
		return fmt.Errorf("data directory %s has other routes than the flags say; routes are chosen when a cluster is bootstrapped and can't be changed: correct --resource-groups and --etcd-prefix, or bootstrap a new cluster with them and bring the data there; the directory has %q, the flags say %q",
			d.dir, have.Routes, want.Routes)
	}
	return nil
}

// inspect returns what VERSION says, nil if there is none and the directory is
// new, and an error if the directory is none that may be written to.
func (d *DataDir) inspect() (*versionFile, error) {
	names, err := d.list("")
	if err != nil {
		return nil, fmt.Errorf("can't read data directory %s: %w", d.dir, err)
	}
	if slices.Contains(names, versionName) {
		v, err := d.readVersion()
		if err != nil {
			return nil, err
		}
		for _, name := range []string{logName, stateName} {
			if !slices.Contains(names, name) {
				return nil, fmt.Errorf("data directory %s has lost its %s/: it can't be opened, restore it from a backup, or let an empty member join in its place", d.dir, name)
			}
		}
		return v, nil
	}
	return nil, d.inspectNew(names)
}

// inspectNew returns an error if a directory without VERSION holds anything
// that could be somebody's data.
func (d *DataDir) inspectNew(names []string) error {
	for _, sub := range []string{"snap/db", "wal"} {
		if d.exists(d.fs.PathJoin(append([]string{d.dir, "member"}, strings.Split(sub, "/")...)...)) {
			return fmt.Errorf("%s is the data directory of an etcd member (it has member/%s), which Pebbledash can't open: give it an empty data directory, and bring the data there from a snapshot of the etcd member (etcdctl snapshot save)", d.dir, sub)
		}
	}
	var unknown []string
	for _, name := range names {
		switch name {
		case tempName, lockName, holderName:
		case "lost+found": // the root of a file system
		case FixturesName:
		case logName, stateName:
			if data, err := d.list(name); err != nil || len(data) > 0 {
				return fmt.Errorf("data directory %s has no %s, but there is something in %s/ (%s): it can't be opened; if it is not needed any more, empty the directory", d.dir, versionName, name, enumerate(data))
			}
		default:
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%s is no data directory of Pebbledash (it has no %s), and not empty either (%s): give a directory of its own", d.dir, versionName, enumerate(unknown))
	}
	return nil
}

func enumerate(names []string) string {
	const most = 5
	slices.Sort(names)
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// list returns the names in a subdirectory; none if it is not there.
func (d *DataDir) list(sub string) ([]string, error) {
	names, err := d.fs.List(d.path(sub))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

func (d *DataDir) exists(path string) bool {
	_, err := d.fs.Stat(path)
	return err == nil
}

// makeDir makes the directory, and the way to it, durably.
func (d *DataDir) makeDir(logger *slog.Logger) error {
	if info, err := d.fs.Stat(d.dir); err == nil {
		if perm := info.Mode().Perm(); perm&^dirMode != 0 {
			logger.Warn("the data directory may be read by others; its mode should be 0700",
				"dir", d.dir, "mode", fmt.Sprintf("%#o", perm))
		}
		return nil
	}
	var made []string
	for at := d.dir; !d.exists(at); {
		parent := d.fs.PathDir(at)
		made = append(made, parent)
		if parent == at {
			break
		}
		at = parent
	}
	if err := d.fs.MkdirAll(d.dir, dirMode); err != nil {
		return err
	}
	for _, parent := range slices.Backward(made) {
		if err := engine.SyncDir(d.fs, parent); err != nil {
			return err
		}
	}
	return nil
}

// create writes everything that makes the directory one of ours, VERSION last.
func (d *DataDir) create(v *versionFile) error {
	content := v.encode()
	// JSON has no place for what is not UTF-8, and a name may be too long.
	if again, err := decodeVersion(content); err != nil || !reflect.DeepEqual(again, v) {
		return fmt.Errorf("%s with name %q could not be read again", versionName, v.identity.Name)
	}
	for _, name := range []string{logName, stateName} {
		if err := d.fs.MkdirAll(d.path(name), dirMode); err != nil {
			return err
		}
	}
	// Before VERSION can be there on disk, the directories have to be.
	if err := engine.SyncDir(d.fs, d.dir); err != nil {
		return err
	}
	if err := d.writeFile(tempName, content, true); err != nil {
		return err
	}
	if err := d.fs.Rename(d.path(tempName), d.path(versionName)); err != nil {
		return err
	}
	return engine.SyncDir(d.fs, d.dir)
}

func (d *DataDir) writeFile(name string, content []byte, sync bool) error {
	f, err := d.fs.Create(d.path(name), diskWriteCategory)
	if err != nil {
		return err
	}
	// The file system may change what it is given.
	_, err = f.Write(bytes.Clone(content))
	if err == nil && sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (d *DataDir) readFile(name string) ([]byte, error) {
	f, err := d.fs.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxVersionBytes+1))
	return content, errors.Join(err, f.Close())
}

// takeLock locks the directory. NB: a lock of this kind belongs to the process,
// and goes as soon as the process closes any other handle of the file; nobody
// may open LOCK for anything else.
func (d *DataDir) takeLock() error {
	lock, err := d.fs.Lock(d.path(lockName))
	if err == nil {
		d.lock = lock
		return nil
	}
	// Without a lock there is a bare error number, or, if it is this process that
	// has it, Pebble's own error; a *PathError says that LOCK can't be made.
	var pathErr *fs.PathError
	var errno syscall.Errno
	held := !errors.As(err, &pathErr)
	if held && errors.As(err, &errno) {
		held = errno == syscall.EAGAIN || errno == syscall.EACCES
	}
	if !held {
		return fmt.Errorf("can't lock data directory %s: %w", d.dir, err)
	}
	return fmt.Errorf("%w: %s is locked by %s (%w)", ErrLocked, d.dir, d.holder(), err)
}

// writeHolder notes who has the lock. It need not be durable.
func (d *DataDir) writeHolder() error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return d.writeFile(holderName, fmt.Appendf(nil, "%d %s\n", os.Getpid(), host), false)
}

// holder describes who has the lock. In a container or on a network file system
// the number alone would say little.
func (d *DataDir) holder() string {
	content, err := d.readFile(holderName)
	if err != nil {
		return "another process"
	}
	pid, host, ok := strings.Cut(strings.TrimSpace(string(content)), " ")
	if n, err := strconv.Atoi(pid); !ok || err != nil || n <= 0 {
		return "another process"
	}
	return fmt.Sprintf("process %s on host %q", pid, host)
}

// readVersion reads VERSION.
func (d *DataDir) readVersion() (*versionFile, error) {
	content, err := d.readFile(versionName)
	if err != nil {
		return nil, fmt.Errorf("can't read %s: %w", d.path(versionName), err)
	}
	v, err := decodeVersion(content)
	if errors.Is(err, errNewerFormat) {
		return nil, fmt.Errorf("data directory %s was %w; refusing to open it: upgrade the binary", d.dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is damaged, refusing to open the data directory: %w", d.path(versionName), err)
	}
	return v, nil
}
