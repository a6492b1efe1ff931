// Package mvcc keeps one group's state: every version of every key since the
// last compaction, in Pebble (room [7] of the drawing in gateway/doc.go).
//
// It applies effects that the sequencer has evaluated and raft has committed, reads
// at any revision that is not compacted, and deletes in the background what a
// compaction frees. It decides nothing: whether a request changes the state,
// and at which revision, is decided in storage/evaluate.
//
// # Layout
//
// Every key begins with the group (2 bytes) and a table (1 byte); the engine's
// version suffix is written as @main.sub (storage/engine, key.go).
//
//	table     key                         value
//	'k' data  user key @main.sub          create, version, lease, value; empty for a tombstone
//	'r' revs  main (8 bytes), sub (4)     user key
//	'l' lease lease id (8)                granted TTL, remaining TTL
//	'j' join  lease id (8), group (2)     (empty)
//	'a' attach lease id (8), user key     (empty)
//	'c' member member id (8)              the member layer's; empty if it was removed
//	'm' meta  name                        see meta.go
//	'n' record table, 0x00, name          see records.go
//
// The layout is part of the file format, and should not be changed.
//
// # Invariants
//
//  1. One Pebble batch holds whole raft entries together with the applied
//     index: after a crash the state is that of some applied index.
//  2. An 'r' row and its 'k' row are written and deleted together.
//  3. Of the versions of a key with main <= Compacted, only the newest can be
//     read. Reads below Compacted are refused before any row below it is
//     deleted, and a read checks again after it has fixed its view.
//  4. A tombstone at exactly the compacted revision is kept until the next
//     compaction, so that a watch from there delivers the deletion, as in etcd.
//  5. An 'a' row is there exactly if the newest version of its key names the
//     lease.
//
// Reads may run concurrently with each other and with an Apply. Apply is for
// one goroutine, as is Scrub for another.
//
// A replica that is far behind is given another's rows: export.go says what is
// sent, ingest.go how it takes the place of the state.
package mvcc
