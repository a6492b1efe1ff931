// Package conformance holds Pebbledash to the behaviour of etcd 3.7.3, from
// outside: every test runs a server process and talks to its client port.
//
//	client_*_test.go   the etcd API itself, written like a specification: a
//	                   request, and what etcd answers
//	etcd3_test.go      Kubernetes' storage suites (k8s.io/apiserver's RunTest...)
//	                   over its etcd3 store
//	cacher_test.go     the same suites over kube-apiserver's watch cache
//	suites_test.go     no suite of Kubernetes' is left out in silence
//	skips_test.go      what is skipped, where, and why
//
// The same tests run unchanged against the real etcd, which must pass: an
// expectation that etcd does not meet is a mistake in the test, or a mistake of
// etcd's with a row in skips_test.go. See README.md for how to run them, and
// package server for the process.
package conformance
