//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// namespaces are what deployments are spread over.
	namespaces = 4
	// podsPerDeployment is what each begins with.
	podsPerDeployment = 10
	// lagNamespace has the objects that carry the time.
	lagNamespace = "kubemark-lag"
	// clients is how many connections of their own the load has.
	clients = 10
	// drainTimeout bounds waits for pods to run, and for namespaces to go.
	drainTimeout = 8 * time.Minute
)

// load is what clients do. Its rates do not depend on how fast the store is: only what
// waits for an answer is bounded.
type load struct {
	pods    int
	rate    float64 // pods created a second
	clients []*client
	watch   *podWatcher
	lag     *lagWatchers
}

func (l *load) client(n int) *client { return l.clients[n%len(l.clients)] }

func namespace(n int) string { return fmt.Sprintf("kubemark-%d", n%namespaces) }

func deploymentPath(n int) string {
	return fmt.Sprintf("/apis/apps/v1/namespaces/%s/deployments/d%d", namespace(n), n)
}

func (l *load) deployments() int { return max(1, l.pods/podsPerDeployment) }

// object is any object of Kubernetes.
type object map[string]any

func deployment(n, replicas int) object {
	labels := object{"app": fmt.Sprintf("d%d", n)}
	return object{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": object{"name": fmt.Sprintf("d%d", n)},
		"spec": object{
			"replicas": replicas,
			"selector": object{"matchLabels": labels},
			"template": object{
				"metadata": object{"labels": labels},
				"spec": object{
					// A rollout is to be over with the load.
					"terminationGracePeriodSeconds": 1,
					"containers":                    []object{{"name": "c", "image": "registry.example.invalid/pause:1"}},
				},
			},
		},
	}
}

func configMap(name, sent string) object {
	return object{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": name},
		"data": object{"sent": sent, "filler": strings.Repeat("x", 1000)},
	}
}

// prepare makes the namespaces.
func (l *load) prepare(ctx context.Context) error {
	names := []string{lagNamespace}
	for n := range namespaces {
		names = append(names, namespace(n))
	}
	for _, name := range names {
		if err := l.client(0).do(ctx, "create namespaces", http.MethodPost, "/api/v1/namespaces",
			object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": name}}, nil); err != nil {
			return err
		}
		// Pods are refused until the controllers have made the account.
		for l.client(0).status(ctx, "/api/v1/namespaces/"+name+"/serviceaccounts/default") != http.StatusOK {
			if !pause(ctx, 50*time.Millisecond) {
				return ctx.Err()
			}
		}
	}
	return nil
}

// fill creates deployments at the rate, and returns when all pods run.
func (l *load) fill(ctx context.Context, progress func(done, all int)) error {
	interval := time.Duration(podsPerDeployment / l.rate * float64(time.Second))
	for n := range l.deployments() {
		replicas := min(podsPerDeployment, l.pods-n*podsPerDeployment)
		path, _, _ := strings.Cut(deploymentPath(n), "/d"+strconv.Itoa(n))
		if err := l.client(n).do(ctx, "create deployments", http.MethodPost, path, deployment(n, replicas), nil); err != nil {
			return err
		}
		progress(int(l.watch.running.Load()), l.pods)
		if !pause(ctx, interval) {
			return ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for int(l.watch.running.Load()) < l.pods {
		progress(int(l.watch.running.Load()), l.pods)
		if !pause(ctx, 200*time.Millisecond) {
			return fmt.Errorf("%d of %d pods run: %w", l.watch.running.Load(), l.pods, ctx.Err())
		}
	}
	return nil
}

// activity is something that is done again and again.
type activity struct {
	interval time.Duration
	do       func(ctx context.Context, n int)
}

// activities are the steady load. Half of the pods' rate is scaling, half is rollouts.
func (l *load) activities() []activity {
	pods := func(n int) time.Duration { return time.Duration(float64(n) / (l.rate / 2) * float64(time.Second)) }
	const more = 5
	return []activity{
		{pods(more) / 2, l.scale}, // up and down in turn
		{pods(podsPerDeployment), l.roll},
		{50 * time.Millisecond, l.event},
		{100 * time.Millisecond, l.configMaps},
		{100 * time.Millisecond, l.stamp},
		{50 * time.Millisecond, l.get},
		{500 * time.Millisecond, l.listNamespace},
		{5 * time.Second, l.listCluster},
		{5 * time.Second, l.listPages},
		{2 * time.Second, l.listNodes},
	}
}

// run does everything until due ends.
func (l *load) run(ctx, due context.Context) {
	var all sync.WaitGroup
	for _, a := range l.activities() {
		all.Go(func() { every(ctx, due, a.interval, a.do) })
	}
	all.Wait()
}

// scale adds pods to a deployment, and takes them away again the next time.
func (l *load) scale(ctx context.Context, n int) {
	replicas := podsPerDeployment + 5*(1-n%2)
	_ = l.client(n).do(ctx, "patch deployments/scale", http.MethodPatch, deploymentPath(n/2%l.deployments())+"/scale",
		patch(fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)), nil)
}

// roll has a deployment replace all of its pods. It begins with those that scale comes to
// last.
func (l *load) roll(ctx context.Context, n int) {
	which := l.deployments() - 1 - n%l.deployments()
	_ = l.client(n).do(ctx, "patch deployments", http.MethodPatch, deploymentPath(which),
		patch(fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"rolled":"%d"}}}}}`, n)), nil)
}

func (l *load) event(ctx context.Context, n int) {
	now := time.Now().UTC().Format(time.RFC3339)
	_ = l.client(n).do(ctx, "create events", http.MethodPost, "/api/v1/namespaces/"+namespace(n)+"/events", object{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       object{"generateName": "kubemark-"},
		"involvedObject": object{"kind": "Deployment", "namespace": namespace(n), "name": fmt.Sprintf("d%d", n)},
		"reason":         "Kubemark", "message": strings.Repeat("m", 200), "type": "Normal",
		"firstTimestamp": now, "lastTimestamp": now, "count": 1,
		"source": object{"component": "kubemark"},
	}, nil)
}

// configMaps creates one, reads it, replaces it and deletes it.
func (l *load) configMaps(ctx context.Context, n int) {
	c, all, name := l.client(n), "/api/v1/namespaces/"+namespace(n)+"/configmaps", fmt.Sprintf("c%d", n)
	if c.do(ctx, "create configmaps", http.MethodPost, all, configMap(name, ""), nil) != nil {
		return
	}
	_ = c.do(ctx, "get configmaps", http.MethodGet, all+"/"+name, nil, nil)
	_ = c.do(ctx, "update configmaps", http.MethodPut, all+"/"+name, configMap(name, "2"), nil)
	_ = c.do(ctx, "delete configmaps", http.MethodDelete, all+"/"+name, nil, nil)
}

// stampedObjects is how many there are: of each, one update at a time is under way.
const stampedObjects = 20

// stamp writes the time into an object that is watched.
func (l *load) stamp(ctx context.Context, n int) {
	c, all, name := l.client(n), "/api/v1/namespaces/"+lagNamespace+"/configmaps", fmt.Sprintf("lag%d", n%stampedObjects)
	m := configMap(name, strconv.FormatInt(time.Now().UnixNano(), 10))
	if n < stampedObjects {
		_ = c.do(ctx, "create configmaps", http.MethodPost, all, m, nil)
		return
	}
	_ = c.do(ctx, "update configmaps", http.MethodPut, all+"/"+name, m, nil)
}

func (l *load) get(ctx context.Context, n int) {
	_ = l.client(n).do(ctx, "get deployments", http.MethodGet, deploymentPath(rand.IntN(l.deployments())), nil, nil)
}

func (l *load) listNamespace(ctx context.Context, n int) {
	_ = l.client(n).do(ctx, "list pods, namespace", http.MethodGet, "/api/v1/namespaces/"+namespace(n)+"/pods", nil, nil)
}

func (l *load) listCluster(ctx context.Context, n int) {
	_ = l.client(n).do(ctx, "list pods, cluster", http.MethodGet, "/api/v1/pods", nil, nil)
}

func (l *load) listNodes(ctx context.Context, n int) {
	_ = l.client(n).do(ctx, "list nodes", http.MethodGet, "/api/v1/nodes", nil, nil)
}

// listPages reads all pods in pages, as clients do. kube-apiserver has only the first
// from its cache.
func (l *load) listPages(ctx context.Context, n int) {
	for next := ""; ; {
		var list struct{ Metadata struct{ Continue string } }
		if l.client(n).do(ctx, "list pods, page of 100", http.MethodGet, "/api/v1/pods?limit=100&continue="+next, nil, &list) != nil {
			return
		}
		if next = list.Metadata.Continue; next == "" {
			return
		}
	}
}

// remove deletes the namespaces, and returns when everything in them is gone.
func (l *load) remove(ctx context.Context, progress func(done, all int)) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	before := int(l.watch.running.Load())
	for n := range namespaces {
		if err := l.client(n).do(ctx, "delete namespaces", http.MethodDelete, "/api/v1/namespaces/"+namespace(n), nil, nil); err != nil {
			return err
		}
	}
	for n := range namespaces {
		for l.client(n).status(ctx, "/api/v1/namespaces/"+namespace(n)) != http.StatusNotFound {
			progress(before-int(l.watch.running.Load()), before)
			if !pause(ctx, 200*time.Millisecond) {
				return fmt.Errorf("namespace %s is not gone: %w", namespace(n), ctx.Err())
			}
		}
	}
	return nil
}
