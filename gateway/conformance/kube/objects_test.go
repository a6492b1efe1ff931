//go:build linux

package kube

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The namespaces of the session.
const (
	nsSession = "session" // what kubectl does
	nsPages   = "pages"   // several hundred config maps, left alone
	nsCrash   = "crash"   // what is written while the store is killed
)

func configMaps(namespace string) string {
	return "/api/v1/namespaces/" + namespace + "/configmaps"
}

func newConfigMap(name string, data dict) object {
	return object{APIVersion: "v1", Kind: "ConfigMap", Metadata: metadata{Name: name}, Data: data}
}

// kubectlGet is `kubectl get -o json`.
func (c *cluster) kubectlGet(t *testing.T, args ...string) *object {
	t.Helper()
	o := &object{}
	if err := json.Unmarshal([]byte(c.kubectl(t, append([]string{"get", "-o", "json"}, args...)...)), o); err != nil {
		t.Fatal(err)
	}
	return o
}

// wantData compares an object's data with what was written.
func (c *cluster) wantData(t *testing.T, o *object, want dict) {
	t.Helper()
	c.report.verified.Add(1)
	got, err := json.Marshal(o.Data)
	if err != nil {
		t.Fatal(err)
	}
	if expected, _ := json.Marshal(want); string(got) != string(expected) {
		t.Fatalf("%s holds %s, want %s", o.Metadata.Name, got, expected)
	}
}

// wantRefused wants kube-apiserver to answer with that code.
func (c *cluster) wantRefused(t *testing.T, err error, code int) {
	t.Helper()
	c.report.verified.Add(1)
	if !refused(err, code) {
		t.Fatalf("got %v, want a refusal with code %d", err, code)
	}
}

func (c *cluster) testNamespaces(t *testing.T) {
	c.begin(t)
	for _, ns := range []string{nsSession, nsPages, nsCrash} {
		c.kubectl(t, "create", "namespace", ns)
		c.kubectl(t, "label", "namespace", ns, "suite=kube")
	}
	c.refuseKubectl(t, "AlreadyExists", "", "create", "namespace", nsSession)
	// The controller manager furnishes namespaces.
	for _, ns := range []string{nsSession, nsPages, nsCrash} {
		c.kubectl(t, "wait", "-n", ns, "--for=create", "serviceaccount/default", "configmap/kube-root-ca.crt", "--timeout=90s")
	}
	names := strings.Fields(c.kubectl(t, "get", "namespaces", "-l", "suite=kube", "-o", "name"))
	want := []string{"namespace/" + nsCrash, "namespace/" + nsPages, "namespace/" + nsSession}
	if !slices.Equal(names, want) {
		t.Fatalf("got %q, want %q", names, want)
	}
	c.report.verified.Add(int64(len(names)))
}

func (c *cluster) testConfigMaps(t *testing.T) {
	c.begin(t)
	ctx, path := t.Context(), configMaps(nsSession)
	get := func() *object { return c.kubectlGet(t, "configmap", "settings", "-n", nsSession) }

	c.kubectl(t, "create", "configmap", "settings", "-n", nsSession, "--from-literal=a=1")
	c.refuseKubectl(t, "already exists", "", "create", "configmap", "settings", "-n", nsSession)
	created := get()
	c.wantData(t, created, dict{"a": "1"})

	// Update, and an update of what is no longer the latest.
	changed := *created
	changed.Data = dict{"a": "2"}
	raw, err := json.Marshal(changed)
	if err != nil {
		t.Fatal(err)
	}
	c.kubectlIn(t, string(raw), "replace", "-f", "-")
	updated := get()
	c.wantData(t, updated, dict{"a": "2"})
	if updated.revision(t) <= created.revision(t) {
		t.Fatalf("an update took the resourceVersion from %d to %d", created.revision(t), updated.revision(t))
	}
	c.refuseKubectl(t, "Conflict", string(raw), "replace", "-f", "-")
	_, err = c.api.update(ctx, path+"/settings", changed)
	c.wantRefused(t, err, http.StatusConflict)
	c.wantData(t, get(), dict{"a": "2"})

	c.kubectl(t, "patch", "configmap", "settings", "-n", nsSession, "--type=merge", "-p", `{"data":{"b":"3"}}`)
	c.kubectl(t, "patch", "configmap", "settings", "-n", nsSession, "--type=json",
		"-p", `[{"op":"test","path":"/data/b","value":"3"},{"op":"replace","path":"/data/a","value":"4"}]`)
	patched := get()
	c.wantData(t, patched, dict{"a": "4", "b": "3"})

	// A patch that changes nothing writes nothing.
	same, err := c.api.patch(ctx, path+"/settings", `{"data":{"b":"3"}}`)
	if err != nil {
		t.Fatal(err)
	}
	if same.revision(t) != patched.revision(t) {
		t.Fatalf("an empty patch took the resourceVersion from %d to %d", patched.revision(t), same.revision(t))
	}

	// Deletion of what is no longer the latest, then of what is.
	_, err = c.api.delete(ctx, path+"/settings", deleteOptions(updated.Metadata.ResourceVersion))
	c.wantRefused(t, err, http.StatusConflict)
	if _, err = c.api.delete(ctx, path+"/settings", deleteOptions(patched.Metadata.ResourceVersion)); err != nil {
		t.Fatal(err)
	}
	c.refuseKubectl(t, "NotFound", "", "get", "configmap", "settings", "-n", nsSession)
	_, err = c.api.get(ctx, path+"/settings")
	c.wantRefused(t, err, http.StatusNotFound)
}

func deleteOptions(revision string) string {
	return fmt.Sprintf(`{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"resourceVersion":%q}}`, revision)
}

// testOptimisticUpdates has several clients count in one object: an update that
// was acknowledged beside another one would be missing in the sum.
func (c *cluster) testOptimisticUpdates(t *testing.T) {
	c.begin(t)
	const clients, each = 4, 10
	ctx, path := t.Context(), configMaps(nsSession)+"/counter"
	if _, err := c.api.create(ctx, configMaps(nsSession), newConfigMap("counter", dict{"n": "0"})); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var conflicts [clients]int
	for i := range clients {
		wg.Go(func() {
			for done := 0; done < each; {
				o, err := c.api.get(ctx, path)
				if err != nil {
					t.Error(err)
					return
				}
				n, err := strconv.Atoi(o.Data["n"])
				if err != nil {
					t.Error(err)
					return
				}
				o.Data["n"] = strconv.Itoa(n + 1)
				switch _, err := c.api.update(ctx, path, o); {
				case err == nil:
					done++
				case refused(err, http.StatusConflict):
					conflicts[i]++
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	o, err := c.api.get(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	c.wantData(t, o, dict{"n": strconv.Itoa(clients * each)})
	t.Logf("%d optimistic updates, conflicts by client: %v", clients*each, conflicts)
}

func (c *cluster) testSecrets(t *testing.T) {
	c.begin(t)
	c.kubectl(t, "create", "secret", "generic", "key", "-n", nsSession, "--from-literal=password=granite")
	want := dict{"password": base64.StdEncoding.EncodeToString([]byte("granite"))}
	c.wantData(t, c.kubectlGet(t, "secret", "key", "-n", nsSession), want)
	c.kubectl(t, "patch", "secret", "key", "-n", nsSession, "-p", `{"immutable":true}`)
	c.refuseKubectl(t, "immutable", "", "patch", "secret", "key", "-n", nsSession, "-p", `{"stringData":{"password":"chalk"}}`)
	c.wantData(t, c.kubectlGet(t, "secret", "key", "-n", nsSession), want)
}

func (c *cluster) testServiceAccounts(t *testing.T) {
	c.begin(t)
	c.kubectl(t, "create", "serviceaccount", "mason", "-n", nsSession)
	token := strings.TrimSpace(c.kubectl(t, "create", "token", "mason", "-n", nsSession))
	mason := newAPI(apiURL, token, c.creds.ca)
	_, err := mason.get(t.Context(), configMaps(nsSession)+"/counter")
	c.wantRefused(t, err, http.StatusForbidden)

	// The authorizer learns of the binding through its watch.
	c.kubectl(t, "create", "rolebinding", "mason", "-n", nsSession, "--clusterrole=view", "--serviceaccount="+nsSession+":mason")
	waitFor(t, "the role binding to count", func() bool {
		_, err := mason.get(t.Context(), configMaps(nsSession)+"/counter")
		if err != nil && !refused(err, http.StatusForbidden) {
			t.Fatal(err)
		}
		return err == nil
	})
	c.report.verified.Add(2)
}

const leasesPath = "/apis/coordination.k8s.io/v1/namespaces/"

func (c *cluster) testLeases(t *testing.T) {
	c.begin(t)
	ctx, path := t.Context(), leasesPath+nsSession+"/leases"
	lease := object{
		APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Metadata: metadata{Name: "quarry"},
		Spec: json.RawMessage(`{"holderIdentity":"first","leaseDurationSeconds":15,"renewTime":"2026-01-02T03:04:05.000000Z"}`),
	}
	first, err := c.api.create(ctx, path, lease)
	if err != nil {
		t.Fatal(err)
	}
	// Two candidates have read the same lease; one of them gets it.
	second := *first
	second.Spec = json.RawMessage(`{"holderIdentity":"second","leaseDurationSeconds":15,"renewTime":"2026-01-02T03:04:20.000000Z"}`)
	if _, err := c.api.update(ctx, path+"/quarry", second); err != nil {
		t.Fatal(err)
	}
	_, err = c.api.update(ctx, path+"/quarry", first)
	c.wantRefused(t, err, http.StatusConflict)
	holder := c.kubectl(t, "get", "lease", "quarry", "-n", nsSession, "-o", "jsonpath={.spec.holderIdentity}")
	if holder != "second" {
		t.Fatalf("the lease is held by %q", holder)
	}
	c.kubectl(t, "delete", "lease", "quarry", "-n", nsSession)
	for _, node := range nodeNames {
		waitFor(t, "node "+node+" to have a lease", func() bool { return c.nodeRenewal(t, node) != "" })
		c.report.verified.Add(1)
	}
}

// nodeRenewal is the time at which a node renewed its lease last, or "" if it
// has none yet.
func (c *cluster) nodeRenewal(t *testing.T, node string) string {
	t.Helper()
	o, err := c.api.get(t.Context(), leasesPath+"kube-node-lease/leases/"+node)
	if refused(err, http.StatusNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		RenewTime string `json:"renewTime"`
	}
	if err := json.Unmarshal(o.Spec, &spec); err != nil {
		t.Fatal(err)
	}
	return spec.RenewTime
}

func (c *cluster) testServerSideApply(t *testing.T) {
	c.begin(t)
	apply := func(data string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared, namespace: " + nsSession + "}\ndata: " + data + "\n"
	}
	as := func(manager string, more ...string) []string {
		return append([]string{"apply", "--server-side", "--field-manager=" + manager, "-f", "-"}, more...)
	}
	get := func() *object { return c.kubectlGet(t, "configmap", "shared", "-n", nsSession) }

	c.kubectlIn(t, apply(`{colour: grey}`), as("alice")...)
	c.kubectlIn(t, apply(`{size: small}`), as("bob")...)
	c.wantData(t, get(), dict{"colour": "grey", "size": "small"})

	c.refuseKubectl(t, `conflict with "alice"`, apply(`{colour: red, size: small}`), as("bob")...)
	c.wantData(t, get(), dict{"colour": "grey", "size": "small"})
	c.kubectlIn(t, apply(`{colour: red, size: small}`), as("bob", "--force-conflicts")...)
	c.wantData(t, get(), dict{"colour": "red", "size": "small"})

	// What nobody applies any more goes.
	c.kubectlIn(t, apply(`{size: small}`), as("bob")...)
	c.kubectlIn(t, apply(`{}`), as("alice")...)
	c.wantData(t, get(), dict{"size": "small"})
}

func (c *cluster) testFinalizers(t *testing.T) {
	c.begin(t)
	ctx, path := t.Context(), configMaps(nsSession)
	o := newConfigMap("kept", nil)
	o.Metadata.Finalizers = []string{"example.invalid/held"}
	created, err := c.api.create(ctx, path, o)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.api.watch(ctx, path, "resourceVersion", created.Metadata.ResourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()

	c.kubectl(t, "delete", "configmap", "kept", "-n", nsSession, "--wait=false")
	marked := w.nextOf(t, "MODIFIED", "kept").Object
	if marked.Metadata.DeletionTimestamp == "" {
		t.Fatal("the object was changed by its deletion, but has no deletionTimestamp")
	}
	// Marked, it still takes changes, but no new finalizers.
	if _, err := c.api.patch(ctx, path+"/kept", `{"data":{"still":"here"}}`); err != nil {
		t.Fatal(err)
	}
	w.nextOf(t, "MODIFIED", "kept")
	c.refuseKubectl(t, "Forbidden", "", "patch", "configmap", "kept", "-n", nsSession,
		"--type=merge", "-p", `{"metadata":{"finalizers":["example.invalid/held","example.invalid/late"]}}`)

	c.kubectl(t, "patch", "configmap", "kept", "-n", nsSession, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	gone := w.nextOf(t, "DELETED", "kept").Object
	if gone.revision(t) <= marked.revision(t) {
		t.Fatalf("deleted at %d after a change at %d", gone.revision(t), marked.revision(t))
	}
	_, err = c.api.get(ctx, path+"/kept")
	c.wantRefused(t, err, http.StatusNotFound)
}
