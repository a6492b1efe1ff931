//go:build linux

package kube

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// baselinePath holds what kube-apiserver complains of when this session runs
// against etcd. PEBBLEDASH_KUBE_REWRITE=1 adds the run's lines to it; delete
// the file first to begin anew.
const baselinePath = "testdata/etcd-log-baseline.txt"

const baselineHead = `# What kube-apiserver says about its storage, at levels W and E, when the session
# of this package runs against etcd: the union of several runs, normalised by
# storagelog_test.go. PEBBLEDASH_KUBE_REWRITE=1 adds lines, with
# PEBBLEDASH_CONFORMANCE_TARGET=etcd only.
`

// The sections of the baseline.
const (
	sectionAlways = "[always]"
	sectionAway   = "[store away]"
)

var (
	// klogLine is a line of kube-apiserver's own; its etcd client writes JSON.
	klogLine = regexp.MustCompile(`^([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ([^ ]+\.go):\d+\] (.*)$`)

	// aboutStorage picks the lines that are of interest, by their source file
	// or their text; beside picks out what only looks like it.
	aboutStorage = regexp.MustCompile(`(?i)etcd|storage|cacher|watch ?cache|compact|grpc|lease|rpc error|revision|` +
		`resource ?version|healthz|readyz|reflector|transport|status\.go|timeout|timed out|deadline`)
	beside = regexp.MustCompile(`^Skipping API .* because it has no resources|stream closed|client disconnected`)

	// connectionLost is what may be said, in one way or another, while nobody
	// listens where the store was, or the leader is gone.
	connectionLost = regexp.MustCompile(`(?i)connection refused|connection reset|connection error|error reading from server|` +
		`transport is closing|\bEOF\b|code = Unavailable|context deadline exceeded|context canceled|DeadlineExceeded|timed out|` +
		`broken pipe|use of closed network connection|no leader|leader changed|timeout`)
)

// normalise strips from a message what differs from run to run. The order
// counts: the longer pattern comes first.
var normalise = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( [+-]\d{4} \S+|Z|[+-]\d\d:\d\d)?( m=[+-][\d.]+)?`), "TIME"},
	{regexp.MustCompile(`\b(path|URI)="[^"]*"`), `$1="PATH"`},
	{regexp.MustCompile(`(\d{1,3}\.){3}\d{1,3}(:\d+)?`), "ADDR"},
	{regexp.MustCompile(`0x[0-9a-f]+`), "HEX"},
	{regexp.MustCompile(`(\d+h)?(\d+m)?\d+(\.\d+)?(h|m|s|ms|µs|ns)\b`), "DURATION"},
	{regexp.MustCompile(`\b\d+(\.\d+)?\b`), "N"},
}

// complaint is one line about storage, normalised, or "" if it is none.
func complaint(line string) string {
	level, source, text := "W", "etcd-client", ""
	if m := klogLine.FindStringSubmatch(line); m != nil {
		level, source, text = m[1], m[2], m[3]
		if level == "I" || beside.MatchString(text) || !aboutStorage.MatchString(source+" "+text) {
			return ""
		}
	} else {
		var said struct{ Level, Logger, Msg, Method, Error string }
		if json.Unmarshal([]byte(line), &said) != nil || said.Logger != "etcd-client" ||
			said.Level == "debug" || said.Level == "info" {
			return ""
		}
		text = fmt.Sprintf("%s: %s %s: %s", said.Level, said.Msg, said.Method, said.Error)
	}
	for _, n := range normalise {
		text = n.pattern.ReplaceAllString(text, n.with)
	}
	return level + " " + source + "] " + text
}

// complaints are normalised lines, each with one of the raw ones behind it.
type complaints map[string]string

func (c complaints) addFrom(log []byte) {
	lines := bufio.NewScanner(bytes.NewReader(log))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if line := complaint(lines.Text()); line != "" {
			c[line] = lines.Text()
		}
	}
}

// baseline is the content of the baseline file.
type baseline map[string]complaints // by section

func readBaseline(path string) (baseline, error) {
	b := baseline{sectionAlways: {}, sectionAway: {}}
	raw, err := os.ReadFile(path)
	if err != nil {
		return b, err
	}
	section := ""
	for line := range strings.Lines(string(raw)) {
		switch line = strings.TrimRight(line, "\n"); {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		default:
			if b[section] == nil {
				return b, fmt.Errorf("%s: %q stands in no known section", path, line)
			}
			b[section][line] = line
		}
	}
	return b, nil
}

func (b baseline) write(path string) error {
	var out strings.Builder
	out.WriteString(baselineHead)
	for _, section := range []string{sectionAlways, sectionAway} {
		out.WriteString("\n" + section + "\n")
		for _, line := range slices.Sorted(maps.Keys(b[section])) {
			out.WriteString(line + "\n")
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(out.String()), 0o644)
}

// unknown returns the raw lines that neither the baseline nor, while the store
// is away, the loss of a connection explains.
func (b baseline) unknown(always, away complaints) (raw []string) {
	for _, line := range slices.Sorted(maps.Keys(always)) {
		if _, known := b[sectionAlways][line]; !known {
			raw = append(raw, always[line])
		}
	}
	for _, line := range slices.Sorted(maps.Keys(away)) {
		_, known := b[sectionAlways][line]
		_, knownAway := b[sectionAway][line]
		if !known && !knownAway && !connectionLost.MatchString(line) {
			raw = append(raw, away[line]+"   (while the store was killed)")
		}
	}
	return raw
}

func TestComplaint(t *testing.T) {
	for _, test := range []struct{ name, line, want string }{
		{
			"a connection",
			`W1122 12:27:37.139026   12099 logging.go:55] [core] [Channel #208 SubChannel #209] grpc: failed to connect to {Addr: "127.0.0.1:2379", }`,
			`W logging.go] [core] [Channel #N SubChannel #N] grpc: failed to connect to {Addr: "ADDR", }`,
		},
		{
			"a request",
			`E1122 12:27:44.518567   12099 timeout.go:140] "Post-timeout activity" timeElapsed="1.724584ms" method="POST" path="/api/v1/namespaces/crash/configmaps" result=null`,
			`E timeout.go] "Post-timeout activity" timeElapsed="DURATION" method="POST" path="PATH" result=null`,
		},
		{
			"the etcd client",
			`{"level":"warn","ts":"2026-11-22T12:27:37.139800Z","logger":"etcd-client","caller":"v3@v3.7.0/retry_interceptor.go:68",` +
				`"msg":"retrying of unary invoker failed","peer":"Peer{LocalAddr: '127.0.0.1:51760'}","method":"/etcdserverpb.KV/Txn",` +
				`"attempt":0,"error":"rpc error: code = Unavailable desc = error reading from server: EOF"}`,
			"W etcd-client] warn: retrying of unary invoker failed /etcdserverpb.KV/Txn: rpc error: code = Unavailable desc = error reading from server: EOF",
		},
		{
			"identities",
			`E1122 01:02:03.000004 1 reflector.go:1] "Failed" uid="9be34d30-2697-45f5-99a5-ef56ce299cab" err="at 0x36e3, revision 17 of v1"`,
			`E reflector.go] "Failed" uid="UID" err="at HEX, revision N of v1"`,
		},
		{"information", `I1122 12:27:11.599884   12140 etcd3.go:531] "Compacted" revision=17`, ""},
		{"something else", `E1122 12:27:08.567839   12099 options.go:205] The manifest file is empty, ignoring.`, ""},
		{"a group's name", `W1122 12:27:08.747130   12099 genericapiserver.go:798] Skipping API storage.k8s.io/v1beta1 because it has no resources.`, ""},
		{"the client's information", `{"level":"info","logger":"etcd-client","msg":"trying again"}`, ""},
		{"no klog line", "goroutine 1 [running]: etcd", ""},
	} {
		if got := complaint(test.line); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
	}
}

func TestUnknown(t *testing.T) {
	b := baseline{sectionAlways: {"W a": ""}, sectionAway: {"W b": ""}}
	got := b.unknown(
		complaints{"W a": "1 a", "W b": "1 b", "W c": "1 c", "W d: connection refused": "1 d"},
		complaints{"W a": "2 a", "W b": "2 b", "W c": "2 c", "W d: connection refused": "2 d"})
	want := []string{"1 b", "1 c", "1 d", "2 c   (while the store was killed)"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// readStorageLog reads kube-apiserver's log up to a place in it.
func (c *cluster) readStorageLog(t *testing.T, to int64) (always, away complaints) {
	t.Helper()
	log, err := os.ReadFile(c.apiserver.log)
	if err != nil {
		t.Fatal(err)
	}
	always, away = complaints{}, complaints{}
	var at int64
	for _, s := range c.outages {
		always.addFrom(log[at:s.from])
		away.addFrom(log[s.from:s.to])
		at = s.to
	}
	always.addFrom(log[at:to])
	return always, away
}

// explain shows, when the session has failed, what kube-apiserver said that it
// does not say with etcd: the cause is often among it.
func (c *cluster) explain(t *testing.T) {
	t.Helper()
	if !t.Failed() || c.apiserver == nil || c.logged != 0 {
		return
	}
	b, err := readBaseline(baselinePath)
	if err != nil {
		t.Log(err)
		return
	}
	unknown := b.unknown(c.readStorageLog(t, c.apiserver.logSize(t)))
	const most = 20
	for _, line := range unknown[:min(most, len(unknown))] {
		t.Logf("etcd does not make kube-apiserver say:\n%s", line)
	}
	if len(unknown) > most {
		t.Logf("and %d more of the kind", len(unknown)-most)
	}
}

// testStorageLog reads kube-apiserver's log up to where it was stopped.
func (c *cluster) testStorageLog(t *testing.T) {
	c.begin(t)
	always, away := c.readStorageLog(t, c.logged)
	c.report.add("kube-apiserver's complaints about storage", fmt.Sprintf("%d kinds, %d more while the store was away",
		len(always), len(away)))

	b, err := readBaseline(baselinePath)
	if os.Getenv(envRewrite) == "1" {
		if !targetIsEtcd() {
			t.Fatalf("%s=1 goes with %s=etcd only", envRewrite, envTarget)
		}
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		maps.Copy(b[sectionAlways], always)
		maps.Copy(b[sectionAway], away)
		if err := b.write(baselinePath); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range b.unknown(always, away) {
		t.Errorf("etcd does not make kube-apiserver say:\n%s", line)
	}
}
