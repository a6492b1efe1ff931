// Package revline keeps a member's end of the store's one revision line (room
// [5] of the drawing in gateway/doc.go): it hands out revisions while the member
// is the sequencer, knows which of them are outstanding, finds the closed
// revision, and merges what the groups apply into one stream of events. The
// protocol, its words and its safety argument are in storage/PROTOCOL.md.
//
// It logs nothing, and knows neither raft nor evaluation: storage/reign begins
// and ends the reigns, storage/group tells of what is applied.
//
// # Invariants
//
//  1. A revision is handed out once in an epoch, each greater than the one
//     before.
//  2. Present is never greater than the greatest revision that some group has
//     applied here, or that a promise covers; it never goes back.
//  3. Every change with a revision up to Closed is applied here, in all groups,
//     and there will be no other. It never goes back.
//  4. Events are published once, in the order of their revisions, whole
//     revisions only, none above Closed; or the sink is told that it has missed
//     some.
//
// All methods may be called concurrently. Callbacks are called without locks,
// on the goroutine whose call made them due, and must not block.
package revline
