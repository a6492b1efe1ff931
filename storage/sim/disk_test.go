package sim_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// disk is what outlives a member: a file system in memory. A loss of power
// leaves of it either exactly what was synced; or, if it keeps a journal, every
// name and those blocks of the files that chance has written back. Names without
// a journal are not left to chance: Pebble relies on a file system that does not
// keep the later of two changes of a directory and lose the earlier one.
type disk struct {
	mem     guarded
	journal bool
}

func newDisk(rng *rand.Rand) disk {
	return disk{mem: guarded{engine.NewCrashableMem(), new(sync.Mutex)}, journal: rng.IntN(2) == 0}
}

// fs is the disk as a member sees it.
func (d disk) fs() engine.FS {
	if d.journal {
		return journaled{d.mem}
	}
	return d.mem
}

// guarded keeps a MemFS from locking itself up: two of its methods take a lock
// twice that CrashClone waits for.
type guarded struct {
	*engine.MemFS
	mu *sync.Mutex
}

func (fs guarded) Lock(name string) (io.Closer, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.MemFS.Lock(name)
}

func (fs guarded) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.MemFS.ReuseForWrite(from, to, category)
}

func (fs guarded) CrashClone(cfg engine.CrashCloneCfg) guarded {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return guarded{fs.MemFS.CrashClone(cfg), new(sync.Mutex)}
}

// afterCrash is what a loss of power leaves now.
func (d disk) afterCrash(rng *rand.Rand) disk {
	cfg := engine.CrashCloneCfg{RNG: rng}
	if d.journal {
		cfg.UnsyncedDataPercent = 25 * rng.IntN(5)
	}
	return disk{mem: d.mem.CrashClone(cfg), journal: rng.IntN(2) == 0}
}

// journaled is a file system whose directories are always synced.
type journaled struct{ engine.FS }

func (fs journaled) sync(name string, err error) error {
	if err != nil {
		return err
	}
	dir, err := fs.OpenDir(fs.PathDir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (fs journaled) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	return f, fs.sync(name, err)
}

func (fs journaled) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(from, to, category)
	return f, fs.sync(to, err)
}

func (fs journaled) Link(from, to string) error   { return fs.sync(to, fs.FS.Link(from, to)) }
func (fs journaled) Rename(from, to string) error { return fs.sync(to, fs.FS.Rename(from, to)) }
func (fs journaled) Remove(name string) error     { return fs.sync(name, fs.FS.Remove(name)) }
func (fs journaled) RemoveAll(name string) error  { return fs.sync(name, fs.FS.RemoveAll(name)) }

// outage is a loss of power at one write.
type outage struct {
	at    int64
	count atomic.Int64
	// strike is run at that write, by whoever makes it.
	strike func()
	struck chan struct{}
}

// MaybeError implements errorfs.Injector.
func (o *outage) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && o.count.Add(1) == o.at {
		o.strike()
		close(o.struck)
	}
	return nil
}

// fail makes the power fail now, if its moment has not come.
func (o *outage) fail() {
	if o.count.Add(o.at) < 2*o.at { // No write will be that one any more.
		o.strike()
		close(o.struck)
	}
	<-o.struck
}

// String implements errorfs.Injector.
func (o *outage) String() string { return fmt.Sprintf("power fails at write %d", o.at) }

// yielding lets others run whenever something is synced, as a disk does that
// takes its time.
type yielding struct{}

// MaybeError implements errorfs.Injector.
func (yielding) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		for range 20 {
			runtime.Gosched()
		}
	default:
	}
	return nil
}

// String implements errorfs.Injector.
func (yielding) String() string { return "syncs take time" }

// errFault is what a faulty disk says.
var errFault = errors.New("the disk is broken")

// fault makes one write fail, or every one from there on.
type fault struct {
	at      int64
	lasting bool
	// path is what the name of the file must begin with.
	path string
	// armed says that writes count.
	armed atomic.Bool
	count atomic.Int64
	hit   atomic.Bool
}

// MaybeError implements errorfs.Injector.
func (f *fault) MaybeError(op errorfs.Op) error {
	switch {
	case op.Kind.ReadOrWrite() != errorfs.OpIsWrite || op.Kind == errorfs.OpFileClose || !f.armed.Load() || !strings.HasPrefix(op.Path, f.path):
		return nil
	case op.Kind == errorfs.OpFileSync && (op.Path == "data/log" || op.Path == "data/state"):
		// Pebble answers a directory that can not be synced with a panic, which
		// would end the test.
		return nil
	}
	if n := f.count.Add(1); n == f.at || f.lasting && n > f.at {
		f.hit.Store(true)
		return errFault
	}
	return nil
}

// String implements errorfs.Injector.
func (f *fault) String() string {
	return fmt.Sprintf("write %d to %s fails, lasting: %t", f.at, f.path, f.lasting)
}
