package metrics

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// testMixin finds every metric that etcd-mixin's alerts and dashboards read, with
// the labels that they read of it.
func testMixin(t *testing.T, one scrape, three []scrape) {
	t.Helper()
	alerts, names := 0, 0
	for _, line := range mixinLines(t) {
		if line.kind == "alert" {
			alerts++
		}
		for _, m := range line.metrics {
			names++
			if strings.HasPrefix(m.name, "etcd_network_peer_") {
				for _, s := range three {
					requireMetric(t, s, line.of, m)
				}
				continue
			}
			requireMetric(t, one, line.of, m)
			for _, s := range three {
				requireMetric(t, s, line.of, m)
			}
		}
	}
	require.Equal(t, 15, alerts)
	require.Greater(t, names, 25)
}

// mixinLine is one alert or panel, mixinMetric one metric that it reads.
type mixinLine struct {
	kind, of string
	metrics  []mixinMetric
}

type mixinMetric struct {
	name   string
	labels []string
}

var mixinWord = regexp.MustCompile(`^([a-z_]+)(?:\{([A-Za-z_,]+)\})?$`)

func mixinLines(t *testing.T) []mixinLine {
	t.Helper()
	file, err := os.ReadFile("testdata/mixin.txt")
	require.NoError(t, err)
	var lines []mixinLine
	for line := range strings.Lines(string(file)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		require.Contains(t, []string{"alert", "panel"}, words[0])
		l := mixinLine{kind: words[0], of: words[1]}
		for _, w := range words[2:] {
			parts := mixinWord.FindStringSubmatch(w)
			require.NotNil(t, parts, "%q", w)
			m := mixinMetric{name: parts[1]}
			if parts[2] != "" {
				m.labels = strings.Split(parts[2], ",")
			}
			l.metrics = append(l.metrics, m)
		}
		lines = append(lines, l)
	}
	return lines
}

func requireMetric(t *testing.T, s scrape, of string, m mixinMetric) {
	t.Helper()
	f := s.families[strings.TrimSuffix(m.name, "_bucket")]
	if !assertTrue(t, f != nil && len(f.GetMetric()) > 0, "%s reads %s, which is not there", of, m.name) {
		return
	}
	if strings.HasSuffix(m.name, "_bucket") {
		assertTrue(t, f.GetMetric()[0].GetHistogram() != nil, "%s reads %s, which is no histogram", of, m.name)
	}
	for _, label := range m.labels {
		for _, one := range f.GetMetric() {
			var names []string
			for _, l := range one.GetLabel() {
				names = append(names, l.GetName())
			}
			assertTrue(t, slices.Contains(names, label), "%s reads label %s of %s, which is not there", of, label, m.name)
		}
	}
}

func assertTrue(t *testing.T, ok bool, format string, args ...any) bool {
	t.Helper()
	if !ok {
		t.Errorf(format, args...)
	}
	return ok
}
