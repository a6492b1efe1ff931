// Package member runs one member of a cluster: it opens the data directory and
// the two databases in it, starts the groups, and joins them with what is one
// for all of them: the sequencer, the leases, compaction, and the feed of
// changes for watchers. It is what the gateway sees of the storage.
//
// One Pebble holds the raft logs and is synced. Another holds the state, is not
// synced, and is brought up to date from the logs at start.
//
// # Invariants
//
//  1. A data directory is one member's of one cluster, for ever, and one process's at a
//     time, which holds its lock.
//  2. A log is truncated only up to what the state has durably, and where there are
//     other replicas CatchUpEntries before that.
//  3. A read is answered at one revision, with everything up to it applied here in the
//     groups that it touches; if it is not serializable, with everything that was
//     acknowledged before it came.
//  4. A write that the sequencer did for this member is answered when the closed
//     revision here has reached the answer's.
//  5. A compaction takes effect when the closed revision has reached it, in all groups at
//     once. Reads are refused before the versions that they want are deleted, or missing
//     in the rows of a snapshot.
//  6. While it runs the sequencer alone changes the members, one change at a time, and
//     answers when all groups have core's replicas. A member refuses as removed only
//     whom it would know to be removed after a crash.
//
// All methods of a Member may be called concurrently; a Checkpoint and a DataDir are for
// one goroutine each.
package member
