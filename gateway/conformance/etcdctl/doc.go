// Package etcdctl holds a session with the real etcdctl, as an operator has it,
// in testdata/session.txt: the commands and what they print. It runs against
// the server that package server resolves, so that PEBBLEDASH_CONFORMANCE_TARGET=etcd
// shows that etcd prints the same.
package etcdctl
