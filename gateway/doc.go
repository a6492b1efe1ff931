// Package gateway is the front of the house: it speaks the etcd v3 protocol to
// clients and asks the storage below for the rest.
//
//	client
//	 [1] gateway             gRPC in: decode, check, translate
//	 [2] gateway/admission   may it come in now? seats and fair queues
//	 [3] storage/member      which groups own the keys (storage/route), and which member reigns
//	 [4] storage/evaluate    at the sequencer: request + state + what is in flight -> effects
//	 [5] storage/revline     the next revision; epochs, fences, closed revisions
//	 [6] storage/group       put it in order: propose, log, commit (raft)
//	 [7] storage/mvcc        apply the effects; revisions, kept in Pebble through storage/engine
//	 [8] gateway/watchcache  recent events and listed objects in memory; events fanned out
//	 [9] gateway/watch.go    back to the client
//
// A write walks 1 to 7 and shows itself to watchers through 8 and 9. A read
// walks 1-2-3, gets its revision at 5 and its confirmation at 6, and is answered
// at 8 where its objects are in memory, else at 7. What is behind the gateway is one *member.Member (storage/member),
// which owns the rooms 4 to 7 of one process.
//
// In this package one verb has one file (range.go, put.go, txn.go, ...), and
// each does the same three things: check the request (validate.go), call the
// [Store] with its translation (translate.go), fill the header (header.go).
// Errors become etcd's in errors.go and nowhere else. A connection comes in
// through door.go, which tells gRPC from HTTP and TLS from plain text; a call
// passes interceptor.go. JSON (json.go), locks and elections are made of such calls,
// over a connection in memory (loopback.go).
//
// # What we promise clients
//
//  1. The answers are those of etcd 3.7.3: messages, error codes and texts,
//     header revisions, and metric names. Where etcd would crash or contradict
//     itself we refuse the request instead; each such place says so.
//  2. A request that passed validate.go can be translated and evaluated: what
//     comes from the wire never panics, and if it does all the same, that one
//     call fails with code Internal and the server goes on.
//  3. Everything from the wire is bounded: the bytes of a request, the
//     operations and the depth of a transaction, streams of a connection,
//     connections, those of them that have not said yet what they speak, and
//     the time that a write may wait.
//  4. Keys may be logged; values never: they hold Secrets.
//
// # Who may call
//
// Everything on a [Server] may be called concurrently. The Store must outlive
// the Server: stop the Server first.
package gateway
