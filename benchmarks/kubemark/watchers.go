//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// podWatcher measures how long pods take from when they are seen first until they are
// seen Running, by the same watch. seen and counted are its goroutine's.
type podWatcher struct {
	mu      sync.Mutex           // guards startup
	seen    map[string]time.Time // by UID, until it runs
	startup []time.Duration
	running atomic.Int64
	counted map[string]bool // UIDs in running
}

func newPodWatcher() *podWatcher {
	return &podWatcher{seen: map[string]time.Time{}, counted: map[string]bool{}}
}

// startups returns how long pods have taken so far, sorted.
func (w *podWatcher) startups() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(slices.Values(w.startup))
}

// pod is as much of one as is looked at.
type pod struct {
	Metadata struct {
		UID, ResourceVersion string
	}
	Status struct{ Phase string }
}

// run watches all pods until ctx ends, and goes on where it was when a watch ends.
func (w *podWatcher) run(ctx context.Context, c *client) error {
	revision, err := w.list(ctx, c)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		revision, err = w.watch(ctx, c, revision)
		if hasCode(err, http.StatusGone) {
			// The store has been put back to a snapshot.
			var listed string
			if listed, err = w.list(ctx, c); err == nil {
				revision = listed
			}
		}
		pause(ctx, 100*time.Millisecond)
	}
	return nil
}

// list is where a watch begins.
func (w *podWatcher) list(ctx context.Context, c *client) (revision string, err error) {
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []pod
	}
	if err := c.exchange(ctx, http.MethodGet, "/api/v1/pods", nil, &list); err != nil {
		return "", err
	}
	w.replace(list.Items, time.Now())
	return list.Metadata.ResourceVersion, nil
}

// watch follows one watch to its end, which is no failure, and returns the last revision.
func (w *podWatcher) watch(ctx context.Context, c *client, revision string) (string, error) {
	resp, err := c.open(ctx, http.MethodGet, "/api/v1/pods?watch=true&allowWatchBookmarks=true&resourceVersion="+revision, nil)
	if err != nil {
		return revision, err
	}
	defer resp.Body.Close()
	decoder := json.NewDecoder(resp.Body)
	for {
		var e struct {
			Type   string
			Object json.RawMessage
		}
		if err := decoder.Decode(&e); err != nil {
			return revision, err
		}
		if e.Type == "ERROR" {
			var status struct {
				Code    int
				Message string
			}
			if err := json.Unmarshal(e.Object, &status); err != nil {
				return revision, err
			}
			return revision, &apiError{status.Code, status.Message}
		}
		var p pod
		if err := json.Unmarshal(e.Object, &p); err != nil {
			return revision, err
		}
		revision = p.Metadata.ResourceVersion
		w.note(e.Type, p, time.Now())
	}
}

// replace notes what there is.
func (w *podWatcher) replace(pods []pod, now time.Time) {
	there := map[string]bool{}
	for _, p := range pods {
		uid := p.Metadata.UID
		there[uid] = true
		if _, waiting := w.seen[uid]; !waiting && !w.counted[uid] {
			w.note("ADDED", p, now)
		} else {
			w.note("MODIFIED", p, now)
		}
	}
	for _, known := range []iter.Seq[string]{maps.Keys(w.seen), maps.Keys(w.counted)} {
		for _, uid := range slices.Collect(known) {
			if !there[uid] {
				var gone pod
				gone.Metadata.UID = uid
				w.note("DELETED", gone, now)
			}
		}
	}
}

func (w *podWatcher) note(kind string, p pod, now time.Time) {
	uid := p.Metadata.UID
	switch kind {
	case "ADDED":
		w.seen[uid] = now
	case "DELETED":
		delete(w.seen, uid)
		if w.counted[uid] {
			delete(w.counted, uid)
			w.running.Add(-1)
		}
		return
	}
	first, waiting := w.seen[uid]
	if waiting && p.Status.Phase == "Running" {
		w.mu.Lock()
		w.startup = append(w.startup, now.Sub(first))
		w.mu.Unlock()
		delete(w.seen, uid)
		w.counted[uid] = true
		w.running.Add(1)
	}
}

// lagWatchers follow objects that carry the time at which they were sent.
type lagWatchers struct {
	mu       sync.Mutex
	lags     []time.Duration
	reopened atomic.Int64
}

// sentMark comes before the time, in nanoseconds, in an object's JSON.
const sentMark = `"sent":"`

// run is one watcher. Only what was sent while it watches counts.
func (w *lagWatchers) run(ctx context.Context, c *client, path string) {
	for first := true; ctx.Err() == nil; first = false {
		if !first {
			w.reopened.Add(1)
			pause(ctx, 100*time.Millisecond)
		}
		opened := time.Now()
		resp, err := c.open(ctx, http.MethodGet, path+"?watch=true&resourceVersion=0", nil)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			now := time.Now()
			if sent, ok := sentAt(lines.Bytes()); ok && sent.After(opened) {
				w.mu.Lock()
				w.lags = append(w.lags, now.Sub(sent))
				w.mu.Unlock()
			}
		}
		_ = resp.Body.Close()
	}
}

func sentAt(line []byte) (time.Time, bool) {
	_, rest, ok := bytes.Cut(line, []byte(sentMark))
	if !ok {
		return time.Time{}, false
	}
	digits, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return time.Time{}, false
	}
	nanos, err := strconv.ParseInt(string(digits), 10, 64)
	return time.Unix(0, nanos), err == nil
}
