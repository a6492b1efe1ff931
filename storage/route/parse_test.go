package route

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ flags, prefix, want string }{
		{
			DefaultResourceGroups, DefaultEtcdPrefix,
			"etcd-prefix=/registry core=1 events=2:/registry/events,/registry/events/" +
				" leases=3:/registry/leases,/registry/leases/ pods=4:/registry/pods,/registry/pods/",
		},
		{"", "/registry", "core=1"},
		{" ", "/x", "core=1"},
		{"pods#core", "/registry", "core=1"},
		// Groups are in the order of their names, keys in that of bytes.
		{
			"pods#b; leases#core; nodes#a ; events#b;pods#b", "/registry",
			"etcd-prefix=/registry core=1 a=2:/registry/minions,/registry/minions/" +
				" b=3:/registry/events,/registry/events/,/registry/pods,/registry/pods/",
		},
		{
			"services#s;endpoints#e", "/registry",
			"etcd-prefix=/registry core=1 e=2:/registry/services/endpoints,/registry/services/endpoints/" +
				" s=3:/registry/services/specs,/registry/services/specs/",
		},
		{
			"pods#a;pods.example.com/pods#a;podtemplates#a", "/registry",
			"etcd-prefix=/registry core=1 a=2:/registry/pods,/registry/pods.example.com/pods,/registry/pods.example.com/pods/," +
				"/registry/pods/,/registry/podtemplates,/registry/podtemplates/",
		},
		// The prefix, as kube-apiserver reads it.
		{"pods#a", "registry", "etcd-prefix=/registry core=1 a=2:/registry/pods,/registry/pods/"},
		{"pods#a", "//x//y/", "etcd-prefix=/x/y core=1 a=2:/x/y/pods,/x/y/pods/"},
		{"pods#a", "../x/./Y", "etcd-prefix=/x/Y core=1 a=2:/x/Y/pods,/x/Y/pods/"},
		{"pods#a", "", "etcd-prefix=/ core=1 a=2:/pods,/pods/"},
		{"pods#a", "/", "etcd-prefix=/ core=1 a=2:/pods,/pods/"},
	} {
		table, err := Parse(c.flags, c.prefix)
		require.NoError(t, err, c.flags)
		require.Equal(t, c.want, table.String(), c.flags)
		again, err := Decode(table.String())
		require.NoError(t, err, c.flags)
		require.Equal(t, table, again, c.flags)
		require.True(t, table.Equal(again))
	}
	table := mustParse(t, DefaultResourceGroups)
	require.Equal(t, []Group{{1, "core"}, {2, "events"}, {3, "leases"}, {4, "pods"}}, table.Groups())
	require.Equal(t, "/registry", table.EtcdPrefix())
	g, ok := table.Lookup("leases")
	require.True(t, ok)
	require.Equal(t, Group{3, "leases"}, g)
	_, ok = table.Lookup("minions")
	require.False(t, ok)
	require.False(t, table.Equal(CoreOnly()))
}

// TestPaths has every resource of Kubernetes 1.37, from its own test of where
// they are in etcd (test/integration/etcd/data.go), and what else can be written.
func TestPaths(t *testing.T) {
	builtin := map[string]string{
		"": "configmaps podtemplates pods resourcequotas limitranges namespaces persistentvolumes events " +
			"persistentvolumeclaims serviceaccounts secrets",
		"apps":                         "daemonsets deployments statefulsets replicasets controllerrevisions",
		"autoscaling":                  "horizontalpodautoscalers",
		"batch":                        "jobs cronjobs",
		"certificates.k8s.io":          "certificatesigningrequests clustertrustbundles podcertificaterequests",
		"coordination.k8s.io":          "leases leasecandidates",
		"lifecycle.k8s.io":             "evictionrequests evictions",
		"discovery.k8s.io":             "endpointslices",
		"events.k8s.io":                "events",
		"networking.k8s.io":            "ingressclasses networkpolicies ipaddresses servicecidrs",
		"policy":                       "poddisruptionbudgets",
		"storagemigration.k8s.io":      "storageversionmigrations",
		"flowcontrol.apiserver.k8s.io": "flowschemas prioritylevelconfigurations",
		"storage.k8s.io":               "volumeattachments volumeattributesclasses storageclasses csistoragecapacities csinodes csidrivers",
		"rbac.authorization.k8s.io":    "roles clusterroles rolebindings clusterrolebindings",
		"admissionregistration.k8s.io": "validatingwebhookconfigurations mutatingwebhookconfigurations validatingadmissionpolicies " +
			"validatingadmissionpolicybindings mutatingadmissionpolicies mutatingadmissionpolicybindings",
		"scheduling.k8s.io":         "priorityclasses workloads podgroups compositepodgroups",
		"node.k8s.io":               "runtimeclasses",
		"resource.k8s.io":           "devicetaintrules resourcepoolstatusrequests deviceclasses resourceclaims resourceclaimtemplates resourceslices",
		"internal.apiserver.k8s.io": "storageversions",
		"extensions":                "deployments daemonsets replicasets networkpolicies",
	}
	for group, resources := range builtin {
		for resource := range strings.FieldsSeq(resources) {
			for _, written := range []string{resource, group + "/" + resource} {
				path, err := PathOf(written)
				require.NoError(t, err, written)
				require.Equal(t, resource, path, written)
			}
		}
	}
	for written, want := range map[string]string{
		"services": "services/specs", "/services": "services/specs",
		"endpoints": "services/endpoints", "/endpoints": "services/endpoints",
		"nodes": "minions", "/nodes": "minions", "minions": "minions",
		"replicationcontrollers": "controllers", "/replicationcontrollers": "controllers",
		"extensions/replicationcontrollers": "controllers",
		"ingresses":                         "ingress", "networking.k8s.io/ingresses": "ingress", "extensions/ingresses": "ingress",
		"apiservices":                                    "apiregistration.k8s.io/apiservices",
		"apiregistration.k8s.io/apiservices":             "apiregistration.k8s.io/apiservices",
		"customresourcedefinitions":                      "apiextensions.k8s.io/customresourcedefinitions",
		"apiextensions.k8s.io/customresourcedefinitions": "apiextensions.k8s.io/customresourcedefinitions",

		// Custom resources, some of them in groups that look like Kubernetes'.
		"cr.bar.com/foos":                         "cr.bar.com/foos",
		"gateway.networking.k8s.io/gateways":      "gateway.networking.k8s.io/gateways",
		"snapshot.storage.k8s.io/volumesnapshots": "snapshot.storage.k8s.io/volumesnapshots",
		"metrics.k8s.io/pods":                     "metrics.k8s.io/pods",
		"example.com/nodes":                       "example.com/nodes",
		"k8s.io/leases":                           "k8s.io/leases",
	} {
		path, err := PathOf(written)
		require.NoError(t, err, written)
		require.Equal(t, want, path, written)
	}
}

func TestParseErrors(t *testing.T) {
	many := func(n int) string {
		var s []string
		for i := range n {
			s = append(s, fmt.Sprintf("r%d#g%d", i, i))
		}
		return strings.Join(s, ";")
	}
	_, err := Parse(many(14), "/registry")
	require.NoError(t, err)
	notOfForm := `is not of the form resource#group; write semicolons between several, as in events#events;leases#leases;pods#pods`
	for _, c := range []struct{ flags, prefix, want string }{
		{"pods", "", `--resource-groups: "pods" ` + notOfForm},
		{"pods#", "", `--resource-groups: "pods#" ` + notOfForm},
		{"#pods", "", `--resource-groups: "#pods" ` + notOfForm},
		{"pods#pods;", "", `--resource-groups: "" ` + notOfForm},
		{"pods#pods,leases#leases", "", `--resource-groups: "pods#pods,leases#leases" ` + notOfForm},
		{"pods#a,b", "", `--resource-groups: "pods#a,b" ` + notOfForm},
		{"pods#a#b", "", `--resource-groups: "pods#a#b" ` + notOfForm},
		{"pods#Pods", "", `--resource-groups: group of "pods#Pods": "Pods" is no name; use up to 63 lower-case letters, digits and, inside, hyphens`},
		{"pods#-a", "", `"-a" is no name`},
		{"pods#a-", "", `"a-" is no name`},
		{"pods#a.b", "", `"a.b" is no name`},
		{"pods#" + strings.Repeat("a", 64), "", `aa" is no name`},
		{"Pods#a", "", `--resource-groups: resource "Pods": "Pods" is no name`},
		{"pods/#a", "", `--resource-groups: resource "pods/": "" is no name`},
		{"apps/*#a", "", `--resource-groups: resource "apps/*": "*" is no name`},
		{"/registry/pods/#a", "", `--resource-groups: resource "/registry/pods/": "registry/pods/" is no name`},
		{"Apps/x#a", "", `--resource-groups: API group of "Apps/x": "Apps" is no name`},
		{"a..b/x#a", "", `--resource-groups: API group of "a..b/x": "" is no name`},
		{strings.Repeat("a.", 150) + "b/x#a", "", "it is too long"},
		{
			"app/deployments#a", "",
			`--resource-groups: resource "app/deployments": Kubernetes has no API group "app", and the groups of custom resources have a dot in their name; give the group in full, or the resource alone if it is Kubernetes' own`,
		},
		{
			"events#a;events.k8s.io/events#b", "/registry",
			"--resource-groups: both events#a and events.k8s.io/events#b are about the keys /registry/events/; leave one of them out",
		},
		{
			"nodes#core;/nodes#b", "/registry",
			"--resource-groups: both nodes#core and /nodes#b are about the keys /registry/minions/; leave one of them out",
		},
		{
			"apps/services#a;services#b", "/registry",
			"--resource-groups: /registry/services/ (of group a) and /registry/services/specs (of group b) have keys in common; leave one of them out",
		},
		{many(15), "/registry", "--resource-groups names 15 groups, and beside core there can be 14; give several resources to one group"},
		{"pods#a", "/reg istry", `--etcd-prefix: "/reg istry" has characters that can't be used; use letters, digits and any of ._-~:@+/`},
		{"", "/a,b", `--etcd-prefix: "/a,b" has characters`},
		{"", "/caf\u00e9", "--etcd-prefix"},
		{"", "/\xff", "--etcd-prefix"},
		{
			"pods#a", "/" + strings.Repeat("x", 1<<14),
			"the routes take 49191 bytes when they are written down, and 32768 is the most",
		},
	} {
		_, err := Parse(c.flags, c.prefix)
		require.ErrorContains(t, err, c.want, "%q %q", c.flags, c.prefix)
	}
}

func TestDecode(t *testing.T) {
	for _, text := range []string{"", "core=1"} {
		table, err := Decode(text)
		require.NoError(t, err)
		require.True(t, CoreOnly().Equal(table))
		require.Equal(t, []Group{{1, "core"}}, table.Groups())
		require.Equal(t, "core=1", table.String())
		require.Empty(t, table.EtcdPrefix())
	}
	// Numbers may be missing, a key be without its prefix, and a group be called
	// as a field is.
	table, err := Decode("etcd-prefix=/ core=1 etcd-prefix=3:/a,/b z=9:/registry/pods/,/registry/podt")
	require.NoError(t, err)
	require.Equal(t, []Group{{1, "core"}, {3, "etcd-prefix"}, {9, "z"}}, table.Groups())
	require.Equal(t, core, table.Of([]byte("/registry/pods")))
	require.EqualValues(t, 9, table.Of([]byte("/registry/podt")))
	require.EqualValues(t, 3, table.Of([]byte("/a")))
	require.Equal(t, core, table.Of([]byte("/a\x00")))
}

func TestDecodeErrors(t *testing.T) {
	const begin = "do not begin with etcd-prefix=, core=1 and a group"
	for _, c := range []struct{ text, want string }{
		{" ", begin},
		{"core=2", begin},
		{"core=1 a=2:/x", begin},
		{"etcd-prefix=/registry core=1", begin},
		{"etcd-prefix=/registry a=2:/x core=1", begin},
		{"etcd-prefix=/registry/ core=1 a=2:/x", `"/registry/" is no prefix of keys`},
		{"etcd-prefix=a\tb core=1 a=2:/x", "is no prefix of keys"},
		{"etcd-prefix=/ core=1 a", `routes "etcd-prefix=/ core=1 a" can't be read: "a": it is not of the form name=number:keys`},
		{"etcd-prefix=/ core=1 a=2", "not of the form"},
		{"etcd-prefix=/ core=1 ", "not of the form"},
		{"etcd-prefix=/ core=1 A=2:/x", `"A" is no name`},
		{"etcd-prefix=/ core=1 a=x:/x", `"x" is no number of a group`},
		{"etcd-prefix=/ core=1 a=-2:/x", "is no number"},
		{"etcd-prefix=/ core=1 a=16:/x", "is no number"},
		{"etcd-prefix=/ core=1 a=65538:/x", "is no number"},
		{"etcd-prefix=/ core=1 a=0:/x", "is there twice, or out of order"},
		{"etcd-prefix=/ core=1 a=1:/x", "is there twice, or out of order"},
		{"etcd-prefix=/ core=1 core=2:/x", "is there twice, or out of order"},
		{"etcd-prefix=/ core=1 a=2:/x b=2:/y", "is there twice, or out of order"},
		{"etcd-prefix=/ core=1 a=3:/x b=2:/y", "is there twice, or out of order"},
		{"etcd-prefix=/ core=1 a=2:/x a=3:/y", "is there twice, or out of order"},
		{"etcd-prefix=/ core=1 a=2:", `"" is no key, or not in its place`},
		{"etcd-prefix=/ core=1 a=2:x", "is no key"},
		{"etcd-prefix=/ core=1 a=2:/y,/x", `"/x" is no key, or not in its place`},
		{"etcd-prefix=/ core=1 a=2:/x,/x", "is no key, or not in its place"},
		{"etcd-prefix=/ core=1 a=2:/x\x00", "is no key"},
		{"etcd-prefix=/ core=1 a=2:/x/,/x/y", "/x/ (of group a) and /x/y (of group a) have keys in common"},
		{"etcd-prefix=/ core=1 a=2:/x/ b=3:/x/y/", "have keys in common"},
		{"etcd-prefix=/ core=1 a=2:/x b=3:/x", "have keys in common"},
		{"etcd-prefix=/ core=1 a=02:/x", `they should be "etcd-prefix=/ core=1 a=2:/x"`},
		{strings.Repeat("x", 40_000), "they have 40000 bytes, and 32768 is the most"},
	} {
		_, err := Decode(c.text)
		require.ErrorContains(t, err, c.want, "%q", c.text)
		require.Less(t, len(err.Error()), 1000)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("core=1")
	f.Add("etcd-prefix=/registry core=1 events=2:/registry/events,/registry/events/ pods=4:/registry/pods,/registry/pods/")
	f.Add("etcd-prefix=/ core=1 a=2:/x,/x/ b=3:/x0,/x00/")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := Decode(text)
		if err != nil {
			return
		}
		if text != "" {
			require.Equal(t, text, table.String())
		}
		checkTable(t, table)
	})
}

func FuzzParse(f *testing.F) {
	f.Add(DefaultResourceGroups, DefaultEtcdPrefix)
	f.Add("/nodes#a;example.com/widgets#b;apps/services#core", "x//y")
	f.Fuzz(func(t *testing.T, flags, prefix string) {
		table, err := Parse(flags, prefix)
		if err != nil {
			return
		}
		again, err := Decode(table.String())
		require.NoError(t, err)
		require.Equal(t, table, again)
		checkTable(t, table)
	})
}

// checkTable checks the invariants of a Table's fields.
func checkTable(t *testing.T, table *Table) {
	t.Helper()
	require.Len(t, table.owners, len(table.borders))
	require.Empty(t, table.borders[0])
	for i := range table.borders {
		require.Equal(t, slowOf(table, table.borders[i]), table.owners[i])
		if i > 0 {
			require.Less(t, string(table.borders[i-1]), string(table.borders[i]))
			require.NotEqual(t, table.owners[i-1], table.owners[i])
		}
	}
}
