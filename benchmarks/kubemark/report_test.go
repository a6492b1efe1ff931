//go:build linux

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/benchmarks/about"
	"github.com/pebbledash/pebbledash/benchmarks/kubemark/exposition"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

func aResult(scale float64) *result {
	h := exposition.Histogram{Buckets: map[float64]float64{0.1: 90, 1: 100, math.Inf(1): 100}, Sum: 10}
	requests := map[string]exposition.Histogram{"POST\tpods\tresource": h}
	return &result{
		took: time.Second, storeUsed: process.Usage{CPU: time.Duration(10 * scale * float64(time.Second))},
		requests: requests, promised: requests,
		storage: map[string]exposition.Histogram{"create pods": h},
		own:     map[string][]time.Duration{"create pods": {time.Second, 2 * time.Second}},
		startup: []time.Duration{time.Second, 7 * time.Second}, lag: []time.Duration{time.Millisecond},
		groups:   map[string]float64{"pods": 3},
		failures: map[string]int{"create pods: 500 <no>": 2},
		series:   []moment{{at: time.Second, storeCores: 0.5, pods: 10}, {at: 2 * time.Second, storeCores: 1, pods: 20}},
	}
}

func aReport() *report {
	return &report{
		plan:    &plan{stores: []string{"pebbledash", "etcd"}, nodes: 5, pods: 20},
		about:   &about.About{Rows: [][2]string{{"commit", "abc"}}},
		results: map[string][]*result{"pebbledash": {aResult(1), aResult(1)}, "etcd": {aResult(2), aResult(4)}},
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, aReport().write(&out))
	text := regexp.MustCompile(` +`).ReplaceAllString(out.String(), " ")
	for _, want := range []string{
		"commit abc\n",
		// Ratios of the same turns: 10/20 and 10/40.
		" store CPU s/s 10.0 30.0 (20.0-40.0) 0.38 (0.25-0.50)\n",
		" store CPU µs/request 100000 300000 (200000-400000) 0.38 (0.25-0.50)\n",
		" calls of the load that failed 0.00 0.00 -\n",
		" pod start p99 s 7.00 7.00 1.00\n",
		" changes 1 s 0.91 s kept POST pods 0.91 s kept POST pods\n",
		" start of a pod 5 s 7 s broken 1.4 times over of 4 pods",
		" POST pods 200 55.6 910 200 55.6 910\n",
		" etcd 4 create pods: 500 <no>\n",
	} {
		require.Contains(t, text, want)
	}
}

// TestNothingMeasured sees to it that what was not measured is no zero.
func TestNothingMeasured(t *testing.T) {
	require.True(t, math.IsNaN(seconds(nil, 0.99)))
	require.InDelta(t, 2, seconds([]time.Duration{time.Second, 2 * time.Second}, 0.99), 0)
	require.True(t, math.IsNaN(perCall(time.Second, 0)))
	require.InDelta(t, 5e5, perCall(time.Second, 2), 0)

	r := aReport()
	for _, turn := range r.results["etcd"] {
		turn.own, turn.lag, turn.storage = nil, nil, nil
	}
	var out bytes.Buffer
	require.NoError(t, r.write(&out))
	require.Regexp(t, `create pods +4 +1000 +2000 +0 +- +-\n`, out.String())
	require.Regexp(t, `watch lag p99 ms +1.00 +- +-\n`, out.String())
	require.Regexp(t, `store CPU µs/request +100000 +- +-\n`, out.String())
}

func TestReportOfSteps(t *testing.T) {
	r := aReport()
	r.plan.during = "grow"
	r.results["etcd"][1].steps = []step{{"m2 starts", 500 * time.Millisecond, 3}}
	var out bytes.Buffer
	require.NoError(t, r.writeSteps(&out))
	require.Regexp(t, `etcd +turn 2 +m2 starts +0.5 +3\n`, out.String())
}

// TestSteps has failures before, in, between and after steps.
func TestSteps(t *testing.T) {
	turn := &turn{ledger: newLedger(), result: &result{}}
	fail := func() error {
		turn.ledger.add("get", 0, errors.New("no"))
		return nil
	}
	_ = fail()
	require.NoError(t, turn.step("one", fail))
	_ = fail()
	require.ErrorContains(t, turn.step("two", func() error { return errors.New("why") }), "two: why")
	_ = fail()
	turn.settleFailures()
	require.Len(t, turn.result.steps, 2)
	require.Equal(t, 2, turn.result.steps[0].failed)
	require.Equal(t, 1, turn.result.steps[1].failed)
}

// TestPage looks whether every drawing is well formed.
func TestPage(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, aReport().page(&out, "<text>"))
	require.Contains(t, out.String(), "&lt;text&gt;")
	require.NotContains(t, out.String(), "NaN")
	require.NotContains(t, out.String(), "Inf")
	drawings := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(out.String(), -1)
	require.Len(t, drawings, 4+2+len(plots))
	for _, drawing := range drawings {
		require.NoError(t, xml.Unmarshal([]byte(drawing), &struct{ XMLName xml.Name }{}), drawing)
	}
}

func TestSpark(t *testing.T) {
	require.Equal(t, "▁▄█", spark([]float64{0, 1, 2}, 80))
	require.Equal(t, "▃█", spark([]float64{0, 1, 1, 2}, 2))
	require.Empty(t, spark(nil, 10))
}

func TestBar(t *testing.T) {
	require.Equal(t, "["+strings.Repeat("#", 12)+strings.Repeat(".", 12)+"]  50 %", bar(1, 2))
	require.Contains(t, bar(3, 2), "100 %")
	require.Contains(t, bar(0, 0), "0 %")
}

func TestSentAt(t *testing.T) {
	at, ok := sentAt([]byte(`{"object":{"data":{"filler":"x","sent":"1700000000000000001"}}}`))
	require.True(t, ok)
	require.Equal(t, int64(1700000000000000001), at.UnixNano())
	_, ok = sentAt([]byte(`{"sent":""}`))
	require.False(t, ok)
}

// TestPodWatcher follows one pod that runs and goes, and one that goes before it runs.
func TestPodWatcher(t *testing.T) {
	w, now := newPodWatcher(), time.Now()
	note := func(kind, uid, phase string, after time.Duration) {
		w.note(kind, aPod(uid, phase), now.Add(after))
	}
	note("ADDED", "a", "Pending", 0)
	note("ADDED", "b", "Pending", time.Second)
	note("MODIFIED", "a", "Pending", time.Second)
	note("MODIFIED", "a", "Running", 3*time.Second)
	note("MODIFIED", "a", "Running", 4*time.Second)
	require.EqualValues(t, 1, w.running.Load())
	note("DELETED", "a", "Running", 5*time.Second)
	note("DELETED", "b", "Pending", 5*time.Second)
	require.EqualValues(t, 0, w.running.Load())
	require.Empty(t, w.seen)
	require.Equal(t, []time.Duration{3 * time.Second}, w.startup)
}

func aPod(uid, phase string) (p pod) {
	p.Metadata.UID, p.Status.Phase = uid, phase
	return p
}

// TestPodWatcherBeginsAnew has pods come, run and go while nobody watched.
func TestPodWatcherBeginsAnew(t *testing.T) {
	w, now := newPodWatcher(), time.Now()
	w.replace([]pod{aPod("a", "Running"), aPod("b", "Pending"), aPod("c", "Pending")}, now)
	require.EqualValues(t, 1, w.running.Load())
	w.replace([]pod{aPod("b", "Running"), aPod("d", "Pending")}, now.Add(time.Second))
	require.EqualValues(t, 1, w.running.Load())
	require.Equal(t, map[string]time.Time{"d": now.Add(time.Second)}, w.seen)
	require.Equal(t, map[string]bool{"b": true}, w.counted)
}

func TestCommand(t *testing.T) {
	require.Equal(t, "benchmarks/kubemark/run.sh -nodes=5 -save",
		command([]string{"-commit=abc", "-bin=etcd=/x", "-dir=/y", "-nodes=5", "-save=/z"}))
}

func TestPlan(t *testing.T) {
	bins := []string{"-bin=kube-apiserver=a", "-bin=kube-controller-manager=a", "-bin=kube-scheduler=a", "-bin=hollow-nodes=a", "-bin=etcd=a"}
	p, err := parse(append(bins, "-store=etcd", "-nodes=2", "-pods=20"))
	require.NoError(t, err)
	require.InDelta(t, 2, p.rate, 0)
	require.Equal(t, 15*time.Second, p.steady)
	for arg, want := range map[string]string{
		"-pods=201": "more than", "-members=2": "one or three", "-during=grow": "no -bin etcdctl", "-during=no": "no -bin etcdctl", "-store=both": "no -bin pebbledash",
		"-rate=-1": "positive", "more": "what is",
	} {
		_, err := parse(append(bins, "-store=etcd", "-nodes=2", "-pods=20", arg))
		require.ErrorContains(t, err, want)
	}
}
