package repository

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

const (
	// bufferBytes is how much of a file is in memory.
	bufferBytes = 256 << 10
	// cacheBytes bounds what of a backup's database is.
	cacheBytes = 32 << 20
	// viewName is the directory that the database of a backup seems to be in.
	viewName = "view"
)

// Verified is what Verify has found of one backup.
type Verified struct {
	ID       string
	Revision int64
	// Rows are those of all groups, what is newer than Revision too.
	Rows mvcc.Rows
	// Damage is what is not as it must be; none is a backup that is sound.
	Damage []string
}

// Verify reads backups again: the checksums of all their files, each once, and every row
// that is in them, which it compares with the others as "pebbledash verify" does. It tells
// progress how many bytes have been read, and done of each backup. It returns an error only
// if ctx is done.
func (r *Repository) Verify(ctx context.Context, ids []string, progress func(n int64), done func(Verified)) error {
	// bad says what is wrong with a file; nothing of one that is sound.
	bad := map[Sum]string{}
	for _, id := range ids {
		v := Verified{ID: id}
		m, err := r.Manifest(id)
		if err != nil {
			v.Damage = append(v.Damage, err.Error())
			done(v)
			continue
		}
		v.Revision = m.Revision
		for _, f := range m.Files {
			what, seen := bad[f.SHA]
			if !seen {
				if err := r.checkFile(ctx, f, progress); err != nil {
					what = err.Error()
				}
				bad[f.SHA] = what
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if what != "" {
				v.Damage = append(v.Damage, fmt.Sprintf("file %s: %s", f.Name, what))
			}
		}
		// Of what is not there, or is something else, nothing more can be said.
		if len(v.Damage) == 0 {
			if err := r.verifyRows(ctx, m, &v); err != nil {
				v.Damage = append(v.Damage, err.Error())
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		done(v)
	}
	return nil
}

// checkFile reads a file, and compares it with its checksum.
func (r *Repository) checkFile(ctx context.Context, f File, progress func(int64)) error {
	return r.readFile(ctx, f, func(p []byte) error {
		progress(int64(len(p)))
		return nil
	})
}

// readFile calls fn with the content of a file, piece by piece, and returns an error if it
// was not the one that the manifest names. fn may change what it is given.
func (r *Repository) readFile(ctx context.Context, f File, fn func([]byte) error) error {
	path := r.file(f.SHA)
	in, err := r.fs.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing", path)
	}
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	sum, size, buf := sha256.New(), int64(0), make([]byte, bufferBytes)
	for {
		n, err := in.Read(buf)
		size += int64(n)
		sum.Write(buf[:n])
		if n > 0 {
			if err := errors.Join(fn(buf[:n]), ctx.Err()); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s can't be read: %w", path, err)
		}
	}
	if size != f.Size {
		return fmt.Errorf("%s is damaged: it has %d bytes, and not %d", path, size, f.Size)
	}
	if Sum(sum.Sum(nil)) != f.SHA {
		return fmt.Errorf("%s is damaged: its content does not have the checksum that its name says", path)
	}
	return nil
}

// verifyRows opens the database of a backup where its files lie.
func (r *Repository) verifyRows(ctx context.Context, m *Manifest, v *Verified) (err error) {
	routes, err := route.Decode(m.Routes)
	if err != nil {
		return err
	}
	paths := map[string]string{}
	for _, f := range m.Files {
		paths[f.Name] = r.file(f.SHA)
	}
	dir := r.path(viewName)
	guard := engine.NewGuard()
	return guard.Do(func() (err error) {
		db, err := engine.OpenReadOnly(engine.ReadConfig{
			Dir: dir, FS: engine.MappedFS(r.fs, dir, paths), CacheBytes: cacheBytes, Fatal: guard.Fatal,
		})
		if err != nil {
			return fmt.Errorf("the database can't be opened: %w", err)
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		for _, g := range routes.Groups() {
			if err := verifyGroup(ctx, db, routes, g, v); err != nil {
				return fmt.Errorf("group %s: %w", g.Name, err)
			}
		}
		return nil
	})
}

// maxDamage bounds what is kept about one group.
const maxDamage = 20

func verifyGroup(ctx context.Context, db *engine.DB, routes *route.Table, g route.Group, v *Verified) error {
	store, err := mvcc.Open(db, g.ID)
	if err != nil {
		return err
	}
	damaged := 0
	tell := func(format string, args ...any) {
		if damaged++; damaged <= maxDamage {
			v.Damage = append(v.Damage, fmt.Sprintf("group %s: ", g.Name)+fmt.Sprintf(format, args...))
		}
	}
	if scrubbed := store.Scrubbed(); scrubbed > v.Revision {
		tell("versions up to revision %d may be gone, and the backup is of revision %d", scrubbed, v.Revision)
	}
	rows, err := store.Verify(ctx, func(key []byte) bool { return routes.Of(key) == g.ID }, func(damage string) { tell("%s", damage) })
	if more := damaged - maxDamage; more > 0 {
		v.Damage = append(v.Damage, fmt.Sprintf("group %s: and %d more", g.Name, more))
	}
	v.Rows.Keys += rows.Keys
	v.Rows.Versions += rows.Versions
	v.Rows.Leases += rows.Leases
	v.Rows.Bytes += rows.Bytes
	return err
}
