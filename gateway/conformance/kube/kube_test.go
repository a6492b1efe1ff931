//go:build linux

package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKube is a session for each layout of the store; see README.md.
func TestKube(t *testing.T) {
	if os.Getenv(envRun) != "1" {
		t.Skipf("runs a Kubernetes control plane for some minutes: use `make kube`, or set %s=1", envRun)
	}
	b, err := decodeBinaries(os.Getenv(envInside))
	if err != nil {
		t.Fatal(err)
	}
	dir := workFolder(t)
	for _, l := range layouts {
		if testing.Short() && !l.brief && l.name != layouts[0].name {
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			dir := filepath.Join(dir, strings.ReplaceAll(l.name, " ", "-"))
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			session(t, l, dir, b, testing.Short() && l.brief)
		})
	}
}

// session is a whole session with a store of one layout. A brief one leaves out
// what any layout would show.
func session(t *testing.T, l layout, dir string, b binaries, brief bool) {
	t.Helper()
	r := &report{}
	// Registered first, hence said last.
	t.Cleanup(func() { t.Logf("on %s, %s:\n%s", filepath.Base(b.store), l.name, r) })
	began := now()
	c := startCluster(t, l, dir, b, r)

	t.Run("namespaces", c.testNamespaces)
	expiry := c.createExpiringEvent(t, "early")
	t.Run("config maps", c.testConfigMaps)
	t.Run("optimistic updates", c.testOptimisticUpdates)
	// Early, because what it reads has to be old enough for "compaction".
	t.Run("paging", c.testPaging)
	if !brief {
		t.Run("secrets", c.testSecrets)
		t.Run("service accounts", c.testServiceAccounts)
	}
	t.Run("leases", c.testLeases)
	if !brief {
		t.Run("server-side apply", c.testServerSideApply)
		t.Run("finalizers", c.testFinalizers)
	}
	t.Run("custom resources", c.testCustomResources)
	t.Run("watch", c.testWatch)
	t.Run("deployments", c.testDeployments)
	if !brief {
		t.Run("jobs", c.testJobs)
	}
	t.Run("event ttl", expiry.test)

	expiry = c.createExpiringEvent(t, "before-the-crash")
	c.wantNoFailures(t, "before kill -9", storeRequests{}, c.countStoreRequests(t))
	t.Run("kill -9", c.testKill)
	c.waitReady(t, slow)
	recovered := c.countStoreRequests(t)
	t.Run("deployments after kill -9", c.testDeploymentsAfterKill)
	t.Run("event ttl after kill -9", expiry.test)
	c.wantNoFailures(t, "after kill -9", recovered, c.countStoreRequests(t))
	t.Run("compaction", c.testCompaction) // wants failures
	compacted := c.countStoreRequests(t)
	t.Run("custom resource definition's deletion", c.testDefinitionDeletion)
	t.Run("namespace deletion", c.testNamespaceDeletion)

	c.wantNoFailures(t, "after compaction", compacted, c.countStoreRequests(t))
	c.check(t)
	c.logged = c.apiserver.logSize(t)
	c.stop(t)
	t.Run("storage log", c.testStorageLog)
	r.measure("whole session", now().Sub(began))
}

// workFolder holds what the processes write. It is kept if the test fails.
func workFolder(t *testing.T) string {
	t.Helper()
	if keep := os.Getenv(envKeep); keep != "" {
		dir, err := filepath.Abs(keep)
		if err != nil {
			t.Fatal(err)
		}
		// Data of an earlier run would be this run's beginning.
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatalf("%s names a folder that must not exist yet: %v", envKeep, err)
		}
		return dir
	}
	dir, err := os.MkdirTemp("", "pebbledash-kube-") //nolint:usetesting // It outlives a failed test.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs and data are kept in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Log(err)
		}
	})
	return dir
}
