// Package evaluate turns requests into effects and answers (room [4] of the
// drawing in gateway/doc.go).
//
// At a group's leader an Evaluator runs writing requests one after another
// against the applied state (storage/mvcc) plus the effects that are in flight:
// proposed to raft and not applied yet. A request that changes something takes
// the next revision and leaves its effects in the entry that is being built; a
// request that changes nothing leaves none. Whoever applies the entry needs no
// request, and no state beyond the effects.
//
// The same code answers reads, from the applied state at one revision.
//
// Evaluation has no effect on anything until it has succeeded: an error, and
// even a panic, ends one request and leaves the others of its entry alone.
//
// It does not order, log or apply: that is storage/group's work.
package evaluate
