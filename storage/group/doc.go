// Package group runs one raft group (room [6] of the drawing in
// gateway/doc.go): it puts requests in order, has them evaluated, logs what they
// change, and applies what is committed. It is the only package that knows
// raft.
//
// # The life of a write
//
//	caller      Do puts the request into the inbox and waits
//	group loop  evaluates everything in the inbox into one entry, proposes it
//	log writer  writes the entries of all groups in one batch, with one sync
//	group loop  learns that the entry is stable; raft commits it
//	applier     applies all committed entries in one batch, publishes the
//	            changes, and answers the callers
//
// Where a replica is the only voter its loop writes to the log itself, unless another
// group does, and applies what few requests have changed: handing over and back takes
// longer than these while processors are idle, and nobody misses the loop.
//
// A new entry is begun only when no append of this group is under way: whatever
// arrives during a sync goes into the entry after it. So the batches grow with
// the load, and an idle member answers after one sync.
//
// # Invariants
//
//  1. Only the sequencer evaluates, after it has applied a fence of its epoch here
//     (storage/PROTOCOL.md, 3); so an entry's effects are true of the state that
//     they are applied to. An entry names its epoch and its number in it; every
//     replica drops one that is not the next of the epoch fenced last.
//  2. A caller is answered after its entry is applied here; an answer that
//     changed nothing, after every entry that it saw is, and after the reign was
//     confirmed when the request had been evaluated.
//  3. Entries are applied only once they are stable in this replica's log; the
//     log is truncated only below what the state would survive a crash with.
//
// Where there are other voters, the loop never waits for a disk: the log writer and the
// applier do.
//
// All methods of a Group may be called concurrently, but Start comes once, and before
// Stop. So may those of a Log and of a LogWriter, but those of a Log that come before its
// group is opened: Bootstrap, BeginEmpty, Others, MakeSole.
package group
