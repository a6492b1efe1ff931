// Package clients runs everything that etcd's Go client has on top of the API against
// the server that package server resolves: locks, elections and transactional memory
// (concurrency), endpoints and their resolver (naming), mirror, namespace, leasing,
// ordering and snapshot, and the services Lock and Election. With one member they show
// what each promises; with three, that it holds while the leader is killed with
// kill -9 and comes back.
//
// With PEBBLEDASH_CONFORMANCE_TARGET=etcd they show that etcd does as well.
package clients
