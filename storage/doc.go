// Package storage holds the rooms behind the gateway; it has no code of its own.
// Each room's doc says what it keeps. Together they promise, to whoever speaks
// to a member:
//
//  1. Every change has a revision. Revisions are unique for each request that
//     changes keys, and increase, over all groups; without a failure of a member
//     each is the one before plus one. A store that was never written is at
//     revision 1. [revline, reign, group]
//  2. A request that changes nothing takes no revision, nor does anything that
//     the cluster writes for itself. [evaluate]
//  3. A request changes everything that it says it changed, at one revision, or
//     nothing, in however many groups. [evaluate, reign, mvcc]
//  4. If a request completes before another begins, the second sees the first,
//     whichever members they were sent to. [reign, revline, member]
//  5. A read at a revision shows every change up to it and none after it, for as
//     long as the revision is not compacted. [mvcc]
//  6. What was acknowledged survives a crash; what was not is there in whole or
//     not at all; a revision that anybody may have seen is never handed out
//     again. [group]
//  7. A damaged log or state is refused at start, or stops the member; it is
//     never served. [group, mvcc, engine]
package storage
