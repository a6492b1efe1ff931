// Package keyspace shows the states of all groups as one key space: reads, events
// and checksums over any keys, whichever groups own them (between rooms [4] and
// [7] of the drawing in gateway/doc.go). storage/route says which group owns a
// key, storage/mvcc keeps each group's.
//
// A [Space] decides nothing about revisions. A group's own revision says nothing
// of the others', so that what is read at must be a revision up to which
// everything is applied here, in the groups that the read touches: the member's
// closed revision, or one that the sequencer has told (storage/PROTOCOL.md, 5).
// Evaluation also reads what is newest, of groups that stand still meanwhile.
//
// # Invariants
//
//  1. What a read returns does not depend on which groups own its keys: it is what
//     one store would return that held the rows of all.
//  2. A compaction takes effect in all groups at one moment: Compacted is raised
//     before that of any store, and every read looks at it before it looks at a
//     store. Whoever has been refused a revision, or told Compacted, will be
//     refused that revision in every group.
//  3. No row is deleted in a store that a read which was not refused needs: the
//     store checks once more when it has fixed its view.
//
// All methods may be called concurrently.
package keyspace
