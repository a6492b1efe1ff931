package route

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestResources(t *testing.T) {
	table, err := Parse("events#events;leases#hot;pods#hot;nodes#hot;example.com/widgets#w", "/registry")
	require.NoError(t, err)
	r := table.Resources()
	require.ElementsMatch(t, []string{"other", "events", "leases", "pods", "nodes", "example.com/widgets"}, r.Names())
	require.Equal(t, OtherName, r.Names()[Other])
	for key, want := range map[string]string{
		"":                                     "other",
		"/registry/events":                     "events",
		"/registry/events/default/a":           "events",
		"/registry/eventsx/a":                  "other",
		"/registry/pods/a/b":                   "pods",
		"/registry/podtemplates/a":             "other",
		"/registry/leases/kube-node-lease/n":   "leases",
		"/registry/minions/n":                  "nodes",
		"/registry/example.com/widgets/x":      "example.com/widgets",
		"/registry/example.com/gadgets/x":      "other",
		"/registry/zzz":                        "other",
		"\xff":                                 "other",
		"/registry/services/endpoints/default": "other",
	} {
		require.Equal(t, want, r.Names()[r.Of([]byte(key))], "%q", key)
	}
	key := []byte("/registry/pods/default/a")
	require.Zero(t, testing.AllocsPerRun(100, func() { r.Of(key) }))

	alone := CoreOnly().Resources()
	require.Equal(t, []string{OtherName}, alone.Names())
	require.Equal(t, Other, alone.Of(key))
}
