//go:build linux

// Command kubemark runs a Kubernetes control plane and hollow nodes on top of a store,
// Pebbledash or etcd, has clients load it, and holds what they and kube-apiserver saw
// against the promises that Kubernetes publishes. README.md says how.
//
// The program starts itself again in a network namespace of its own, so that ports are
// always free and nothing can be reached from outside.
package main
