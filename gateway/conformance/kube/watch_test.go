//go:build linux

package kube

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// change is one write of this test, as its watchers must see it.
type change struct{ eventType, name, revision string }

func (c *cluster) testWatch(t *testing.T) {
	c.begin(t)
	c.testKubectlWatch(t)

	ctx, path := t.Context(), configMaps(nsSession)
	start, err := c.api.get(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	open := func(query ...string) *watch {
		w, err := c.api.watch(ctx, path, query...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.close)
		return w
	}
	live := open("resourceVersion", start.Metadata.ResourceVersion)
	// kube-apiserver sends a bookmark shortly before it ends a watch.
	ending := open("resourceVersion", start.Metadata.ResourceVersion, "allowWatchBookmarks", "true", "timeoutSeconds", "6")

	written := c.writeWatched(t, path)
	c.wantChanges(t, "a live watch", live, written)
	c.wantChanges(t, "a watch from a past revision", open("resourceVersion", start.Metadata.ResourceVersion), written)
	half := len(written) / 2
	c.wantChanges(t, "a watch from a revision in the middle", open("resourceVersion", written[half-1].revision), written[half:])

	c.wantInitialEvents(t, open("sendInitialEvents", "true", "allowWatchBookmarks", "true",
		"resourceVersionMatch", "NotOlderThan", "resourceVersion", written[len(written)-1].revision))

	// The cache of custom resources began long after revision 1, and says so.
	tooOld, err := c.api.watch(ctx, stonesPath, "resourceVersion", "1")
	if err == nil {
		e, nextErr := tooOld.next()
		tooOld.close()
		if nextErr != nil || e.Type != "ERROR" {
			t.Fatalf("a watch from revision 1: got %s (%v)", e, nextErr)
		}
		err = &apiError{code: e.Object.Code, reason: e.Object.Reason, message: e.Object.Message}
	}
	c.wantRefused(t, err, http.StatusGone)

	c.wantChanges(t, "a watch with bookmarks", ending, written)
	c.wantBookmark(t, ending, parseRevision(t, written[len(written)-1].revision))
}

// writeWatched creates, changes and deletes config maps.
func (c *cluster) writeWatched(t *testing.T, path string) []change {
	t.Helper()
	var written []change
	note := func(eventType string, o *object, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, change{eventType, o.Metadata.Name, o.Metadata.ResourceVersion})
	}
	ctx := t.Context()
	for i := range 10 {
		name := fmt.Sprintf("watched-%d", i)
		o, err := c.api.create(ctx, path, newConfigMap(name, dict{"step": "0"}))
		note("ADDED", o, err)
		for step := 1; step <= 3; step++ {
			o, err = c.api.patch(ctx, path+"/"+name, fmt.Sprintf(`{"data":{"step":"%d"}}`, step))
			note("MODIFIED", o, err)
		}
		if i%2 == 0 {
			if _, err := c.api.delete(ctx, path+"/"+name, nil); err != nil {
				t.Fatal(err)
			}
			// Only the event says at which revision the deletion was.
			written = append(written, change{"DELETED", name, ""})
		}
	}
	return written
}

// wantChanges reads as many events as changes and compares one by one. It
// fills in the revisions of deletions.
func (c *cluster) wantChanges(t *testing.T, what string, w *watch, want []change) {
	t.Helper()
	var last int64
	for i, expected := range want {
		e, err := w.next()
		if err != nil {
			t.Fatalf("%s: event %d of %d: %v", what, i, len(want), err)
		}
		got := change{e.Type, e.Object.Metadata.Name, e.Object.Metadata.ResourceVersion}
		if expected.revision == "" && got.eventType == "DELETED" {
			want[i].revision, expected.revision = got.revision, got.revision
		}
		if got != expected {
			t.Fatalf("%s: event %d of %d is %v, want %v", what, i, len(want), got, expected)
		}
		revision := e.Object.revision(t)
		if revision <= last {
			t.Fatalf("%s: event %d of %d is at %d, the one before at %d", what, i, len(want), revision, last)
		}
		last = revision
	}
	c.report.verified.Add(int64(len(want)))
}

// wantBookmark wants nothing but bookmarks up to the end of the watch, at or
// behind a revision.
func (c *cluster) wantBookmark(t *testing.T, w *watch, behind int64) {
	t.Helper()
	seen := 0
	for {
		e, err := w.next()
		if err != nil {
			break
		}
		if e.Type != "BOOKMARK" || e.Object.revision(t) < behind {
			t.Fatalf("got %s, want a bookmark at %d or behind", e, behind)
		}
		behind = e.Object.revision(t)
		seen++
	}
	if seen == 0 {
		t.Fatal("the watch ended without a bookmark")
	}
}

// wantInitialEvents reads a watch that begins with all objects there are.
func (c *cluster) wantInitialEvents(t *testing.T, w *watch) {
	t.Helper()
	seen := map[string]bool{}
	for {
		e, err := w.next()
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == "BOOKMARK" && e.Object.Metadata.Annotations["k8s.io/initial-events-end"] == "true" {
			break
		}
		if e.Type != "ADDED" {
			t.Fatalf("among the initial events: %s", e)
		}
		seen[e.Object.Metadata.Name] = true
	}
	list, err := c.api.get(t.Context(), configMaps(nsSession))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names(list) {
		if !seen[name] {
			t.Errorf("%s is not among the initial events", name)
		}
	}
	if len(seen) != len(list.Items) {
		t.Errorf("%d initial events for %d config maps", len(seen), len(list.Items))
	}
	c.report.verified.Add(int64(len(seen)))
}

// testKubectlWatch follows one object with `kubectl get --watch`.
func (c *cluster) testKubectlWatch(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	if _, err := c.api.create(ctx, configMaps(nsSession), newConfigMap("followed", dict{"step": "0"})); err != nil {
		t.Fatal(err)
	}
	// By a selector: of an object that is named kubectl leaves out the first event,
	// which may have the first change.
	cmd := c.kubectlCommand(ctx, "get", "configmaps", "--field-selector", "metadata.name=followed", "-n", nsSession, "--watch",
		"-o", `jsonpath={.data.step}{"\n"}`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for step := range 4 {
		if !lines.Scan() || lines.Text() != fmt.Sprint(step) {
			t.Errorf("kubectl get --watch printed %q, want %d (%v)", lines.Text(), step, lines.Err())
			break
		}
		if _, err := c.api.patch(ctx, configMaps(nsSession)+"/followed", fmt.Sprintf(`{"data":{"step":"%d"}}`, step+1)); err != nil {
			t.Error(err)
			break
		}
		c.report.verified.Add(1)
	}
	// It would watch for ever; its end by a signal is what we want.
	cancel()
	_ = cmd.Wait()
}

// expiry is an event that is on its way out, and the watch that waits for it.
type expiry struct {
	name    string
	created time.Time // before the request
	gone    chan time.Time
	failed  chan error
	cluster *cluster
}

// createExpiringEvent creates an event and watches it from then on.
func (c *cluster) createExpiringEvent(t *testing.T, name string) *expiry {
	t.Helper()
	path := "/api/v1/namespaces/" + nsSession + "/events"
	x := &expiry{name: name, created: now(), gone: make(chan time.Time, 1), failed: make(chan error, 1), cluster: c}
	o, err := c.api.create(t.Context(), path, object{
		APIVersion: "v1", Kind: "Event", Metadata: metadata{Name: name}, Type: "Normal", Reason: "Testing",
		InvolvedObject: dict{"kind": "Namespace", "name": nsSession, "namespace": nsSession},
		Message:        "gone in a moment",
	})
	if err != nil {
		t.Fatal(err)
	}
	go x.follow(t.Context(), path, o.Metadata.ResourceVersion)
	return x
}

// follow watches the event until it is gone.
func (x *expiry) follow(ctx context.Context, path, revision string) {
	f := &follower{api: x.cluster.api, path: path, query: []string{"fieldSelector", "metadata.name=" + x.name}}
	err := f.run(ctx, revision, func(e event) error {
		if e.Type != "DELETED" {
			return fmt.Errorf("watching an event: got %s", e)
		}
		x.gone <- now()
		return errStop
	})
	if err != nil {
		x.failed <- err
	}
}

// test waits for the DELETED: not before the TTL, and soon after it.
func (x *expiry) test(t *testing.T) {
	x.cluster.begin(t)
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	select {
	case err := <-x.failed:
		t.Fatal(err)
	case <-ctx.Done():
		t.Fatalf("the event %s is still there %s after its creation", x.name, now().Sub(x.created))
	case at := <-x.gone:
		lived := at.Sub(x.created)
		x.cluster.report.measure("event "+x.name+": lived, of a TTL of "+eventTTL.String(), lived)
		if lived < eventTTL {
			t.Fatalf("the event %s lived only %s", x.name, lived)
		}
	}
	list, err := x.cluster.api.get(t.Context(), "/api/v1/namespaces/"+nsSession+"/events")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.Join(names(list), " "), x.name) {
		t.Fatalf("the event %s is listed after it was seen to be deleted", x.name)
	}
	x.cluster.report.verified.Add(1)
}
