package route

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestResourcePath(t *testing.T) {
	table, err := ParsePrefix(DefaultEtcdPrefix)
	require.NoError(t, err)
	for _, c := range []struct{ key, path, name string }{
		{"/registry/pods/default/a", "/registry/pods/", "pods"},
		{"/registry/pods/", "/registry/pods/", "pods"},
		{"/registry/pods", "", ""},
		{"/registry/pods0", "", ""},
		{"/registry/", "", ""},
		{"/registry", "", ""},
		{"/registry//a", "", ""},
		{"", "", ""},
		{"/registr/pods/a", "", ""},
		{"/registryx/pods/a", "", ""},
		{"/registry/minions/n", "/registry/minions/", "nodes"},
		{"/registry/ingress/default/a", "/registry/ingress/", "ingresses"},
		{"/registry/controllers/default/a", "/registry/controllers/", "replicationcontrollers"},
		{"/registry/services/specs/default/a", "/registry/services/specs/", "services"},
		{"/registry/services/endpoints/default/a", "/registry/services/endpoints/", "endpoints"},
		{"/registry/services/", "", ""},
		{"/registry/services", "", ""},
		{"/registry/example.com/widgets/default/a", "/registry/example.com/widgets/", "example.com/widgets"},
		{"/registry/example.com/widgets", "", ""},
		{"/registry/example.com//a", "", ""},
		{"/registry/apiregistration.k8s.io/apiservices/v1", "/registry/apiregistration.k8s.io/apiservices/", "apiregistration.k8s.io/apiservices"},
	} {
		path := table.ResourcePath([]byte(c.key))
		require.Equal(t, c.path, string(path), c.key)
		if path == nil {
			continue
		}
		require.Equal(t, c.name, table.ResourceName(string(path)), c.key)
		// What an operator writes leads to the same keys.
		below, err := PathOf(c.name)
		require.NoError(t, err)
		require.Equal(t, c.path, "/registry/"+below+"/")
	}
	key := []byte("/registry/services/endpoints/default/a")
	require.Zero(t, testing.AllocsPerRun(10, func() { table.ResourcePath(key) }))

	root, err := ParsePrefix("/")
	require.NoError(t, err)
	require.Equal(t, "/pods/", string(root.ResourcePath([]byte("/pods/a"))))
	require.Equal(t, "nodes", root.ResourceName("/minions/"))
}

func TestParseNumbers(t *testing.T) {
	got, err := ParseNumbers(" pods#5000, nodes#0,example.com/widgets#7", 0, 5000)
	require.NoError(t, err)
	require.Equal(t, Numbers{
		{"example.com/widgets", "example.com/widgets/", 7}, {"nodes", "minions/", 0}, {"pods", "pods/", 5000},
	}, got)
	require.Equal(t, "example.com/widgets#7,nodes#0,pods#5000", got.String())
	got, err = ParseNumbers(" ", 0, 1)
	require.NoError(t, err)
	require.Empty(t, got)
	for text, want := range map[string]string{
		"pods":                 `"pods" is not of the form resource#n`,
		"#5":                   `"#5" is not of the form`,
		"pods#":                `"pods#" is not of the form`,
		"pods#5,":              `"" is not of the form`,
		"pods#-1":              `"pods#-1": n must be a number between 0 and 10`,
		"pods#11":              `must be a number between 0 and 10`,
		"pods#many":            `must be a number between 0 and 10`,
		"Pods#5":               `resource "Pods"`,
		"apps.k8s/pods x#5":    `resource "apps.k8s/pods x"`,
		"nodes#5,minions#6":    "both nodes#5 and minions#6 are about the keys minions/",
		"deploy/deployments#5": `Kubernetes has no API group "deploy"`,
	} {
		_, err := ParseNumbers(text, 0, 10)
		require.ErrorContains(t, err, want, text)
	}
}
