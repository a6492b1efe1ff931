// Package auth holds the server to what etcd answers once authentication is on: who
// may call what, and what is said to those who may not.
//
// testdata/matrix.txt has every RPC, called by everybody: without a token, with one
// that is none, as users with other roles than it takes, with the right one, as root,
// and with certificates instead of tokens. testdata/jwt.txt is about tokens that are
// signed elsewhere, testdata/session.txt a session with the real etcdctl. They were
// written by etcd 3.7.3, and are compared with the server that package server
// resolves:
//
//	PEBBLEDASH_CONFORMANCE_TARGET=etcd go test ./gateway/conformance/auth -rewrite
//	go test ./gateway/conformance/auth
package auth
