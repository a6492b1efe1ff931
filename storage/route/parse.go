package route

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// The defaults of the flags; the prefix is kube-apiserver's.
const (
	DefaultResourceGroups = "events#events;leases#leases;pods#pods"
	DefaultEtcdPrefix     = "/registry"
)

const (
	maxLabelBytes  = 63
	maxDomainBytes = 253
)

// Parse reads the values of --resource-groups and --etcd-prefix. The first is a
// list of resource#group with semicolons between (see the package's doc for how
// resources are written); an empty one gives everything to core. A resource that
// is given to core by name has no route.
//
// Groups are numbered from 2 on in the order of their names.
func Parse(resourceGroups, etcdPrefix string) (*Table, error) {
	prefix, err := normalizePrefix(etcdPrefix)
	if err != nil {
		return nil, fmt.Errorf("--etcd-prefix: %w", err)
	}
	owners, err := parseEntries(resourceGroups, prefix)
	if err != nil {
		return nil, fmt.Errorf("--resource-groups: %w", err)
	}
	byName := map[string][]string{}
	for at, e := range owners {
		if e.group != CoreName {
			byName[e.group] = append(byName[e.group], at, at+"/")
		}
	}
	if len(byName) > MaxGroups-1 {
		return nil, fmt.Errorf("--resource-groups names %d groups, and beside core there can be %d; give several resources to one group", len(byName), MaxGroups-1)
	}
	if len(byName) == 0 {
		return CoreOnly(), nil
	}
	var groups []routed
	for i, name := range slices.Sorted(maps.Keys(byName)) {
		id := mvcc.CoreGroup + 1 + mvcc.GroupID(i)
		slices.Sort(byName[name])
		groups = append(groups, routed{Group{id, name}, byName[name]})
	}
	t, err := build(prefix, groups)
	if err != nil {
		return nil, fmt.Errorf("--resource-groups: %w", err)
	}
	return t, nil
}

// entry is one resource#group.
type entry struct{ resource, group string }

// parseEntries returns the entries by the key without a slash behind it that
// their resource is kept under.
func parseEntries(value, prefix string) (map[string]entry, error) {
	owners := map[string]entry{}
	if strings.TrimSpace(value) == "" {
		return owners, nil
	}
	for s := range strings.SplitSeq(value, ";") {
		e, err := parseEntry(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		below, err := PathOf(e.resource)
		if err != nil {
			return nil, err
		}
		at := strings.TrimSuffix(prefix, "/") + "/" + below
		if other, ok := owners[at]; ok && other.group != e.group {
			return nil, fmt.Errorf("both %s#%s and %s#%s are about the keys %s/; leave one of them out",
				other.resource, other.group, e.resource, e.group, at)
		}
		owners[at] = e
	}
	return owners, nil
}

func parseEntry(s string) (entry, error) {
	resource, group, ok := strings.Cut(s, "#")
	if !ok || resource == "" || group == "" || strings.ContainsAny(group, "#,") {
		return entry{}, fmt.Errorf("%q is not of the form resource#group; write semicolons between several, as in %s",
			s, DefaultResourceGroups)
	}
	if err := checkLabel(group); err != nil {
		return entry{}, fmt.Errorf("group of %q: %w", s, err)
	}
	return entry{resource, group}, nil
}

// normalizePrefix writes a prefix as kube-apiserver does: with a slash before it,
// and no slash too many. "/" is the only one with a slash at its end.
func normalizePrefix(s string) (string, error) {
	if !isPlain(s) {
		return "", fmt.Errorf("%q has characters that can't be used; use letters, digits and any of ._-~:@+/", s)
	}
	return path.Join("/", s), nil
}

// isPlain says whether s has no characters with a meaning in a table's text, and
// none that it would hide.
func isPlain(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return !isLowerAlnum(r) && (r < 'A' || r > 'Z') && !strings.ContainsRune("._-~:@+/", r)
	}) < 0
}

func isLowerAlnum(r rune) bool { return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' }

// checkLabel returns an error if s is no DNS label in lower case.
func checkLabel(s string) error {
	odd := func(r rune) bool { return !isLowerAlnum(r) && r != '-' }
	if s == "" || len(s) > maxLabelBytes || strings.IndexFunc(s, odd) >= 0 || s[0] == '-' || s[len(s)-1] == '-' {
		return fmt.Errorf("%q is no name; use up to %d lower-case letters, digits and, inside, hyphens", s, maxLabelBytes)
	}
	return nil
}

// checkDomain returns an error if s is not labels with dots between.
func checkDomain(s string) error {
	if len(s) > maxDomainBytes {
		return errors.New("it is too long")
	}
	for label := range strings.SplitSeq(s, ".") {
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	return nil
}
