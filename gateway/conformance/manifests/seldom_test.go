package manifests

import (
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"testing"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestSeldomMetrics has a cluster of two raise an alarm, and looks for the metrics that
// are not there otherwise. That of refused requests is tested in gateway/admission.
func TestSeldomMetrics(t *testing.T) {
	binary, err := server.Resolve(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, binary.Close()) })
	member := server.RunCluster(t, server.Config{Binary: binary.Path, Args: []string{"--quota-backend-bytes=1"}}, 2)[0]
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{member.Endpoint()}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	for err == nil {
		_, err = client.Put(t.Context(), "k", "v")
	}
	require.ErrorContains(t, err, "space")

	answer, err := http.Get(member.Endpoint() + "/metrics")
	require.NoError(t, err)
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	for name, want := range seldom {
		if name == "pebbledash_flowcontrol_rejected_requests_total" {
			continue
		}
		line := regexp.MustCompile(`(?m)^` + name + `(?:_bucket)?\{(.*)\}`).FindSubmatch(text)
		require.NotNil(t, line, name)
		is := labels{}
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllSubmatch(line[1], -1) {
			if l := string(label[1]); l != "le" {
				is[l] = true
			}
		}
		require.ElementsMatch(t, slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(is)), name)
	}
}
