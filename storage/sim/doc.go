// Package sim holds what the store is tested against: a model of etcd's
// semantics that is too simple to be wrong in the same way as the store, and a
// seeded generator of requests. No room hands work in or out; tests do.
//
//	model.go       the reference: every change ever made, in one slice
//	generate.go    random requests over few keys, near every boundary
//	format.go      requests and answers as one line of text, to print and compare
//
// The model itself is held to a real etcd by a test that needs the program:
//
//	PEBBLEDASH_ETCD=/path/to/etcd go test ./storage/sim -run TestModelAgreesWithEtcd
//
// Invariants of the model:
//
//  1. Nothing is ever removed from its history: a compaction only moves the
//     mark below which questions are refused.
//  2. A request either changes nothing, or makes one new revision.
//
// Nothing here is safe for concurrent use.
package sim
