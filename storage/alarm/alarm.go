// Package alarm names the cluster's alarms, which are records of core's state
// (storage/mvcc, records.go), and carries them to etcd's snapshots and back. Who raises
// them, and what they forbid, is gateway's.
//
// A row has no value; its name says it all, and is part of the file format:
//
//	NOSPACE/<member>            the quota of the store is reached
//	NOSPACE/<member>/<group>    that of a group
//	CORRUPT/<member>            the member's data is not what it should be
//
// Members are in hexadecimal digits.
package alarm

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Table is that of the records.
const Table = "alarms"

// Kind is what an alarm is about; the numbers are etcdserverpb's.
type Kind int32

// The kinds that there are.
const (
	NoSpace Kind = 1
	Corrupt Kind = 2
)

var kinds = [...]string{NoSpace: "NOSPACE", Corrupt: "CORRUPT"}

// String returns etcd's name of a kind.
func (k Kind) String() string {
	if k > 0 && int(k) < len(kinds) {
		return kinds[k]
	}
	return strconv.Itoa(int(k))
}

// Alarm is one that is raised.
type Alarm struct {
	Kind   Kind
	Member uint64
	// Group is the one whose quota is reached; empty if it is the whole store's.
	Group string
}

// Row is the alarm's name in the table.
func (a Alarm) Row() string {
	row := a.Kind.String() + "/" + strconv.FormatUint(a.Member, 16)
	if a.Group != "" {
		row += "/" + a.Group
	}
	return row
}

// Parse reads a row's name. ok is false if it is none.
func Parse(row string) (a Alarm, ok bool) {
	kind, rest, _ := strings.Cut(row, "/")
	id, group, _ := strings.Cut(rest, "/")
	k := slices.Index(kinds[:], kind)
	member, err := strconv.ParseUint(id, 16, 64)
	return Alarm{Kind(k), member, group}, k > 0 && err == nil
}

// The bucket of etcd's alarms has their names only, which are etcdserverpb.AlarmMember.
const (
	bucket      = "alarm"
	fieldMember = 1
	fieldKind   = 2
)

// Buckets returns etcd's bucket of the alarms among rows. It has none for a group's
// quota, of which etcd knows nothing: whoever restores the store raises them again, if
// they are still true.
func Buckets(rows map[string][]byte) map[string]map[string][]byte {
	out := map[string][]byte{}
	for row := range rows {
		a, ok := Parse(row)
		if !ok || a.Group != "" {
			continue
		}
		var key []byte
		if a.Member != 0 {
			key = protowire.AppendVarint(protowire.AppendTag(key, fieldMember, protowire.VarintType), a.Member)
		}
		key = protowire.AppendVarint(protowire.AppendTag(key, fieldKind, protowire.VarintType), uint64(a.Kind))
		out[string(key)] = nil
	}
	return map[string]map[string][]byte{bucket: out}
}

// FromBuckets returns the rows of what Buckets returns, in their order.
func FromBuckets(buckets map[string]map[string][]byte) ([]string, error) {
	var rows []string
	for _, key := range slices.Sorted(maps.Keys(buckets[bucket])) {
		a, err := decode([]byte(key))
		if err != nil {
			return nil, fmt.Errorf("alarm: %x: %w", key, err)
		}
		rows = append(rows, a.Row())
	}
	return rows, nil
}

func decode(b []byte) (a Alarm, err error) {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return a, protowire.ParseError(n)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
			return a, protowire.ParseError(n)
		}
		if kind == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b)
			switch field {
			case fieldMember:
				a.Member = v
			case fieldKind:
				a.Kind = Kind(v)
			default: // of a newer etcd
			}
		}
		b = b[n:]
	}
	if a.Kind != NoSpace && a.Kind != Corrupt {
		return a, fmt.Errorf("there is no kind %d of alarms", a.Kind)
	}
	return a, nil
}
