package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"

	"github.com/pebbledash/pebbledash/storage/bolt"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// ErrDamaged says that a file is no backup, or is not whole.
var ErrDamaged = errors.New("the file is damaged, or is no snapshot of etcd")

// File is a backup that is read. It is for one goroutine.
type File struct {
	path string
	db   *bbolt.DB
}

// hasHash says whether a file of n bytes ends with a checksum: pages are multiples of
// 512 bytes.
func hasHash(n int64) bool { return n%512 == sha256.Size }

// Open opens a backup. The file has to end with its checksum, which is compared; with
// skipHash neither is asked for, and instead the pages are looked through.
func Open(ctx context.Context, path string, skipHash bool) (*File, error) {
	size, hashed, err := checkHash(ctx, path, skipHash)
	if err != nil {
		return nil, err
	}
	if !hashed && !skipHash {
		return nil, fmt.Errorf("%s has no hash at its end: it was cut short, or copied from an etcd's data directory; if it is such a copy, of an etcd that did not run, give --skip-hash-check", path)
	}
	if skipHash {
		if err := checkPages(path, size); err != nil {
			return nil, err
		}
	}
	return openPages(path, size)
}

// checkPages looks through all pages.
func checkPages(path string, size int64) error {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("can't open the snapshot: %w", err)
	}
	defer func() { _ = in.Close() }()
	if err := bolt.Check(in, size); err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return nil
}

// checkHash returns the length of a file, and whether its checksum is behind it.
func checkHash(ctx context.Context, path string, skip bool) (size int64, hashed bool, err error) {
	in, err := os.Open(path)
	if err != nil {
		return 0, false, fmt.Errorf("can't open the snapshot: %w", err)
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return 0, false, fmt.Errorf("can't open the snapshot: %w", err)
	}
	size = info.Size()
	if !info.Mode().IsRegular() || size == 0 {
		return 0, false, fmt.Errorf("%s: %w: it is empty, or no file", path, ErrDamaged)
	}
	if !hasHash(size) || skip {
		return size, hasHash(size), nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(stopping{ctx, in}, size-sha256.Size)); err != nil {
		return 0, false, fmt.Errorf("can't read the snapshot: %w", err)
	}
	want := make([]byte, sha256.Size)
	if _, err := io.ReadFull(in, want); err != nil {
		return 0, false, fmt.Errorf("can't read the snapshot: %w", err)
	}
	if got := sum.Sum(nil); !bytes.Equal(got, want) {
		return 0, false, fmt.Errorf("%s: %w: its hash is %x, it says %x; take the snapshot again, or copy it again", path, ErrDamaged, got, want)
	}
	return size, true, nil
}

// stopping is a reader that ends with ctx.
type stopping struct {
	ctx context.Context
	r   io.Reader
}

func (s stopping) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}

// openPages opens a file of that size as a database.
func openPages(path string, size int64) (f *File, err error) {
	err = guard(path, func() error {
		if size < 4*bolt.PageSize {
			return fmt.Errorf("it has %d bytes", size)
		}
		db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true})
		if err != nil {
			return err
		}
		f = &File{path: path, db: db}
		return f.view(func(tx *bbolt.Tx) error {
			if tx.Bucket([]byte(bucketKey)) == nil {
				return fmt.Errorf("it has no bucket %q", bucketKey)
			}
			return nil
		})
	})
	if err != nil && f != nil {
		_ = f.Close()
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// guard calls fn, which reads the mapped file: what a damaged one makes bbolt do
// becomes an error.
func guard(path string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: %w: %v", path, ErrDamaged, p)
		}
	}()
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return nil
}

func (f *File) view(fn func(*bbolt.Tx) error) error { return f.db.View(fn) }

// Compacted returns the compacted revision, and up to where rows that a compaction
// has freed are gone; 0 is none.
func (f *File) Compacted() (compacted, scrubbed int64, err error) {
	err = guard(f.path, func() error {
		return f.view(func(tx *bbolt.Tx) error {
			for _, row := range []struct {
				name string
				to   *int64
			}{{rowScheduledCompact, &compacted}, {rowFinishedCompact, &scrubbed}} {
				value := rowOf(tx, bucketMeta, row.name)
				if value == nil {
					continue
				}
				rev, _, err := splitRevision(value)
				if err != nil {
					return err
				}
				*row.to = rev.Main
			}
			compacted = max(compacted, scrubbed)
			return nil
		})
	})
	return compacted, scrubbed, err
}

// StorageVersion is what the file says of itself; an etcd before 3.6 says nothing.
func (f *File) StorageVersion() (version string, err error) {
	err = guard(f.path, func() error {
		return f.view(func(tx *bbolt.Tx) error {
			version = string(rowOf(tx, bucketMeta, rowStorageVersion))
			return nil
		})
	})
	return version, err
}

// Tables returns the rows of the small buckets.
func (f *File) Tables() (Tables, error) {
	tables := Tables{}
	for _, bucket := range []string{bucketAlarm, bucketAuth, bucketAuthRoles, bucketAuthUsers} {
		rows := map[string][]byte{}
		tables[bucket] = rows
		err := f.each(context.Background(), bucket, func(key, value []byte) error {
			rows[string(key)] = bytes.Clone(value)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return tables, nil
}

func rowOf(tx *bbolt.Tx, bucket, row string) []byte {
	b := tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Get([]byte(row))
}

// Versions calls fn for every version of a key, in the order of revisions; what fn is
// given is valid within it. last is the greatest revision there is, also of rows that
// are no version.
func (f *File) Versions(ctx context.Context, fn func(*mvcc.Version) error) (last int64, err error) {
	var v mvcc.Version
	err = f.each(ctx, bucketKey, func(key, value []byte) error {
		if err := decodeVersion(key, value, &v); err != nil {
			return err
		}
		last = max(last, v.Rev.Main)
		if len(v.Key) == 0 {
			return nil // it has only a revision
		}
		return fn(&v)
	})
	return last, err
}

// Leases calls fn for every lease, in the order of their ids.
func (f *File) Leases(ctx context.Context, fn func(Lease) error) error {
	return f.each(ctx, bucketLease, func(key, value []byte) error {
		l, err := decodeLease(value)
		if err != nil {
			return err
		}
		if len(key) != 8 || binary.BigEndian.Uint64(key) != uint64(l.ID) {
			return fmt.Errorf("lease %x is at %x", l.ID, key)
		}
		return fn(l)
	})
}

// rowsPerCheck is how many rows are read between two looks at the context.
const rowsPerCheck = 1024

// each calls fn for every row of a bucket; none if it is not there. An error of fn
// says that the file is damaged.
func (f *File) each(ctx context.Context, bucket string, fn func(key, value []byte) error) error {
	var stopped error
	err := guard(f.path, func() error {
		return f.view(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(bucket))
			if b == nil {
				return nil
			}
			n := 0
			return b.ForEach(func(k, v []byte) error {
				if n++; n%rowsPerCheck == 0 {
					if stopped = ctx.Err(); stopped != nil {
						return stopped
					}
				}
				return fn(k, v)
			})
		})
	})
	if stopped != nil {
		return stopped
	}
	return err
}

// Close closes the file.
func (f *File) Close() error { return f.db.Close() }
