// Package kube tests the store where it is meant to work: below a real
// kube-apiserver, with a real controller manager, scheduler, hollow nodes and
// kubectl. It holds nothing but tests; README.md says how to run them.
//
// The test process enters a network namespace of its own before anything
// starts (namespace_test.go), so the ports are always the same and always free,
// and nothing that the control plane binds can be reached from outside.
//
// What the session asks of the store is judged three times: by the answers that
// clients get, by the objects that are there after the store was killed, and by
// kube-apiserver's own complaints about its storage, which must be among those
// that the same session draws from etcd (storagelog_test.go).
package kube
