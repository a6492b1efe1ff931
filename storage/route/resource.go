package route

import (
	"fmt"
	"slices"
	"strings"
)

// builtinGroups are Kubernetes' own API groups that keep their resources at
// <prefix>/<resource>/, as of 1.37.
var builtinGroups = []string{
	"", // pods, nodes, ...
	"admissionregistration.k8s.io",
	"apps",
	"autoscaling",
	"batch",
	"certificates.k8s.io",
	"coordination.k8s.io",
	"discovery.k8s.io",
	"events.k8s.io",
	"extensions",
	"flowcontrol.apiserver.k8s.io",
	"internal.apiserver.k8s.io",
	"lifecycle.k8s.io",
	"networking.k8s.io",
	"node.k8s.io",
	"policy",
	"rbac.authorization.k8s.io",
	"resource.k8s.io",
	"scheduling.k8s.io",
	"storage.k8s.io",
	"storagemigration.k8s.io",
}

// builtinPaths are the resources that Kubernetes keeps elsewhere than at their
// name, with the groups that they belong to.
var builtinPaths = []struct {
	groups   []string
	resource string
	path     string
}{
	{[]string{"", "extensions"}, "replicationcontrollers", "controllers"},
	{[]string{""}, "endpoints", "services/endpoints"},
	{[]string{""}, "nodes", "minions"},
	{[]string{""}, "services", "services/specs"},
	{[]string{"networking.k8s.io", "extensions"}, "ingresses", "ingress"},
	{[]string{"apiextensions.k8s.io"}, "customresourcedefinitions", "apiextensions.k8s.io/customresourcedefinitions"},
	{[]string{"apiregistration.k8s.io"}, "apiservices", "apiregistration.k8s.io/apiservices"},
}

// PathOf returns where kube-apiserver keeps a resource below its prefix, by the
// rule of the package's doc, without slashes around it.
func PathOf(resource string) (string, error) {
	group, name, grouped := strings.Cut(resource, "/")
	if !grouped {
		group, name = "", group
	}
	if err := checkLabel(name); err != nil {
		return "", fmt.Errorf("resource %q: %w", resource, err)
	}
	if group != "" {
		if err := checkDomain(group); err != nil {
			return "", fmt.Errorf("API group of %q: %w", resource, err)
		}
	}
	for _, b := range builtinPaths {
		if name == b.resource && (!grouped || slices.Contains(b.groups, group)) {
			return b.path, nil
		}
	}
	switch {
	case !grouped || slices.Contains(builtinGroups, group):
		return name, nil
	case strings.Contains(group, "."):
		return group + "/" + name, nil
	default:
		return "", fmt.Errorf("resource %q: Kubernetes has no API group %q, and the groups of custom resources have a dot in their name; give the group in full, or the resource alone if it is Kubernetes' own", resource, group)
	}
}
