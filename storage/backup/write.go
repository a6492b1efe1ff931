package backup

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/pebbledash/pebbledash/storage/bolt"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Source is what a Backup is made of.
type Source struct {
	// View has the keys, the leases, and how far core's log was applied.
	View *mvcc.View
	// Voters, Learners, Members and Removed say who is in the cluster, and who was.
	Voters, Learners []uint64
	Members          []Member
	Removed          []uint64
	// StorageVersion and ClusterVersion are those of the etcd that we behave like.
	StorageVersion, ClusterVersion string
	// Tables are the rows of the buckets alarm, auth, authRoles and authUsers.
	Tables Tables
}

// Tables are the rows of buckets that are small, by bucket and key. They are etcd's:
//
//	alarm       etcdserverpb.AlarmMember -> (empty)
//	auth        authEnabled -> 1 byte; authRevision -> 8 bytes
//	authUsers   name -> authpb.User
//	authRoles   name -> authpb.Role
type Tables map[string]map[string][]byte

// Member is a member as etcd keeps it. Its JSON is part of the format.
type Member struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// confState is raft's, as etcd writes it.
type confState struct {
	Voters    []uint64 `json:"voters,omitempty"`
	Learners  []uint64 `json:"learners,omitempty"`
	AutoLeave bool     `json:"auto_leave"`
}

// pageBuffer holds what is written before it is hashed and handed on.
const pageBuffer = 64 << 10

// Backup is one that can be written. It is for one goroutine.
type Backup struct {
	src    Source
	layout bolt.Layout
	leases []Lease
	// known are the ids in leases.
	known map[int64]bool
	// rows and bytes count the bucket of keys.
	rows, bytes int64
	key         []byte
}

// New finds out how a backup of src is laid out. The View is src's still, and must
// stay open until the backup has been written.
func New(ctx context.Context, src Source) (*Backup, error) {
	b := &Backup{src: src, known: map[int64]bool{}}
	err := src.View.Leases(func(id, ttl, remaining int64) {
		b.leases = append(b.leases, Lease{id, ttl, remaining})
		b.known[id] = true
	})
	if err != nil {
		return nil, err
	}
	if err := src.View.VersionsByKey(ctx, b.count); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	b.layout, err = bolt.Plan(func(w *bolt.Writer) error {
		return b.fill(w, func() error { return w.Bulk(b.rows+1, b.bytes+revisionLen+1, revisionLen+1) })
	})
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return b, nil
}

// Revision is that of the backup.
func (b *Backup) Revision() int64 { return b.src.View.Revision }

// Size returns how many bytes Write writes.
func (b *Backup) Size() int64 { return b.layout.Size() + sha256.Size }

// Write writes the file. It may be called again.
func (b *Backup) Write(ctx context.Context, out io.Writer) error {
	sum := sha256.New()
	buf := bufio.NewWriterSize(io.MultiWriter(out, sum), pageBuffer)
	err := bolt.Write(buf, b.layout, func(w *bolt.Writer) error {
		return b.fill(w, func() error { return b.fillKeys(ctx, w) })
	})
	if err == nil {
		err = buf.Flush()
	}
	if err == nil {
		_, err = out.Write(sum.Sum(nil))
	}
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// revokedTTL is the time to live of a lease of which it is not known any more.
const revokedTTL = 1

// count counts a version, in no order of revisions.
func (b *Backup) count(v *mvcc.Version, newest bool) error {
	b.rows++
	b.bytes += revisionLen + int64(versionSize(v))
	if v.Tombstone {
		b.bytes++
	}
	if newest && v.Head.Lease != 0 {
		b.noteLease(v.Head.Lease)
	}
	return nil
}

// noteLease takes in the leases of keys that had been revoked already when the view
// was fixed, after its revision: the keys are there, and so must the leases be, or
// the keys would stay for ever.
func (b *Backup) noteLease(id int64) {
	if b.known[id] {
		return
	}
	b.known[id] = true
	at, _ := slices.BinarySearchFunc(b.leases, id, func(l Lease, id int64) int {
		return cmp.Compare(uint64(l.ID), uint64(id))
	})
	b.leases = slices.Insert(b.leases, at, Lease{ID: id, TTL: revokedTTL})
}

// fill gives all rows, those of the bucket of keys by keys.
func (b *Backup) fill(w *bolt.Writer, keys func() error) error {
	for _, bucket := range []string{bucketAlarm, bucketAuth, bucketAuthRoles, bucketAuthUsers} {
		if err := fillRows(w, bucket, b.src.Tables[bucket]); err != nil {
			return err
		}
	}
	if err := fillRows(w, bucketCluster, map[string][]byte{rowClusterVersion: []byte(b.src.ClusterVersion)}); err != nil {
		return err
	}
	if err := w.Bucket(bucketKey); err != nil {
		return err
	}
	if err := keys(); err != nil {
		return err
	}
	if err := w.Bucket(bucketLease); err != nil {
		return err
	}
	for _, l := range b.leases {
		if err := w.Set(binary.BigEndian.AppendUint64(nil, uint64(l.ID)), l.encode()); err != nil {
			return err
		}
	}
	return b.fillCluster(w)
}

func (b *Backup) fillKeys(ctx context.Context, w *bolt.Writer) error {
	view := b.src.View
	last := view.Compacted
	err := view.Versions(ctx, func(v *mvcc.Version) error {
		last = max(last, v.Rev.Main)
		b.key = appendRevision(b.key[:0], v.Rev)
		if v.Tombstone {
			b.key = append(b.key, tombstoneMark)
		}
		return w.Put(b.key, versionSize(v), func(dst []byte) []byte { return appendVersion(dst, v) })
	})
	if err == nil && last < view.Revision && view.Revision > mvcc.FirstRevision {
		b.key = append(appendRevision(b.key[:0], mvcc.Revision{Main: view.Revision}), tombstoneMark)
		err = w.Set(b.key, nil)
	}
	return err
}

// fillCluster gives the rows about the cluster, and how far the store is.
func (b *Backup) fillCluster(w *bolt.Writer) error {
	members, removed := map[string][]byte{}, map[string][]byte{}
	for _, m := range b.src.Members {
		row, err := json.Marshal(m)
		if err != nil {
			return err
		}
		members[strconv.FormatUint(m.ID, 16)] = row
	}
	for _, id := range b.src.Removed {
		removed[strconv.FormatUint(id, 16)] = []byte("removed")
	}
	conf, err := json.Marshal(confState{Voters: b.src.Voters, Learners: b.src.Learners})
	if err != nil {
		return err
	}
	view := b.src.View
	applied := view.Applied()
	meta := map[string][]byte{
		rowConfState:       conf,
		rowConsistentIndex: binary.BigEndian.AppendUint64(nil, applied.Index),
		rowTerm:            binary.BigEndian.AppendUint64(nil, applied.Term),
		rowStorageVersion:  []byte(b.src.StorageVersion),
	}
	if view.Compacted > 0 {
		meta[rowScheduledCompact] = appendRevision(nil, mvcc.Revision{Main: view.Compacted})
	}
	if view.Scrubbed > 0 {
		meta[rowFinishedCompact] = appendRevision(nil, mvcc.Revision{Main: view.Scrubbed})
	}
	for _, bucket := range []struct {
		name string
		rows map[string][]byte
	}{{bucketMembers, members}, {bucketMembersRemoved, removed}, {bucketMeta, meta}} {
		if err := fillRows(w, bucket.name, bucket.rows); err != nil {
			return err
		}
	}
	return nil
}

func fillRows(w *bolt.Writer, bucket string, rows map[string][]byte) error {
	if err := w.Bucket(bucket); err != nil {
		return err
	}
	keys := make([]string, 0, len(rows))
	for k := range rows {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := w.Set([]byte(k), rows[k]); err != nil {
			return err
		}
	}
	return nil
}
