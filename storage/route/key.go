package route

import (
	"bytes"
	"fmt"
	"path"
	"strings"
)

// Prefix is kube-apiserver's --etcd-prefix, below which the keys of all resources
// are, whatever groups they are in. ParsePrefix makes one.
type Prefix string

// ParsePrefix reads the value of --etcd-prefix.
func ParsePrefix(s string) (Prefix, error) {
	p, err := normalizePrefix(s)
	if err != nil {
		return "", fmt.Errorf("--etcd-prefix: %w", err)
	}
	return Prefix(p), nil
}

// Join returns the key at a path below the prefix.
func (p Prefix) Join(below string) string { return path.Join(string(p), below) }

// ResourceOf returns where the resource that a key belongs to is, below the prefix
// and without slashes around it, as PathOf does; nil if the key is not below the
// prefix. isObject says that the key is below that path, and not the path itself. It
// does not allocate.
func (p Prefix) ResourceOf(key []byte) (path []byte, isObject bool) {
	n := len(p)
	if n > 1 {
		n++ // the slash after it; "/" has none
	}
	if len(key) < n || key[n-1] != '/' || string(key[:len(p)]) != string(p) {
		return nil, false
	}
	path = key[n:]
	i := bytes.IndexByte(path, '/')
	// Custom resources, and a few of Kubernetes' own, lie below a name of a group,
	// which has a dot.
	if i >= 0 && (bytes.IndexByte(path[:i], '.') >= 0 || string(path[:i]) == "services") {
		j := bytes.IndexByte(path[i+1:], '/')
		if j < 0 {
			return path, false
		}
		i += 1 + j
	}
	if i < 0 {
		return path, false
	}
	return path[:i], true
}

// ResourcePath returns the first bytes of key, up to and with the slash, that are
// the path of the resource that it belongs to: those of all its objects, and of
// nothing else. It returns nil for a key that is no object of a resource, such as
// the bare path of one. It does not allocate.
func (p Prefix) ResourcePath(key []byte) []byte {
	below, isObject := p.ResourceOf(key)
	if !isObject || len(below) == 0 || below[len(below)-1] == '/' {
		return nil
	}
	n := len(strings.TrimSuffix(string(p), "/")) + 1 + len(below) + 1
	return key[:n:n]
}

// ResourceName returns a path of ResourcePath as operators know it: what PathOf
// takes.
func (p Prefix) ResourceName(path string) string {
	below := strings.Trim(strings.TrimPrefix(path, string(p)), "/")
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
