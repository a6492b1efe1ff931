package backup

import (
	"context"
	"errors"
	"hash/crc32"

	"go.etcd.io/bbolt"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Status is what `etcdutl snapshot status` says of a file. Its JSON is etcd's.
type Status struct {
	// Hash is a CRC-32C of all rows with the names of their buckets.
	Hash      uint32 `json:"hash"`
	Revision  int64  `json:"revision"`
	TotalKey  int    `json:"totalKey"`
	TotalSize int64  `json:"totalSize"`
	Version   string `json:"version"`
}

// ReadStatus reads a whole file, which need not end with a checksum. It holds the keys
// in memory that are there in the end.
func ReadStatus(ctx context.Context, path string) (Status, error) {
	size, _, err := checkHash(ctx, path, false)
	if err != nil {
		return Status{}, err
	}
	if err := checkPages(path, size); err != nil {
		return Status{}, err
	}
	f, err := openPages(path, size)
	if err != nil {
		return Status{}, err
	}
	s, err := f.status(ctx)
	return s, errors.Join(err, f.Close())
}

func (f *File) status(ctx context.Context) (s Status, err error) {
	if s.Version, err = f.StorageVersion(); err != nil {
		return s, err
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	keys := map[string]struct{}{}
	var buckets []string
	err = guard(f.path, func() error {
		return f.view(func(tx *bbolt.Tx) error {
			s.TotalSize = tx.Size()
			return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
				buckets = append(buckets, string(name))
				return nil
			})
		})
	})
	if err != nil {
		return s, err
	}
	var v mvcc.Version
	for _, bucket := range buckets {
		_, _ = sum.Write([]byte(bucket))
		err := f.each(ctx, bucket, func(key, value []byte) error {
			_, _ = sum.Write(key)
			_, _ = sum.Write(value)
			if bucket != bucketKey {
				return nil
			}
			if err := decodeVersion(key, value, &v); err != nil {
				return err
			}
			s.Revision = v.Rev.Main
			if v.Tombstone {
				delete(keys, string(v.Key))
			} else {
				keys[string(v.Key)] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return s, err
		}
	}
	s.Hash, s.TotalKey = sum.Sum32(), len(keys)
	return s, nil
}
