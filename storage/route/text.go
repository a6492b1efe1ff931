package route

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// maxTextBytes bounds a table's text; the data directory's VERSION has to hold it.
const maxTextBytes = 32 << 10

// The text of a table is one line, of fields with a space between:
//
//	etcd-prefix=/registry core=1 events=2:/registry/events,/registry/events/
//	|                     |      |      | |                |
//	|                     |      |      | one key          all keys that begin so
//	|                     |      name   number, from 2 on, increasing
//	|                     core, always
//	only for people: no key depends on it
//
// Keys are in the order of bytes. A table without routes is "core=1". There is one
// text for a table, and one table for a text. It is part of the file format, and
// should not be changed.
const (
	prefixField = "etcd-prefix="
	coreField   = CoreName + "=1"
)

// String returns the table as text that [Decode] understands.
func (t *Table) String() string { return t.text }

func encode(prefix string, groups []routed) string {
	if len(groups) == 0 {
		return coreField
	}
	var b strings.Builder
	b.WriteString(prefixField + prefix + " " + coreField)
	for _, g := range groups {
		fmt.Fprintf(&b, " %s=%d:%s", g.Name, g.ID, strings.Join(g.names, ","))
	}
	return b.String()
}

// Decode reads what [Table.String] has written. The empty text, of what was made
// before there were routes, is the table without any.
func Decode(text string) (*Table, error) {
	t, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("routes %q can't be read: %w", text[:min(len(text), 200)], err)
	}
	return t, nil
}

func decode(text string) (*Table, error) {
	if text == "" || text == coreField {
		return CoreOnly(), nil
	}
	if len(text) > maxTextBytes {
		return nil, fmt.Errorf("they have %d bytes, and %d is the most", len(text), maxTextBytes)
	}
	fields := strings.Split(text, " ")
	prefix, ok := strings.CutPrefix(fields[0], prefixField)
	if !ok || len(fields) < 3 || fields[1] != coreField {
		return nil, fmt.Errorf("they do not begin with %s, %s and a group", prefixField, coreField)
	}
	if normal, err := normalizePrefix(prefix); err != nil || normal != prefix {
		return nil, fmt.Errorf("%q is no prefix of keys", prefix)
	}
	var groups []routed
	last := mvcc.CoreGroup
	names := map[string]bool{CoreName: true}
	for _, field := range fields[2:] {
		g, err := decodeGroup(field)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", field, err)
		}
		if g.ID <= last || names[g.Name] {
			return nil, fmt.Errorf("%q is there twice, or out of order", field)
		}
		last, names[g.Name] = g.ID, true
		groups = append(groups, g)
	}
	t, err := build(prefix, groups)
	if err == nil && t.text != text {
		err = fmt.Errorf("they should be %q", t.text)
	}
	return t, err
}

func decodeGroup(field string) (routed, error) {
	name, rest, _ := strings.Cut(field, "=")
	number, list, ok := strings.Cut(rest, ":")
	if !ok {
		return routed{}, errors.New("it is not of the form name=number:keys")
	}
	if err := checkLabel(name); err != nil {
		return routed{}, err
	}
	id, err := strconv.ParseUint(number, 10, 16)
	if err != nil || id > MaxGroups {
		return routed{}, fmt.Errorf("%q is no number of a group", number)
	}
	names := strings.Split(list, ",")
	for i, n := range names {
		if !strings.HasPrefix(n, "/") || !isPlain(n) || i > 0 && names[i-1] >= n {
			return routed{}, fmt.Errorf("%q is no key, or not in its place", n)
		}
	}
	return routed{Group{mvcc.GroupID(id), name}, names}, nil
}
