//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// podWatcher measures how long pods take from when they are seen first until they are
// seen Running, by the same watch.
type podWatcher struct {
	mu      sync.Mutex
	seen    map[string]time.Time // by UID, until it runs
	startup []time.Duration
	running atomic.Int64
	counted map[string]bool // UIDs in running
}

func newPodWatcher() *podWatcher {
	return &podWatcher{seen: map[string]time.Time{}, counted: map[string]bool{}}
}

// watchEvent is as much of an event as is looked at.
type watchEvent struct {
	Type   string
	Object struct {
		Metadata struct {
			UID, Namespace, ResourceVersion string
		}
		Status  struct{ Phase string }
		Message string
	}
}

// run watches all pods until ctx ends, and goes on where it was when a watch ends.
func (w *podWatcher) run(ctx context.Context, c *client) error {
	var list struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := c.exchange(ctx, http.MethodGet, "/api/v1/pods?limit=1", nil, &list); err != nil {
		return err
	}
	revision := list.Metadata.ResourceVersion
	for ctx.Err() == nil {
		resp, err := c.open(ctx, http.MethodGet, "/api/v1/pods?watch=true&allowWatchBookmarks=true&resourceVersion="+revision, nil)
		if err != nil {
			if hasCode(err, http.StatusGone) {
				return fmt.Errorf("watch of pods from %s: %w", revision, err)
			}
			pause(ctx, 100*time.Millisecond)
			continue
		}
		decoder := json.NewDecoder(resp.Body)
		for {
			var e watchEvent
			if err := decoder.Decode(&e); err != nil {
				break // The end of a watch is no failure.
			}
			if e.Type == "ERROR" {
				_ = resp.Body.Close()
				return fmt.Errorf("watch of pods from %s: %s", revision, e.Object.Message)
			}
			revision = e.Object.Metadata.ResourceVersion
			w.note(e, time.Now())
		}
		_ = resp.Body.Close()
	}
	return nil
}

func (w *podWatcher) note(e watchEvent, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	uid := e.Object.Metadata.UID
	switch e.Type {
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
	if waiting && e.Object.Status.Phase == "Running" {
		w.startup = append(w.startup, now.Sub(first))
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
