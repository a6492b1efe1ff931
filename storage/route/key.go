package route

import (
	"bytes"
	"strings"
)

// ResourcePath returns the first bytes of key, up to and with the slash, that are
// the path of the resource that it belongs to: those of all its objects, and of
// nothing else. It returns nil for a key that is no object of a resource, such as
// the bare path of one. It does not allocate.
func (t *Table) ResourcePath(key []byte) []byte {
	n := len(t.prefix)
	if n > 1 {
		n++ // the slash after it; "/" has none
	}
	if len(key) < n || key[n-1] != '/' || string(key[:min(n, len(t.prefix))]) != t.prefix {
		return nil
	}
	i := bytes.IndexByte(key[n:], '/')
	if i <= 0 {
		return nil
	}
	// Custom resources, and a few of Kubernetes' own, lie below a name of a group,
	// which has a dot.
	if first := key[n : n+i]; bytes.IndexByte(first, '.') >= 0 || string(first) == "services" {
		j := bytes.IndexByte(key[n+i+1:], '/')
		if j <= 0 {
			return nil
		}
		i += 1 + j
	}
	return key[: n+i+1 : n+i+1]
}

// ResourceName returns a path of ResourcePath as operators know it: what PathOf
// takes.
func (t *Table) ResourceName(path string) string {
	below := strings.Trim(strings.TrimPrefix(path, t.prefix), "/")
	for _, b := range builtinPaths {
		if below == b.path {
			if strings.HasPrefix(below, b.groups[0]+"/") {
				return below
			}
			return b.resource
		}
	}
	return below
}
