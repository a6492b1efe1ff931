//go:build linux

package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
)

// Nothing is pulled: the hollow nodes' runtime only pretends.
const image = "example.invalid/web"

func (c *cluster) testDeployments(t *testing.T) {
	c.begin(t)
	c.kubectl(t, "create", "deployment", "web", "-n", nsSession, "--image="+image+":1", "--replicas=3")
	c.wantRollout(t, 3, image+":1")
	c.scale(t, "10")
	c.wantRollout(t, 10, image+":1")
	c.kubectl(t, "set", "image", "deployment/web", "-n", nsSession, "web="+image+":2")
	c.wantRollout(t, 10, image+":2")
	c.scale(t, "2")
	c.wantRollout(t, 2, image+":2")
	c.kubectl(t, "rollout", "undo", "deployment/web", "-n", nsSession)
	c.wantRollout(t, 2, image+":1")
}

// testDeploymentsAfterKill shows that controllers, scheduler and nodes still
// get each other's news.
func (c *cluster) testDeploymentsAfterKill(t *testing.T) {
	c.begin(t)
	c.wantRollout(t, 2, image+":1")
	c.scale(t, "6")
	c.wantRollout(t, 6, image+":1")
	c.kubectl(t, "set", "image", "deployment/web", "-n", nsSession, "web="+image+":3")
	c.wantRollout(t, 6, image+":3")
}

func (c *cluster) scale(t *testing.T, replicas string) {
	t.Helper()
	c.kubectl(t, "scale", "deployment/web", "-n", nsSession, "--replicas="+replicas)
}

// wantRollout waits for the deployment, then for its pods: a hollow node calls
// them ready even before they run. Those on their way out do not count.
func (c *cluster) wantRollout(t *testing.T, replicas int, image string) {
	t.Helper()
	c.kubectl(t, "rollout", "status", "deployment/web", "-n", nsSession, "--timeout=90s")
	c.kubectl(t, "wait", "-n", nsSession, "deployment/web", "--timeout=90s",
		"--for=jsonpath={.status.availableReplicas}="+strconv.Itoa(replicas))
	want := make([]string, replicas)
	for i := range want {
		want[i] = image + " Running"
	}
	var got []string
	defer func() { t.Logf("pods: %q", got) }()
	waitFor(t, fmt.Sprintf("%d running pods of %s", replicas, image), func() bool {
		got = c.pods(t, "app=web")
		return slices.Equal(got, want)
	})
	c.report.verified.Add(int64(len(got)))
}

// pods lists image and phase of the pods that are not on their way out.
func (c *cluster) pods(t *testing.T, selector string) []string {
	t.Helper()
	list, err := c.api.get(t.Context(), "/api/v1/namespaces/"+nsSession+"/pods", "labelSelector", selector)
	if err != nil {
		t.Fatal(err)
	}
	var pods []string
	for _, o := range list.Items {
		var spec struct {
			Containers []struct{ Image string }
		}
		var status struct{ Phase string }
		if err := errors.Join(json.Unmarshal(o.Spec, &spec), json.Unmarshal(o.Status, &status)); err != nil {
			t.Fatal(err)
		}
		if o.Metadata.DeletionTimestamp == "" {
			pods = append(pods, spec.Containers[0].Image+" "+status.Phase)
		}
	}
	return pods
}

// A hollow node's containers run for ever, unless their node stops them: here
// because the hook after their start fails. The pretended exit code is 0.
const quarryJob = `
apiVersion: batch/v1
kind: Job
metadata: {name: quarry, namespace: ` + nsSession + `}
spec:
  completions: 4
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: work
        image: ` + image + `:1
        lifecycle: {postStart: {httpGet: {host: 127.0.0.1, port: 1, path: /}}}
`

func (c *cluster) testJobs(t *testing.T) {
	c.begin(t)
	c.kubectlIn(t, quarryJob, "create", "-f", "-")
	c.kubectl(t, "wait", "--for=condition=Complete", "job/quarry", "-n", nsSession, "--timeout=90s")
	if got := c.kubectl(t, "get", "job", "quarry", "-n", nsSession, "-o", "jsonpath={.status.succeeded}"); got != "4" {
		t.Fatalf("%s pods of the job succeeded, want 4", got)
	}
	// Its pods go with it.
	c.kubectl(t, "delete", "job", "quarry", "-n", nsSession, "--cascade=foreground", "--timeout=90s")
	if out := c.kubectl(t, "get", "pods", "-n", nsSession, "-l", "job-name=quarry", "-o", "name"); out != "" {
		t.Fatalf("pods outlived their job:\n%s", out)
	}
	c.report.verified.Add(5)
}
