//go:build linux

package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	killWriters = 4
	// killAfter is how many creations are acknowledged before each kill and
	// after each recovery.
	killAfter = 150
	// storeTimeout is how long a request to a store without a leader may take: as
	// in etcd, with its default election timeout.
	storeTimeout = 7 * time.Second
)

// span is a piece of kube-apiserver's log.
type span struct{ from, to int64 }

// testKill kills the store, of several members the leader, twice while config maps
// are created: once it comes back at once, once only when kube-apiserver has said
// that it is not ready or, where others go on, when they have for a while.
func (c *cluster) testKill(t *testing.T) {
	c.begin(t)
	before := c.takeCensus(t)
	renewals := map[string]string{}
	for _, node := range nodeNames {
		renewals[node] = c.nodeRenewal(t, node)
	}
	list, err := c.api.get(t.Context(), configMaps(nsCrash))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	acked, seen := newLedger(), newLedger()
	var wg sync.WaitGroup
	ended := make(chan error, killWriters+1)
	f := &follower{api: c.api, path: configMaps(nsCrash)}
	wg.Go(func() {
		err := f.run(ctx, list.Metadata.ResourceVersion, func(e event) error {
			if e.Type != "ADDED" {
				return fmt.Errorf("got %s, want only creations", e)
			}
			return seen.note(&e.Object)
		})
		ended <- err
	})
	var refusals atomic.Int64
	enough := make(chan struct{})
	for i := range killWriters {
		wg.Go(func() { ended <- c.writeUntil(ctx, enough, i, acked, &refusals) })
	}
	func() {
		defer wg.Wait()
		defer cancel()
		c.killOnce(t, "kill -9, restart at once", acked, seen, func() {})
		if len(c.store) == 1 {
			c.killOnce(t, "kill -9, restart after readyz failed", acked, seen, func() {
				waitFor(t, "readyz to fail", func() bool { return c.api.status(t.Context(), "/readyz") != http.StatusOK })
			})
		} else {
			c.killOnce(t, "kill -9, restart when the others have gone on", acked, seen, func() {
				target := acked.len() + killAfter
				waitFor(t, "writes without the leader", func() bool { return acked.len() >= target })
			})
		}
		// Nobody is cut off: what is under way gets its answer.
		close(enough)
		for range killWriters {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		c.waitSeen(t, acked, seen)
	}()
	if err := <-ended; err != nil { // the follower's
		t.Error(err)
	}
	began := now()
	c.verifyWritten(t, acked, seen)
	c.verifyCensus(t, before)
	for _, node := range nodeNames {
		waitFor(t, "node "+node+" to renew its lease", func() bool { return c.nodeRenewal(t, node) > renewals[node] })
	}
	c.check(t)
	c.report.add("kill -9, twice: config maps created", fmt.Sprintf("%d acknowledged, %d not", acked.len(), refusals.Load()))
	c.report.add("kill -9, twice: events seen", fmt.Sprintf("%d, by %d watches", seen.len(), f.reopened+1))
	c.report.measure("kill -9, twice: comparing it all", now().Sub(began))
}

// killOnce kills the store when enough has been acknowledged, waits as asked
// before it starts it again, and returns when all writers' creations are
// acknowledged and watched again.
func (c *cluster) killOnce(t *testing.T, what string, acked, seen *ledger, away func()) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), slow, errors.New(what+": not recovered in "+slow.String()))
	defer cancel()
	more := func(l *ledger) {
		t.Helper()
		target := l.len() + killAfter
		if err := l.wait(ctx, func(noted map[string]string) bool { return len(noted) >= target }); err != nil {
			t.Fatal(err)
		}
	}
	more(acked)
	victim := c.leader(t)
	from := c.apiserver.logSize(t)
	began := now()
	victim.process.kill(t)
	known := acked.snapshot()
	away()
	restarted := now()
	took := c.startStore(t, victim)
	up := now()
	c.report.measure(what+": store restart", took)

	if err := acked.wait(ctx, func(noted map[string]string) bool { return len(noted) > len(known)+killWriters }); err != nil {
		t.Fatal(err)
	}
	c.report.measure(what+": writes again, from kill", now().Sub(began))
	c.report.measure(what+": writes again, from restart", now().Sub(restarted))
	c.report.measure(what+": writes again, from store ready", now().Sub(up))
	c.waitReady(t, slow)
	c.report.measure(what+": readyz again, from store ready", now().Sub(up))
	more(acked)
	// A writer may still wait for an answer from before the kill.
	err := acked.wait(ctx, func(noted map[string]string) bool {
		back := map[string]bool{}
		for name := range noted {
			if _, old := known[name]; !old {
				back[name[:len("writer-0")]] = true
			}
		}
		return len(back) == killWriters
	})
	if err != nil {
		t.Fatalf("not every writer came back: %v", err)
	}
	c.waitSeen(t, acked, seen)
	c.touchEverything(t)
	c.report.measure(what+": every resource again, from store ready", now().Sub(up))
	if len(c.store) > 1 {
		// Another member answers in the end what it had handed to the leader.
		waitFor(t, "requests to time out", func() bool { return now().Sub(began) > storeTimeout })
	}
	c.outages = append(c.outages, span{from, c.apiserver.logSize(t)})
}

// touchEverything lists one object of every resource: kube-apiserver has a
// connection to the store for each, and each finds back when it tries again.
func (c *cluster) touchEverything(t *testing.T) {
	t.Helper()
	for _, path := range c.resources(t) {
		waitFor(t, path, func() bool {
			_, err := c.api.get(t.Context(), path, "limit", "1")
			if err != nil && !away(err) {
				t.Fatalf("%s: %v", path, err)
			}
			return err == nil
		})
	}
}

// resources are the paths of everything that can be listed, in the first
// version that each group offers.
func (c *cluster) resources(t *testing.T) []string {
	t.Helper()
	discover := func(path string) *object {
		o, err := c.api.get(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	versions := []string{"/api/v1"}
	for _, group := range discover("/apis").Groups {
		versions = append(versions, "/apis/"+group.Versions[0].GroupVersion)
	}
	var paths []string
	for _, version := range versions {
		for _, resource := range discover(version).Resources {
			if slices.Contains(resource.Verbs, "list") {
				paths = append(paths, version+"/"+resource.Name)
			}
		}
	}
	return paths
}

// waitSeen waits until the watch has shown everything acknowledged by now.
func (c *cluster) waitSeen(t *testing.T, acked, seen *ledger) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	told := acked.snapshot()
	err := seen.wait(ctx, func(noted map[string]string) bool {
		for name := range told {
			if _, ok := noted[name]; !ok {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Fatalf("the watch does not show all of %d acknowledged creations: %v", len(told), err)
	}
}

// writeUntil creates config maps one after another. A creation that was not
// acknowledged may or may not have happened; its name is not used again.
func (c *cluster) writeUntil(ctx context.Context, enough <-chan struct{}, writer int, acked *ledger, refusals *atomic.Int64) error {
	last := "0"
	for i := 0; ctx.Err() == nil; i++ {
		select {
		case <-enough:
			return nil
		default:
		}
		name := fmt.Sprintf("writer-%d-%05d", writer, i)
		o, err := c.createWithin(ctx, 5*time.Second, newConfigMap(name, dict{"name": name, "text": strings.Repeat("stone ", 50)}))
		if err != nil {
			refusals.Add(1)
			pause(ctx)
			continue
		}
		if older, err := goesBack(last, o.Metadata.ResourceVersion); err != nil || older {
			return fmt.Errorf("%s was created at %s after one at %s (%w)", name, o.Metadata.ResourceVersion, last,
				errors.Join(err, errOrder))
		}
		last = o.Metadata.ResourceVersion
		if err := acked.note(o); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) createWithin(ctx context.Context, limit time.Duration, o object) (*object, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.api.create(ctx, configMaps(nsCrash), o)
}

// verifyWritten compares what clients were told with what is there, asked for
// in each way that kube-apiserver has: from its cache, at once and in pages, and
// one by one, which goes to the store.
func (c *cluster) verifyWritten(t *testing.T, acked, seen *ledger) {
	t.Helper()
	ctx, path := t.Context(), configMaps(nsCrash)
	told := acked.snapshot()
	there := map[string]string{}
	whole, err := c.api.get(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range whole.Items {
		there[o.Metadata.Name] = o.Metadata.ResourceVersion
		if data := o.Data["name"]; strings.HasPrefix(o.Metadata.Name, "writer-") && data != o.Metadata.Name {
			t.Errorf("%s holds the data of %q", o.Metadata.Name, data)
		}
	}
	c.compareRevisions(t, "the list", told, there)
	c.compareRevisions(t, "the watch", told, seen.snapshot())
	for name, revision := range seen.snapshot() {
		if there[name] != revision {
			t.Errorf("the watch showed %s at %s, the list shows %q", name, revision, there[name])
		}
	}
	if back, err := goesBack(slices.MaxFunc(slices.Collect(maps.Values(told)), byRevision), whole.Metadata.ResourceVersion); err != nil || back {
		t.Errorf("the list is at %s, before an acknowledged creation (%v)", whole.Metadata.ResourceVersion, err)
	}
	for _, query := range [][]string{
		{"resourceVersion", "0"},
		{"resourceVersion", whole.Metadata.ResourceVersion, "resourceVersionMatch", "Exact"},
		{"limit", "100"},
	} {
		listed := map[string]string{}
		for page := query; ; {
			list, err := c.api.get(ctx, path, page...)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range list.Items {
				listed[o.Metadata.Name] = o.Metadata.ResourceVersion
			}
			if list.Metadata.Continue == "" {
				break
			}
			page = append(slices.Clone(query), "continue", list.Metadata.Continue)
		}
		c.compareRevisions(t, fmt.Sprintf("the list with %q", query), told, listed)
	}
	c.compareRevisions(t, "one get each", told, c.getEach(t, path, told))
}

// getEach reads objects one by one with several clients.
func (c *cluster) getEach(t *testing.T, path string, want map[string]string) map[string]string {
	t.Helper()
	got := newLedger()
	work := make(chan string)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for name := range work {
				o, err := c.api.get(t.Context(), path+"/"+name)
				if err == nil {
					err = got.note(o)
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	for name := range want {
		work <- name
	}
	close(work)
	wg.Wait()
	return got.snapshot()
}

func byRevision(a, b string) int {
	if back, _ := goesBack(a, b); back {
		return 1
	}
	return -1
}

func (c *cluster) compareRevisions(t *testing.T, what string, want, got map[string]string) {
	t.Helper()
	wrong := 0
	for name, revision := range want {
		c.report.verified.Add(1)
		if got[name] == revision {
			continue
		}
		if wrong++; wrong <= 5 {
			t.Errorf("%s: %s is at %q, want %s", what, name, got[name], revision)
		}
	}
	if wrong > 0 {
		t.Errorf("%s: %d of %d acknowledged objects are wrong", what, wrong, len(want))
	}
}

// censusPaths are the collections that a census counts. In the still ones
// nobody writes between two censuses.
var censusPaths = []struct {
	path  string
	still bool
}{
	{configMaps(nsPages), true},
	{configMaps(nsSession), true},
	{"/api/v1/secrets", true},
	{stonesPath, true},
	{"/apis/rbac.authorization.k8s.io/v1/clusterroles", true},
	{"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", true},
	{"/apis/apiextensions.k8s.io/v1/customresourcedefinitions", true},
	{"/api/v1/services", true},
	{"/api/v1/namespaces", true},
	{"/api/v1/serviceaccounts", true},
	{"/api/v1/nodes", false},
	{"/api/v1/pods", false},
	{"/apis/apps/v1/deployments", false},
	{"/apis/apps/v1/replicasets", false},
	{leasesPath + "kube-node-lease/leases", false},
}

// takeCensus reads every object of the collections, by uid.
func (c *cluster) takeCensus(t *testing.T) []map[string]object {
	t.Helper()
	var census []map[string]object
	for _, collection := range censusPaths {
		list, err := c.api.get(t.Context(), collection.path)
		if err != nil {
			t.Fatal(err)
		}
		byUID := map[string]object{}
		for _, o := range list.Items {
			byUID[o.Metadata.UID] = o
		}
		census = append(census, byUID)
	}
	return census
}

// verifyCensus wants all objects of an earlier census still to be there, except
// those that were on their way out, and none to have gone back.
func (c *cluster) verifyCensus(t *testing.T, before []map[string]object) {
	t.Helper()
	after := c.takeCensus(t)
	for i, collection := range censusPaths {
		for uid, was := range before[i] {
			if was.Metadata.DeletionTimestamp != "" {
				continue // on its way out
			}
			c.report.verified.Add(1)
			is, ok := after[i][uid]
			if !ok {
				t.Errorf("%s: %s is gone", collection.path, was.Metadata.Name)
				continue
			}
			switch from, to := was.revision(t), is.revision(t); {
			case to < from:
				t.Errorf("%s: %s went back from %d to %d", collection.path, was.Metadata.Name, from, to)
			case to != from && collection.still:
				t.Errorf("%s: %s went from %d to %d, and nobody wrote it", collection.path, was.Metadata.Name, from, to)
			}
		}
	}
}
