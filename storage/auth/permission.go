package auth

import (
	"bytes"
	"slices"
	"sort"
)

// PermissionType says what a permission is for. A number that is none of these
// permits nothing, and is kept as it is.
type PermissionType int32

// The types, numbered as on the wire.
const (
	ReadOnly PermissionType = iota
	WriteOnly
	ReadWrite
)

// Permission permits to read or write a key or a range of keys.
type Permission struct {
	Type PermissionType `json:"type"`
	Key  []byte         `json:"key"`
	// End is empty for one key, and fromKeyOn for all from Key on.
	End []byte `json:"end,omitempty"`
}

// fromKeyOn is the end of a range without an end.
var fromKeyOn = []byte{0}

// isValid says whether p is for one key at least.
func (p *Permission) isValid() bool {
	return len(p.Key) > 0 && (len(p.End) == 0 || bytes.Equal(p.End, fromKeyOn) || bytes.Compare(p.Key, p.End) < 0)
}

// grant returns permissions with p, in place of one for the same range. As in etcd
// that one is found only if it is the first with its key.
func grant(permissions []Permission, p Permission) []Permission {
	i := sort.Search(len(permissions), func(i int) bool { return bytes.Compare(permissions[i].Key, p.Key) >= 0 })
	with := slices.Clone(permissions)
	if i < len(with) && bytes.Equal(with[i].Key, p.Key) && bytes.Equal(with[i].End, p.End) {
		with[i].Type = p.Type
		return with
	}
	with = append(with, p)
	sort.Slice(with, func(i, j int) bool { return bytes.Compare(with[i].Key, with[j].Key) < 0 })
	return with
}

// span is the keys from begin to end; to the last if end is nil.
type span struct{ begin, end []byte }

func spanOf(p Permission) span {
	switch {
	case len(p.End) == 0:
		return span{p.Key, append(bytes.Clone(p.Key), 0)}
	case bytes.Equal(p.End, fromKeyOn):
		return span{p.Key, nil}
	}
	return span{p.Key, p.End}
}

// spans are merged, and so in order and apart, once merge has been called.
type spans []span

func (s spans) merge() spans {
	slices.SortFunc(s, func(a, b span) int { return bytes.Compare(a.begin, b.begin) })
	var merged spans
	for _, next := range s {
		if len(merged) == 0 || merged[len(merged)-1].endsBefore(next.begin) {
			merged = append(merged, next)
			continue
		}
		last := &merged[len(merged)-1]
		if last.end != nil && (next.end == nil || bytes.Compare(last.end, next.end) < 0) {
			last.end = next.end
		}
	}
	return merged
}

// endsBefore says whether there is a key between s and begin.
func (s span) endsBefore(begin []byte) bool { return s.end != nil && bytes.Compare(s.end, begin) < 0 }

// contain says whether all keys from key to end are in s; only key if end is
// empty. Of a range that holds no key, only its beginning counts.
func (s spans) contain(key, end []byte) bool {
	i := sort.Search(len(s), func(i int) bool { return bytes.Compare(s[i].begin, key) > 0 }) - 1
	if i < 0 || s[i].end != nil && bytes.Compare(s[i].end, key) <= 0 {
		return false
	}
	switch {
	case len(end) == 0 || s[i].end == nil:
		return true
	case bytes.Equal(end, fromKeyOn):
		return false
	}
	return bytes.Compare(end, s[i].end) <= 0
}
