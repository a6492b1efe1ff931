// Package json holds sessions with the API as JSON over HTTP, as curl has them, in
// testdata: requests, and what is answered. They run against the server that package
// server resolves, so that PEBBLEDASH_CONFORMANCE_TARGET=etcd shows that etcd answers
// the same; -rewrite is for that.
package json
