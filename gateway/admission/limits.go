package admission

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pebbledash/pebbledash/storage/route"
)

// ResourceLimit bounds what is under way for one resource.
type ResourceLimit struct {
	// Resource is as in --resource-groups: leases, or example.com/widgets.
	Resource string
	Limit    int
}

// maxLimit is the most seats that anything has.
const maxLimit = 1 << 20

// String writes it as on the command line.
func (r ResourceLimit) String() string { return r.Resource + "#" + strconv.Itoa(r.Limit) }

// path is where the resource is below kube-apiserver's prefix.
func (r ResourceLimit) path() (string, error) { return route.PathOf(r.Resource) }

// ParseResourceLimits reads resource#n,group/resource#n.
func ParseResourceLimits(text string) ([]ResourceLimit, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var limits []ResourceLimit
	seen := map[string]string{} // path to the text that has it
	for s := range strings.SplitSeq(text, ",") {
		s = strings.TrimSpace(s)
		name, number, ok := strings.Cut(s, "#")
		if !ok || name == "" || number == "" {
			return nil, fmt.Errorf("%q is not of the form resource#n; write commas between several, as in events#50,leases#100", s)
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > maxLimit {
			return nil, fmt.Errorf("%q: the limit must be a number between 1 and %d", s, maxLimit)
		}
		limit := ResourceLimit{name, n}
		path, err := limit.path()
		if err != nil {
			return nil, err
		}
		if before, ok := seen[path]; ok {
			return nil, fmt.Errorf("both %s and %s are about the keys %s/; leave one of them out", before, s, path)
		}
		seen[path] = s
		limits = append(limits, limit)
	}
	slices.SortFunc(limits, func(a, b ResourceLimit) int { return strings.Compare(a.Resource, b.Resource) })
	return limits, nil
}

// FormatResourceLimits is the other way round.
func FormatResourceLimits(limits []ResourceLimit) string {
	texts := make([]string, 0, len(limits))
	for _, l := range limits {
		texts = append(texts, l.String())
	}
	return strings.Join(texts, ",")
}
