//go:build linux

package kube

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// stoneDefinition is a custom resource with a schema and a status of its own.
const stoneDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: stones.example.invalid}
spec:
  group: example.invalid
  scope: Namespaced
  names: {plural: stones, singular: stone, kind: Stone, listKind: StoneList}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties: {size: {type: integer, minimum: 1}}
          status:
            type: object
            properties: {laid: {type: boolean}}
`

const (
	stonesPath  = "/apis/example.invalid/v1/namespaces/" + nsSession + "/stones"
	stonesCount = 20
)

func stone(i, size int) string {
	return fmt.Sprintf("---\napiVersion: example.invalid/v1\nkind: Stone\nmetadata: {name: stone-%02d, namespace: %s}\nspec: {size: %d}\n",
		i, nsSession, size)
}

func (c *cluster) testCustomResources(t *testing.T) {
	c.begin(t)
	ctx := t.Context()
	c.kubectlIn(t, stoneDefinition, "apply", "-f", "-")
	c.kubectl(t, "wait", "--for=condition=Established", "crd/stones.example.invalid", "--timeout=90s")
	// Established is said shortly before the handler serves.
	var empty *object
	waitFor(t, "the custom resource to be served", func() bool {
		var err error
		empty, err = c.api.get(ctx, stonesPath)
		if err != nil && !refused(err, http.StatusNotFound) && !refused(err, http.StatusServiceUnavailable) &&
			!refused(err, http.StatusTooManyRequests) {
			t.Fatal(err)
		}
		return err == nil
	})
	w, err := c.api.watch(ctx, stonesPath, "resourceVersion", empty.Metadata.ResourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()

	var all strings.Builder
	for i := range stonesCount {
		all.WriteString(stone(i, i+1))
	}
	c.kubectlIn(t, all.String(), "apply", "-f", "-")
	c.refuseKubectl(t, "spec.size", stone(99, 0), "create", "-f", "-")
	for i := range stonesCount {
		w.nextOf(t, "ADDED", fmt.Sprintf("stone-%02d", i))
	}
	sizes := strings.Fields(c.kubectl(t, "get", "stones", "-n", nsSession, "--no-headers", "-o", "custom-columns=:spec.size"))
	if len(sizes) != stonesCount {
		t.Fatalf("listed %d custom resources, want %d", len(sizes), stonesCount)
	}
	for i, size := range sizes {
		if size != fmt.Sprint(i+1) {
			t.Fatalf("stone %d has size %s", i, size)
		}
	}

	c.kubectl(t, "patch", "stone", "stone-03", "-n", nsSession, "--type=merge", "-p", `{"spec":{"size":40}}`)
	spec := w.nextOf(t, "MODIFIED", "stone-03").Object
	c.kubectl(t, "patch", "stone", "stone-03", "-n", nsSession, "--type=merge", "--subresource=status", "-p", `{"status":{"laid":true}}`)
	status := w.nextOf(t, "MODIFIED", "stone-03").Object
	if !strings.Contains(string(status.Spec), "40") || status.revision(t) <= spec.revision(t) {
		t.Fatalf("the change of the status shows spec %s at %d, after %s at %d",
			status.Spec, status.revision(t), spec.Spec, spec.revision(t))
	}
	c.kubectl(t, "delete", "stone", "stone-04", "-n", nsSession)
	w.nextOf(t, "DELETED", "stone-04")
	c.report.verified.Add(2*stonesCount + 3)
}

// testDefinitionDeletion deletes the definition, which deletes all of its
// resources first.
func (c *cluster) testDefinitionDeletion(t *testing.T) {
	c.begin(t)
	before, err := c.api.get(t.Context(), stonesPath)
	if err != nil {
		t.Fatal(err)
	}
	if len(before.Items) != stonesCount-1 {
		t.Fatalf("there are %d custom resources, want %d", len(before.Items), stonesCount-1)
	}
	c.kubectl(t, "delete", "crd", "stones.example.invalid", "--timeout=90s")
	waitFor(t, "the custom resource not to be served", func() bool {
		_, err := c.api.get(t.Context(), stonesPath)
		return refused(err, http.StatusNotFound)
	})
	c.report.verified.Add(stonesCount)
}
