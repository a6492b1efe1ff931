// Package route says which group owns a key.
//
// A route gives the keys of one Kubernetes resource to a group; core owns every
// key that no route names. A [Table] is made from the flags once, when a cluster
// is bootstrapped ([Parse]). It is kept in the data directory as text, and read
// from there ever after ([Decode]); the routes of a cluster never change.
//
// # Keys
//
// The route of /registry/pods owns every key that begins with /registry/pods/
// and the one key /registry/pods. A group therefore owns several spans that do not
// touch, for the order of keys is that of bytes:
//
//	/registry/podr                 core
//	/registry/pods                 pods, this one key
//	/registry/pods\x00             core
//	/registry/pods-x               core
//	/registry/pods/                pods
//	/registry/pods/default/a       pods
//	/registry/pods0                core
//	/registry/podtemplates/        core
//
// # Resources
//
// kube-apiserver keeps a resource at <prefix>/<path>/, where <prefix> is
// --etcd-prefix. A resource is written as in its --etcd-servers-overrides:
//
//  1. group/resource, where the group is one of Kubernetes' own (the table
//     builtinGroups; /resource means the group without a name): the path is the
//     resource, but for a few that have another one for historical reasons (the
//     table builtinPaths). coordination.k8s.io/leases is at leases, /nodes at
//     minions, and events.k8s.io/events and /events are both at events.
//  2. group/resource, where the group is any other with a dot: the path is
//     group/resource. That is where custom resources are, and also Kubernetes'
//     apiextensions.k8s.io/customresourcedefinitions and
//     apiregistration.k8s.io/apiservices. NB: a name that ends in k8s.io does not
//     make a group Kubernetes' own; those of gateway.networking.k8s.io are custom
//     resources.
//  3. resource alone: a resource of Kubernetes, whatever its group. leases is at
//     leases, nodes at minions, ingresses at ingress. This form also reaches the
//     resources of groups that are newer than the table.
//
// # Invariants
//
//  1. Every key has just one owner.
//  2. A Table does not change, and may be used concurrently.
//  3. What a table's text says does not depend on the tables of resources here:
//     it holds the keys themselves. A later version of Kubernetes, or of this
//     package, moves no key.
package route
