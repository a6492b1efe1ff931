// Package workload puts a server under load: many clients, each of which sends
// one request after another and waits for its answer, over a few shared
// connections. It speaks raw gRPC, for the lowest cost of its own: it runs on
// the same machine as the server.
//
//	load.go     what is asked
//	client.go   one client of each kind
//	run.go      all of them: prepare, warm up, measure
//
// Every load leaves the store so that any other may follow.
package workload
