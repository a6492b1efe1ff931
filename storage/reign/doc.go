// Package reign begins and ends the reigns of a member as sequencer, and runs
// what concerns several groups: it fences the groups, completes what was decided
// before, and coordinates transactions over several groups. The protocol and its
// safety argument are in storage/PROTOCOL.md (3, 5 and 6).
//
// It has no goroutine of its own: it is moved by the groups' loops, whose calls
// never wait, and by those who ask for something. It evaluates nothing itself
// (storage/evaluate does) and logs nothing (storage/group does).
//
// # Invariants
//
//  1. Revisions are handed out only while every group is fenced with the epoch and
//     nothing that was decided in an earlier one is missing.
//  2. There is at most one decision that is not complete.
//  3. Whoever asked is answered once: with an answer, with
//     group.ErrNotSequencer if nothing was done, or with group.ErrLeaderChanged
//     if that is not known.
package reign
