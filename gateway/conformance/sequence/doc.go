// Package sequence sends the same random requests, one after another, to etcd
// and to Pebbledash, by the client protocol itself, and compares every answer and
// every event. It has only tests.
//
//	main_test.go     which programs, how many requests, from which seed
//	plan_test.go     makes the requests
//	step_test.go     what a request is, and how it is sent
//	answer_test.go   which differences between answers are deliberate
//	system_test.go   one program, as one member or as three
//	watch_test.go    the streams of watches of a system, and what they got
//	runner_test.go   sends, compares, and says what differed
//	shrink_test.go   leaves out what a difference does not need
//
// Run it by
//
//	make sequence                                                  10,000 requests
//	make sequence OPS=500 SEED=7
//	go test ./gateway/conformance/sequence -ops 500 -seed 7
//	PEBBLEDASH_CONFORMANCE_TARGET=etcd go test ./gateway/conformance/sequence
//
// The last one compares etcd with etcd, one member with three: what fails then
// is a mistake of the test.
//
// The requests are those of storage/sim's generator (puts, deletions,
// transactions with others inside, ranges in all forms and at old revisions,
// compactions, leases), over keys of all groups and at the borders between
// them, and besides: Kubernetes' transactions, RangeStream, serializable reads,
// what a lease has left and holds, HashKV, refused requests, and watches of all
// kinds, opened and cancelled at any time. Requests to three members go to a
// random one.
//
// What must be equal: everything that a client is answered, with the revision of
// the header; errors with code and text. What is left out, or arranged for:
//
//  1. Ids of members and of the cluster, and raft terms.
//  2. etcd 3.7 leaves the lease out of an answer with keys only, unless that is
//     sorted by value; Pebbledash, like etcd's documentation, does not.
//  3. A limit on a range that names a sort target but no order: etcd applies it
//     to the order of the keys, before it sorts. Such requests have no limit.
//  4. etcd's sort keeps equal elements in no order where there are more than
//     twelve. Such answers are compared with equal elements in the order of
//     keys, and have no limit.
//  5. RangeStream with a sort target and no order is not sent: etcd sorts each
//     chunk for itself.
//  6. HashKV at a compaction's own revision: etcd answers what it had before it.
//  7. The seconds that a lease has left, and the order of leases and of a
//     lease's keys. No lease expires.
//  8. Pebbledash refuses a transaction in which a nested one puts a key and a
//     later one deletes it; etcd refuses the opposite order only. Such ones are
//     not sent.
//  9. The header of the answer that a compaction has ended a watch: etcd's is
//     empty.
//  10. A member may be behind in what it answers by itself (serializable reads,
//     leases, hashes, the beginning of a watch). So it is asked for a
//     linearizable read before.
package sequence
