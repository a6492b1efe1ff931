// Package evaluate turns requests into effects and answers (room [4] of the
// drawing in gateway/doc.go).
//
// At the sequencer each group has an Evaluator. It runs writing requests one after
// another against the group's applied state (storage/mvcc) plus the effects that
// are in flight: proposed to raft and not applied yet. A request that changes a key
// takes the next revision of the line, at its first change, and leaves its effects
// in the entry that is being built; a request that changes nothing leaves none.
// Whoever applies the entry needs no request, and no state beyond the effects.
//
// Requests whose keys are in several groups (Needs), and those about leases in
// which several take part (ErrCrossing), are run by one Crossing over the states of
// all groups (storage/keyspace), while the groups that they touch stand still. It
// is the same code: what differs is in a scope (stage.go).
//
// The same code answers reads, from the applied state at one revision.
//
// Evaluation has no effect on anything until it has succeeded: an error, and
// even a panic, ends one request and leaves the others of its entry alone. The
// revision that it may have taken is given back.
//
// Nobody can tell from the answers, revisions and events how many groups there
// are: storage/sim holds four of them to the model of a single etcd (TestGroups).
//
// It does not order, log or apply: that is storage/group's work.
//
// An Evaluator and a Crossing are for one goroutine at a time. Read, ReadTxn and Stream
// may be called concurrently, and beside them.
package evaluate
