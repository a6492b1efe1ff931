package route

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Number is a number for one resource, as in --watch-cache-sizes=pods#5000.
type Number struct {
	// Resource is what was written: resource, or group/resource.
	Resource string
	// Path is where its keys are: below the prefix, slash included.
	Path string
	N    int
}

// String writes it as on the command line.
func (n Number) String() string { return n.Resource + "#" + strconv.Itoa(n.N) }

// Numbers are for one resource each, and sorted by it.
type Numbers []Number

// ParseNumbers reads resource#n,group/resource#n with numbers from least to most.
func ParseNumbers(text string, least, most int) (Numbers, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var numbers Numbers
	seen := map[string]string{} // path to the text that has it
	for s := range strings.SplitSeq(text, ",") {
		s = strings.TrimSpace(s)
		resource, number, ok := strings.Cut(s, "#")
		if !ok || resource == "" || number == "" {
			return nil, fmt.Errorf("%q is not of the form resource#n; write commas between several, as in events#50,leases#100", s)
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("%q: n must be a number between %d and %d", s, least, most)
		}
		path, err := PathOf(resource)
		if err != nil {
			return nil, err
		}
		if before, ok := seen[path]; ok {
			return nil, fmt.Errorf("both %s and %s are about the keys %s/; leave one of them out", before, s, path)
		}
		seen[path] = s
		numbers = append(numbers, Number{resource, path + "/", n})
	}
	slices.SortFunc(numbers, func(a, b Number) int { return strings.Compare(a.Resource, b.Resource) })
	return numbers, nil
}

// String writes them as on the command line.
func (numbers Numbers) String() string {
	texts := make([]string, 0, len(numbers))
	for _, n := range numbers {
		texts = append(texts, n.String())
	}
	return strings.Join(texts, ",")
}
