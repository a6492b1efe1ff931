package inspect

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/keyspace"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

// cacheBytes bounds what of each database is kept in memory.
const cacheBytes = 32 << 20

// advice is what can be done about damage.
const advice = "don't start a member from it; in a cluster whose other members are sound remove this one and let an empty one join in its place (etcdctl member remove, member add), otherwise restore a snapshot (pebbledash snapshot restore)"

// Advice says what can be done about a data directory that is damaged.
func Advice() string { return advice }

// Config says what to look into.
type Config struct {
	// Dir is the data directory of a member. Required.
	Dir string
	// FS is the file system; nil is the operating system's.
	FS engine.FS
}

// Dir is a data directory that is looked into. It must be closed.
type Dir struct {
	path    string
	dir     *member.DataDir
	id      member.Identity
	routes  *route.Table
	logs    *engine.DB
	state   *engine.DB
	guarded *engine.Guard
}

// Open opens a data directory. It returns member.ErrLocked if a member runs in it.
func Open(cfg Config) (*Dir, error) {
	if cfg.FS == nil {
		cfg.FS = engine.OSFS()
	}
	dir, err := member.LookIn(member.DataDirConfig{Dir: cfg.Dir, FS: cfg.FS})
	if err != nil {
		return nil, err
	}
	d := &Dir{path: cfg.Dir, dir: dir, guarded: engine.NewGuard()}
	d.id, _ = dir.Identity()
	if d.routes, err = route.Decode(d.id.Routes); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	err = d.guard(func() (err error) {
		d.logs, err = d.open(cfg.FS, dir.LogDir())
		if err == nil {
			d.state, err = d.open(cfg.FS, dir.StateDir())
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(&Damage{"", fmt.Sprintf("a database can't be opened: %v", err)}, d.Close())
	}
	return d, nil
}

func (d *Dir) open(fs engine.FS, path string) (*engine.DB, error) {
	return engine.OpenReadOnly(engine.ReadConfig{
		Dir: path, FS: fs, CacheBytes: cacheBytes, Fatal: d.guarded.Fatal,
	})
}

// guard calls fn, which may meet damage.
func (d *Dir) guard(fn func() error) error { return d.guarded.Do(fn) }

// Close gives the directory back.
func (d *Dir) Close() error {
	for _, db := range []*engine.DB{d.state, d.logs} {
		if db != nil {
			// Nothing was written. What Pebble has left open when it met damage it
			// complains about here.
			_ = d.guard(db.Close)
		}
	}
	return d.dir.Close()
}

// Identity returns whose the directory is.
func (d *Dir) Identity() member.Identity { return d.id }

// CreatedBy returns the version of Pebbledash that has made the directory.
func (d *Dir) CreatedBy() string { return d.dir.CreatedBy() }

// Group is what the directory has of one group.
type Group struct {
	ID   mvcc.GroupID
	Name string
	// Applied says how far the state is; Revision and Compacted are those that reads
	// may ask for.
	Applied             mvcc.Applied
	Revision, Compacted int64
	// Begun says that the log was ever written; First and Last are its entries, none
	// if First is behind Last. Term, Vote and Commit are raft's.
	Begun                           bool
	First, Last, Term, Vote, Commit uint64
	// Bytes is what the versions take that are kept, Disk what all rows take on disk.
	Bytes int64
	Disk  uint64
	// Replicas is raft's configuration.
	Replicas group.Replicas
	Records  []mvcc.RecordTable
}

// Unapplied returns how many entries of the log the state does not have. Whether they
// are committed shows when the member starts.
func (g *Group) Unapplied() uint64 {
	if !g.Begun || g.Last < g.Applied.Index {
		return 0
	}
	return g.Last - g.Applied.Index
}

// Groups returns what the directory has of each group, core first.
func (d *Dir) Groups() (all []Group, err error) {
	err = d.guard(func() error {
		for _, g := range d.routes.Groups() {
			info, err := d.group(g)
			if err != nil {
				return fmt.Errorf("group %s: %w", g.Name, err)
			}
			all = append(all, info)
		}
		return nil
	})
	return all, err
}

func (d *Dir) group(g route.Group) (info Group, err error) {
	store, err := mvcc.Open(d.state, g.ID)
	if err != nil {
		return info, err
	}
	info = Group{
		ID: g.ID, Name: g.Name, Applied: store.Applied(),
		Revision: store.Revision(), Compacted: store.Compacted(), Bytes: store.Bytes(),
	}
	if info.Disk, err = store.DiskUsage(); err != nil {
		return info, err
	}
	row, err := store.ConfState()
	if err != nil {
		return info, err
	}
	if info.Replicas, err = group.DecodeReplicas(row); err != nil {
		return info, err
	}
	if err := store.RecordTables(func(t mvcc.RecordTable) { info.Records = append(info.Records, t) }); err != nil {
		return info, err
	}
	return info, d.log(g.ID, &info)
}

// log reads a group's log, and checks that no entry is missing.
func (d *Dir) log(g mvcc.GroupID, info *Group) error {
	log, err := group.OpenLog(d.logs, g)
	if err != nil {
		return err
	}
	if info.Begun = log.Bootstrapped(); !info.Begun {
		return nil
	}
	if info.First, err = log.FirstIndex(); err != nil {
		return err
	}
	if info.Last, err = log.LastIndex(); err != nil {
		return err
	}
	hard, _, err := log.InitialState()
	if err != nil {
		return err
	}
	info.Term, info.Vote, info.Commit = hard.GetTerm(), hard.GetVote(), hard.GetCommit()
	return nil
}

// Members returns who is in the cluster as core's state has it, and the ids of those
// that were removed.
func (d *Dir) Members() (members []member.Info, removed []uint64, err error) {
	err = d.guard(func() error {
		core, err := mvcc.Open(d.state, mvcc.CoreGroup)
		if err == nil {
			members, removed, err = member.StoredMembers(core)
		}
		return err
	})
	return members, removed, err
}

// space opens the states of all groups as one.
func (d *Dir) space() (*keyspace.Space, error) {
	stores := map[mvcc.GroupID]*mvcc.Store{}
	for _, g := range d.routes.Groups() {
		s, err := mvcc.Open(d.state, g.ID)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", g.Name, err)
		}
		stores[g.ID] = s
	}
	return keyspace.New(d.routes, stores), nil
}

// Keys calls fn for every key that begins with prefix, as it was at a revision, in
// key order; revision 0 is everything that is applied. keysOnly leaves the values out.
func (d *Dir) Keys(ctx context.Context, prefix []byte, revision int64, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	return d.guard(func() error {
		space, err := d.space()
		if err != nil {
			return err
		}
		switch head, compacted := space.Revision(), space.Compacted(); {
		case revision == 0:
			revision = mvcc.Latest
		case revision < 0 || revision > head:
			return fmt.Errorf("revision %d is not there: the state is at revision %d", revision, head)
		case revision < compacted:
			return fmt.Errorf("revision %d is gone by a compaction: the oldest that can be read is %d, the newest %d", revision, compacted, head)
		}
		cur, err := space.Scan(ctx, prefixSpan(prefix), revision)
		if err != nil {
			return err
		}
		for cur.Next() {
			kv, err := cur.KV(keysOnly)
			if err == nil {
				err = fn(kv)
			}
			if err != nil {
				return errors.Join(err, cur.Close())
			}
		}
		return errors.Join(cur.Err(), cur.Close())
	})
}

// prefixSpan is the span of the keys that begin with a prefix.
func prefixSpan(prefix []byte) mvcc.Span {
	end := append([]byte{}, prefix...)
	for len(end) > 0 && end[len(end)-1] == 0xff {
		end = end[:len(end)-1]
	}
	if len(end) == 0 {
		return mvcc.Span{Key: prefix}
	}
	end[len(end)-1]++
	return mvcc.Span{Key: prefix, End: end}
}

// History calls fn for every version of a key that is kept, from the oldest to the
// newest. What fn is given is valid only within it.
func (d *Dir) History(ctx context.Context, key []byte, fn func(*mvcc.Version) error) error {
	return d.guard(func() error {
		space, err := d.space()
		if err != nil {
			return err
		}
		return space.Store(space.Of(key)).History(ctx, key, fn)
	})
}
