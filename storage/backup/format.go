package backup

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// The buckets, in the order of a file.
const (
	bucketAlarm          = "alarm"
	bucketAuth           = "auth"
	bucketAuthRoles      = "authRoles"
	bucketAuthUsers      = "authUsers"
	bucketCluster        = "cluster"
	bucketKey            = "key"
	bucketLease          = "lease"
	bucketMembers        = "members"
	bucketMembersRemoved = "members_removed"
	bucketMeta           = "meta"
)

// The rows of meta, cluster and auth.
const (
	rowConfState        = "confState"
	rowConsistentIndex  = "consistent_index"
	rowFinishedCompact  = "finishedCompactRev"
	rowScheduledCompact = "scheduledCompactRev"
	rowStorageVersion   = "storageVersion"
	rowTerm             = "term"
	rowClusterVersion   = "clusterVersion"
	rowAuthEnabled      = "authEnabled"
)

const (
	revisionLen   = 8 + 1 + 8
	tombstoneMark = 't'
)

func appendRevision(dst []byte, rev mvcc.Revision) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(rev.Main))
	dst = append(dst, '_')
	return binary.BigEndian.AppendUint64(dst, uint64(rev.Sub))
}

func splitRevision(row []byte) (rev mvcc.Revision, tombstone bool, err error) {
	n := len(row)
	if n < revisionLen || n > revisionLen+1 || row[8] != '_' || n > revisionLen && row[revisionLen] != tombstoneMark {
		return mvcc.Revision{}, false, fmt.Errorf("backup: %x is no revision", row)
	}
	rev.Main = int64(binary.BigEndian.Uint64(row))
	rev.Sub = int64(binary.BigEndian.Uint64(row[9:]))
	return rev, n > revisionLen, nil
}

// The fields of mvccpb.KeyValue.
const (
	fieldKey     = 1
	fieldCreate  = 2
	fieldMod     = 3
	fieldVersion = 4
	fieldValue   = 5
	fieldLease   = 6
)

// The fields of leasepb.Lease.
const (
	fieldID        = 1
	fieldTTL       = 2
	fieldRemaining = 3
)

func bytesSize(field protowire.Number, b []byte) int {
	if len(b) == 0 {
		return 0
	}
	return protowire.SizeTag(field) + protowire.SizeBytes(len(b))
}

func appendBytes(dst []byte, field protowire.Number, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	return protowire.AppendBytes(protowire.AppendTag(dst, field, protowire.BytesType), b)
}

func numSize(field protowire.Number, n int64) int {
	if n == 0 {
		return 0
	}
	return protowire.SizeTag(field) + protowire.SizeVarint(uint64(n))
}

func appendNum(dst []byte, field protowire.Number, n int64) []byte {
	if n == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), uint64(n))
}

// versionSize returns the length of appendVersion's.
func versionSize(v *mvcc.Version) int {
	return bytesSize(fieldKey, v.Key) + numSize(fieldCreate, v.Head.Create) + numSize(fieldMod, v.Head.Mod) +
		numSize(fieldVersion, v.Head.Version) + bytesSize(fieldValue, v.Value) + numSize(fieldLease, v.Head.Lease)
}

// appendVersion encodes v as a mvccpb.KeyValue. A value is not copied more than
// here.
func appendVersion(dst []byte, v *mvcc.Version) []byte {
	dst = appendBytes(dst, fieldKey, v.Key)
	dst = appendNum(dst, fieldCreate, v.Head.Create)
	dst = appendNum(dst, fieldMod, v.Head.Mod)
	dst = appendNum(dst, fieldVersion, v.Head.Version)
	dst = appendBytes(dst, fieldValue, v.Value)
	return appendNum(dst, fieldLease, v.Head.Lease)
}

// decodeVersion decodes the row of a version.
func decodeVersion(row, value []byte, v *mvcc.Version) (err error) {
	var kv mvccpb.KeyValue
	if v.Rev, v.Tombstone, err = splitRevision(row); err != nil {
		return err
	}
	if err := proto.Unmarshal(value, &kv); err != nil {
		return fmt.Errorf("backup: revision %d.%d: %w", v.Rev.Main, v.Rev.Sub, err)
	}
	v.Key, v.Value, v.Head = kv.Key, kv.Value, mvcc.Head{}
	if !v.Tombstone {
		v.Head = mvcc.Head{Mod: kv.ModRevision, Create: kv.CreateRevision, Version: kv.Version, Lease: kv.Lease}
	}
	return nil
}

// Lease is a row of the bucket of leases. TTL and Remaining are in seconds.
type Lease struct{ ID, TTL, Remaining int64 }

func (l Lease) encode() []byte {
	b := appendNum(nil, fieldID, l.ID)
	b = appendNum(b, fieldTTL, l.TTL)
	return appendNum(b, fieldRemaining, l.Remaining)
}

func decodeLease(b []byte) (l Lease, err error) {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return l, fmt.Errorf("backup: lease: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if kind != protowire.VarintType {
			if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
				return l, fmt.Errorf("backup: lease: %w", protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return l, fmt.Errorf("backup: lease: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch field {
		case fieldID:
			l.ID = int64(v)
		case fieldTTL:
			l.TTL = int64(v)
		case fieldRemaining:
			l.Remaining = int64(v)
		default: // of a newer etcd
		}
	}
	return l, nil
}
