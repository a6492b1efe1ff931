// Package sim holds what the store is tested against: a model of etcd's
// semantics that is too simple to be wrong in the same way as the store, and
// what drives both with random requests. No room hands work in or out; tests
// do.
//
//	model.go     the reference: every change ever made, in one slice
//	generate.go  random requests over few keys, near every boundary
//	history.go   one caller: every answer of a store beside the model's
//	replay.go    many callers: the order that explains their answers
//	same.go      all that a store keeps beside the model
//	format.go    requests and answers as a line of text, to print and compare
//
// The tests here run a member through crashes and disk faults. They take new
// seeds in every run; a failure prints the command that replays it, exactly for
// one caller and as well as can be for many:
//
//	go test ./storage/sim -run TestCrashes -seed 4711
//	go test ./storage/sim -factor 20        many more histories
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
// Only a Recorder may be used concurrently.
package sim
