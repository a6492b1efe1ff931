// Package exposition reads what Prometheus would scrape, as far as it takes to tell how
// often and how long something was done between two readings. It is pure.
package exposition

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Sample is one line: a metric, its labels, its value.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// maxLineBytes bounds a line; kube-apiserver's are far below.
const maxLineBytes = 1 << 20

// Parse reads the samples whose names keep wants.
func Parse(r io.Reader, keep func(name string) bool) ([]Sample, error) {
	var samples []Sample
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLineBytes)
	for lines.Scan() {
		line := lines.Text()
		end := strings.IndexAny(line, "{ ")
		if end <= 0 || line[0] == '#' || !keep(line[:end]) {
			continue
		}
		s := Sample{Name: line[:end], Labels: map[string]string{}}
		rest, err := s.readLabels(line[end:])
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		value, _, _ := strings.Cut(strings.TrimSpace(rest), " ") // A time may follow.
		if s.Value, err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		samples = append(samples, s)
	}
	return samples, lines.Err()
}

// readLabels reads {name="value",...}, if there are any, and returns what follows.
func (s *Sample) readLabels(text string) (rest string, err error) {
	text, ok := strings.CutPrefix(text, "{")
	for ok {
		if rest, ok := strings.CutPrefix(text, "}"); ok {
			return rest, nil
		}
		name, quoted, found := strings.Cut(text, "=")
		if !found {
			return "", fmt.Errorf("no = in %q", text)
		}
		literal, err := strconv.QuotedPrefix(quoted)
		if err != nil {
			return "", err
		}
		value, err := strconv.Unquote(literal)
		if err != nil {
			return "", err
		}
		s.Labels[name] = value
		text = strings.TrimPrefix(quoted[len(literal):], ",")
	}
	return text, nil
}
