//go:build linux

package kube

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	pagesCount = 600
	pageSize   = 70 // leaves a last page that is not full
)

// testPaging reads several hundred config maps in pages while others are written
// and deleted: all pages show the store at the first one's revision, and each
// says how many are left.
func (c *cluster) testPaging(t *testing.T) {
	c.begin(t)
	ctx, path := t.Context(), configMaps(nsPages)
	c.createMany(t, path, pagesCount)
	whole, err := c.api.get(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	want := names(whole)
	if len(want) != pagesCount+1 || !slices.IsSorted(want) {
		t.Fatalf("the whole list has %d config maps (sorted: %t), want %d and the root certificate's",
			len(want), slices.IsSorted(want), pagesCount)
	}
	c.report.verified.Add(int64(len(want)))

	first, err := c.api.get(ctx, path, "limit", strconv.Itoa(pageSize))
	if err != nil {
		t.Fatal(err)
	}
	c.firstPage = first.Metadata
	// Neither may be seen by the pages to come.
	last := want[len(want)-1]
	if _, err := c.api.delete(ctx, path+"/"+last, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.api.create(ctx, path, newConfigMap("page-0599-late", nil)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for page := first; ; {
		got = append(got, names(page)...)
		c.wantPage(t, page, first, len(want)-len(got))
		if page.Metadata.Continue == "" {
			break
		}
		if page, err = c.api.get(ctx, path, "limit", strconv.Itoa(pageSize), "continue", page.Metadata.Continue); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("the pages have %d config maps, the whole list %d; %s", len(got), len(want), difference(want, got))
	}
	c.report.verified.Add(int64(len(got)))

	// The same revision asked for by its number, then the present.
	c.wantListAt(t, path, want, "resourceVersion", first.Metadata.ResourceVersion, "resourceVersionMatch", "Exact")
	present := append(slices.Clone(want[:len(want)-1]), "page-0599-late")
	slices.Sort(present)
	c.wantListAt(t, path, present)
	c.wantListAt(t, path, present, "resourceVersion", "0")
	out := c.kubectl(t, "get", "configmaps", "-n", nsPages, "--chunk-size=50", "-o", "name")
	if listed := strings.Fields(strings.ReplaceAll(out, "configmap/", "")); !slices.Equal(listed, present) {
		t.Fatalf("kubectl in chunks: %s", difference(present, listed))
	}
	c.report.verified.Add(int64(len(present)))

	// With a selector nobody can know how many are left.
	selected, err := c.api.get(ctx, path, "limit", "10", "labelSelector", "parity=odd")
	if err != nil {
		t.Fatal(err)
	}
	if len(selected.Items) != 10 || selected.Metadata.RemainingItemCount != nil || selected.Metadata.Continue == "" {
		t.Fatalf("a selected page of 10 has %d, %v left, continues: %t", len(selected.Items),
			selected.Metadata.RemainingItemCount, selected.Metadata.Continue != "")
	}
}

// wantPage checks what a page says about itself.
func (c *cluster) wantPage(t *testing.T, page, first *object, left int) {
	t.Helper()
	if page.Metadata.ResourceVersion != first.Metadata.ResourceVersion {
		t.Fatalf("a page is at %s, the first at %s", page.Metadata.ResourceVersion, first.Metadata.ResourceVersion)
	}
	remaining := page.Metadata.RemainingItemCount
	switch {
	case left == 0 && (remaining != nil || page.Metadata.Continue != ""):
		t.Fatalf("the last page says that %v are left, and continues: %t", *remaining, page.Metadata.Continue != "")
	case left > 0 && (len(page.Items) != pageSize || page.Metadata.Continue == ""):
		t.Fatalf("a page of %d, with %d left, continues: %t", len(page.Items), left, page.Metadata.Continue != "")
	case left > 0 && remaining == nil:
		t.Fatalf("a page does not say that %d are left", left)
	case left > 0 && *remaining != int64(left):
		t.Fatalf("a page says that %d are left, want %d", *remaining, left)
	}
}

func (c *cluster) wantListAt(t *testing.T, path string, want []string, query ...string) {
	t.Helper()
	list, err := c.api.get(t.Context(), path, query...)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(list); !slices.Equal(got, want) {
		t.Fatalf("list with %q: %s", query, difference(want, got))
	}
	c.report.verified.Add(int64(len(want)))
}

// createMany creates page-0000 and so on with several clients.
func (c *cluster) createMany(t *testing.T, path string, n int) {
	t.Helper()
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range next {
				o := newConfigMap(fmt.Sprintf("page-%04d", i), dict{"text": strings.Repeat("stone ", 100)})
				o.Metadata.Labels = dict{"parity": []string{"even", "odd"}[i%2]}
				if _, err := c.api.create(t.Context(), path, o); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func names(list *object) []string {
	var all []string
	for _, o := range list.Items {
		all = append(all, o.Metadata.Name)
	}
	return all
}

// difference names some of what is missing and what is too much.
func difference(want, got []string) string {
	var missing, extra []string
	for _, name := range want {
		if !slices.Contains(got, name) {
			missing = append(missing, name)
		}
	}
	for _, name := range got {
		if !slices.Contains(want, name) {
			extra = append(extra, name)
		}
	}
	return fmt.Sprintf("got %d, want %d; missing %q, unexpected %q", len(got), len(want),
		missing[:min(5, len(missing))], extra[:min(5, len(extra))])
}

// testCompaction waits until kube-apiserver has compacted the first page's
// revision, and wants it to say so to whoever still asks for it.
func (c *cluster) testCompaction(t *testing.T) {
	c.begin(t)
	ctx, path := t.Context(), configMaps(nsPages)
	old := []string{"resourceVersion", c.firstPage.ResourceVersion, "resourceVersionMatch", "Exact"}
	waitFor(t, "the first page's revision to be compacted", func() bool {
		_, err := c.api.get(ctx, path, old...)
		if err != nil && !refused(err, http.StatusGone) {
			t.Fatal(err)
		}
		return err != nil
	})
	_, err := c.api.get(ctx, path, "limit", strconv.Itoa(pageSize), "continue", c.firstPage.Continue)
	refusal := (*apiError)(nil)
	if !errors.As(err, &refusal) || refusal.code != http.StatusGone || refusal.reason != "Expired" {
		t.Fatalf("continuing at a compacted revision: %v; want 410 Expired", err)
	}
	present, err := c.api.get(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if len(present.Items) != pagesCount+1 {
		t.Fatalf("after the compaction there are %d config maps, want %d", len(present.Items), pagesCount+1)
	}
	c.report.verified.Add(int64(len(present.Items)))
}

// testNamespaceDeletion has the controller manager clear the namespaces.
func (c *cluster) testNamespaceDeletion(t *testing.T) {
	c.begin(t)
	c.kubectl(t, "delete", "namespace", nsSession, nsPages, nsCrash, "--timeout=150s")
	for _, ns := range []string{nsSession, nsPages, nsCrash} {
		for _, resource := range []string{
			"/api/v1/namespaces/" + ns + "/configmaps", "/api/v1/namespaces/" + ns + "/secrets",
			"/api/v1/namespaces/" + ns + "/pods", "/api/v1/namespaces/" + ns + "/serviceaccounts",
			"/apis/apps/v1/namespaces/" + ns + "/deployments", "/apis/apps/v1/namespaces/" + ns + "/replicasets",
			"/apis/batch/v1/namespaces/" + ns + "/jobs", leasesPath + ns + "/leases",
		} {
			list, err := c.api.get(t.Context(), resource)
			if err != nil {
				t.Fatal(err)
			}
			if len(list.Items) != 0 {
				t.Errorf("%s still has %q", resource, names(list))
			}
		}
		_, err := c.api.get(t.Context(), "/api/v1/namespaces/"+ns)
		c.wantRefused(t, err, http.StatusNotFound)
	}
}
