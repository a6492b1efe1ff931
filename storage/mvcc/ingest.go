package mvcc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// ingestPrefix begins the names of the directories of ingests.
const ingestPrefix = "ingest-"

// maxTableBytes is about the greatest size of a table that an Ingest writes.
const maxTableBytes = 64 << 20

// Ingest takes the chunks of an Export, writes their rows to tables of its own,
// and puts these in place of a group's state. It holds no more in memory than
// the blocks of one table. It is for one goroutine, the last step (Commit) for
// the applying one.
//
// # The order of Commit
//
//  1. No step of Scrub is under way, nor begins: it would go by rows that are
//     not there any more, and note that it has come less far than the new ones.
//  2. Reads below the revision up to which the new rows are scrubbed are
//     refused. A read that finds the new rows so finds itself refused; one that
//     has the old ones may be refused too early, for a compaction that was
//     decided anyhow.
//  3. The new rows replace the old ones at once, and durably.
//  4. The member's closed revision is written again. It is true still: the new
//     state has all that the old one had. It is lost in a crash as any batch is,
//     with all that came after.
//  5. What the store keeps in memory is read anew, the revision that readers may
//     see last.
//
// No closed revision can claim more than is there after a crash. It says what was
// committed before its batch; it is there only if its memtable was flushed, and
// then the older ones were; and rows that were ingested before it are durable
// since then.
type Ingest struct {
	db    *engine.DB
	fs    engine.FS
	group GroupID
	// dir is this ingest's own.
	dir        string
	tableBytes uint64

	table *engine.TableWriter
	paths []string
	sums  chunkSums
	rows  uint64
	// last is the greatest key so far.
	last []byte
	// keys are those of the rows that are looked at on the way.
	keys struct{ applied, closed, confState, restored, scrubbed []byte }

	// applied, conf and scrubbed are what the rows say.
	applied  Applied
	conf     []byte
	scrubbed int64
	// marked says that metaRestored was written, complete that the last chunk has
	// come, and finished that the tables are durable.
	marked, complete, finished bool
	// err is what ended it.
	err error
}

// NewIngest begins to take rows of a group for db, whose file system fs is. The
// tables lie in a directory of their own in dir until Drop or Commit; dir is on
// db's file system, and what a crash leaves there RemoveIngests removes.
func NewIngest(db *engine.DB, fs engine.FS, dir string, g GroupID) (*Ingest, error) {
	in := &Ingest{
		db: db, fs: fs, group: g, sums: newChunkSums(), tableBytes: maxTableBytes,
		dir: fs.PathJoin(dir, fmt.Sprintf("%s%d-%016x", ingestPrefix, g, rand.Uint64())),
	}
	in.keys.applied = g.metaKey(metaApplied)
	in.keys.closed = g.metaKey(metaClosed)
	in.keys.confState = g.metaKey(metaConfState)
	in.keys.restored = g.metaKey(metaRestored)
	in.keys.scrubbed = g.metaKey(metaScrubbed)
	if err := fs.MkdirAll(in.dir, 0o700); err != nil {
		return nil, fmt.Errorf("mvcc: ingest: %w", err)
	}
	return in, nil
}

// RemoveIngests removes what the ingests of a process before have left in dir,
// and nothing else there. To be called before the first NewIngest.
func RemoveIngests(fs engine.FS, dir string) error {
	names, err := fs.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, name := range names {
		if strings.HasPrefix(name, ingestPrefix) && err == nil {
			err = fs.RemoveAll(fs.PathJoin(dir, name))
		}
	}
	if err != nil {
		return fmt.Errorf("mvcc: remove old ingests: %w", err)
	}
	return nil
}

// Add takes the next chunk. After an error the ingest can only be dropped.
func (in *Ingest) Add(chunk []byte) error {
	if in.err == nil {
		if err := in.add(chunk); err != nil {
			in.err = fmt.Errorf("mvcc: ingest: %w", err)
		}
	}
	return in.err
}

func (in *Ingest) add(chunk []byte) error {
	n := len(chunk) - chunkSumLen
	if n < 1 {
		return fmt.Errorf("a chunk of %d bytes", len(chunk))
	}
	if in.complete {
		return errors.New("a chunk after the last")
	}
	// First of all, for all of the chunk: nothing of a damaged one is believed.
	if in.sums.next(chunk[:n]) != binary.BigEndian.Uint32(chunk[n:]) {
		return errors.New("a chunk is damaged, or is not the next")
	}
	switch kind, body := chunk[0], chunk[1:n]; kind {
	case chunkRows:
		return in.addRows(body)
	case chunkEnd:
		if len(chunk) != chunkEndLen {
			return fmt.Errorf("a last chunk of %d bytes", len(chunk))
		}
		if want := binary.BigEndian.Uint64(body); want != in.rows {
			return fmt.Errorf("%d rows have come of %d", in.rows, want)
		}
		in.complete = true
		return nil
	default:
		return fmt.Errorf("unknown kind of chunk %d: sent by a newer version?", kind)
	}
}

func (in *Ingest) addRows(body []byte) error {
	r := effectReader{buf: body}
	for len(r.buf) > 0 {
		key, value := r.bytes(), r.bytes()
		if r.err != nil {
			return errors.New("a row is cut short")
		}
		if err := in.addRow(key, value); err != nil {
			return err
		}
		in.rows++
	}
	return nil
}

func (in *Ingest) addRow(key, value []byte) error {
	// NB: a key that is none must not get into a comparison.
	if err := in.group.checkKey(key); err != nil {
		return err
	}
	if in.last != nil && engine.Compare(in.last, key) >= 0 {
		return fmt.Errorf("row %x follows row %x", key, in.last)
	}
	if err := in.note(key, value); err != nil {
		return err
	}
	if !in.marked && engine.Compare(key, in.keys.restored) > 0 {
		if err := in.mark(); err != nil {
			return err
		}
	}
	in.last = append(in.last[:0], key...)
	return in.write(key, value)
}

// note looks at the rows that say something of the state.
func (in *Ingest) note(key, value []byte) (err error) {
	switch {
	case key[2] != tableMeta:
	case bytes.Equal(key, in.keys.applied):
		if in.applied, err = decodeApplied(value); err != nil {
			return err
		}
		if in.applied.Index == 0 {
			return errors.New("nothing was applied")
		}
	case bytes.Equal(key, in.keys.confState):
		in.conf = bytes.Clone(value)
	case bytes.Equal(key, in.keys.scrubbed):
		if len(value) != 8 {
			return fmt.Errorf("bad row %s: %x", metaScrubbed, value)
		}
		in.scrubbed = int64(binary.BigEndian.Uint64(value))
	case bytes.Equal(key, in.keys.closed), bytes.Equal(key, in.keys.restored):
		return fmt.Errorf("row %x is another member's own", key)
	}
	return nil
}

// mark writes the row that says what was ingested, in its place between those
// that have come.
func (in *Ingest) mark() error {
	if in.applied.Index == 0 {
		return errors.New("no row says how far the log was applied")
	}
	in.marked = true
	row := binary.BigEndian.AppendUint64(nil, in.applied.Index)
	return in.write(in.keys.restored, binary.BigEndian.AppendUint64(row, in.applied.Term))
}

func (in *Ingest) write(key, value []byte) error {
	if in.table != nil && in.table.Size()+uint64(len(key)+len(value)) > in.tableBytes {
		if err := in.closeTable(); err != nil {
			return err
		}
	}
	if in.table == nil {
		path := in.fs.PathJoin(in.dir, fmt.Sprintf("%06d.sst", len(in.paths)))
		table, err := engine.NewTableWriter(in.db, in.fs, path)
		if err != nil {
			return err
		}
		in.table, in.paths = table, append(in.paths, path)
	}
	return in.table.Set(key, value)
}

func (in *Ingest) closeTable() error {
	table := in.table
	in.table = nil
	return table.Close()
}

// Applied returns how far the log has been applied in the rows. To be asked
// after the last chunk.
func (in *Ingest) Applied() Applied { return in.applied }

// ConfState returns raft's configuration in the rows, nil if there is none. To be
// asked after the last chunk.
func (in *Ingest) ConfState() []byte { return in.conf }

// Scrubbed returns up to which revision Scrub has deleted what a compaction has
// freed: below it versions may be missing. To be asked after the last chunk.
func (in *Ingest) Scrubbed() int64 { return in.scrubbed }

// Finish makes the tables durable. It fails if the last chunk has not come. It
// may be called again.
func (in *Ingest) Finish() error {
	if in.err != nil || in.finished {
		return in.err
	}
	if err := in.finish(); err != nil {
		in.err = fmt.Errorf("mvcc: ingest: %w", err)
	}
	return in.err
}

func (in *Ingest) finish() error {
	if !in.complete {
		return fmt.Errorf("it ends after %d rows, before the last chunk", in.rows)
	}
	if !in.marked {
		if err := in.mark(); err != nil {
			return err
		}
	}
	if err := in.closeTable(); err != nil {
		return err
	}
	in.finished = true
	return nil
}

// Commit puts the rows in place of the state of s, and has s know them. After an
// error what s knows is not to be relied upon. For the applying goroutine.
// REQUIRES: s is the group's store over the database of NewIngest.
func (in *Ingest) Commit(ctx context.Context, s *Store) error {
	if err := in.Finish(); err != nil {
		return err
	}
	if s.db != in.db || s.group != in.group {
		panic(fmt.Sprintf("mvcc: rows of group %d are to be those of group %d", in.group, s.group))
	}
	if in.applied.Index < s.applied.Index {
		return fmt.Errorf("mvcc: ingest: rows of entry %d are to replace those of entry %d", in.applied.Index, s.applied.Index)
	}
	closed, err := s.readMeta(metaClosed)
	if err != nil {
		return err
	}
	s.scrubbing.Lock()
	defer s.scrubbing.Unlock()
	s.Compact(in.scrubbed)
	lower, upper := in.group.span()
	if err := engine.Replace(ctx, in.db, lower, upper, in.paths); err != nil {
		return fmt.Errorf("mvcc: ingest: %w", err)
	}
	if closed != nil {
		if err := s.db.Set(in.keys.closed, closed, engine.NoSync); err != nil {
			return fmt.Errorf("mvcc: ingest: %w", err)
		}
	}
	return s.reload()
}

// Drop removes what the ingest has written, except what Commit has put into the
// database. It may be called again, and after Commit.
func (in *Ingest) Drop() {
	if in.table != nil {
		_ = in.closeTable()
	}
	if in.err == nil {
		in.err = errors.New("mvcc: ingest: dropped")
	}
	// What can't be removed now is by RemoveIngests.
	_ = in.fs.RemoveAll(in.dir)
}

// reload takes over what the rows say, which an ingest has replaced. Counts that
// are remembered stay: they are of revisions of which the old rows had all. For
// the applying goroutine.
func (s *Store) reload() error {
	applied, compacted, scrubbed, err := s.load()
	if err != nil {
		return err
	}
	s.applied, s.decided = applied, compacted
	if err := s.loadBytes(); err != nil {
		return err
	}
	s.scrubbed.Store(scrubbed)
	s.Compact(scrubbed)
	if !s.deferred {
		s.Compact(compacted)
	}
	// Last, as in Commit of a batch.
	s.revision.Store(applied.Revision)
	return nil
}

// Restored returns the index and the term up to which the state was ingested
// when it last was, 0 if it never was.
func (s *Store) Restored() (index, term uint64, err error) {
	row, err := s.readMeta(metaRestored)
	if err != nil || row == nil {
		return 0, 0, err
	}
	if len(row) != 16 {
		return 0, 0, fmt.Errorf("mvcc: bad row %s: %x", metaRestored, row)
	}
	return binary.BigEndian.Uint64(row), binary.BigEndian.Uint64(row[8:]), nil
}

// checkKey says whether key can be one of the group's: it begins with the group
// and a table, and ends as a key of that table does.
func (g GroupID) checkKey(key []byte) error {
	// The shortest has the group, a table and 0x00.
	if len(key) <= tablePrefixLen || key[0] != byte(g>>8) || key[1] != byte(g) {
		return fmt.Errorf("row %x is not of group %d", key, g)
	}
	switch key[2] {
	case tableData:
		prefix, main, sub, err := engine.SplitVersion(key)
		if err != nil || len(prefix) < tablePrefixLen || key[len(prefix)] != 0 || main <= 0 || sub > maxSub ||
			(sub == 0) != (len(key) == len(prefix)+10) {
			return fmt.Errorf("row %x is no version of a key", key)
		}
	case tableAttach, tableJoin, tableLease, tableMember, tableMeta, tableRecord, tableRevs:
		if key[len(key)-1] != 0 {
			return fmt.Errorf("row %x has a version", key)
		}
	default:
		return fmt.Errorf("row %x is of a table that is not known: sent by a newer version?", key)
	}
	return nil
}
