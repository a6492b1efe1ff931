// Package bolt writes database files of bbolt, the store of etcd, front to back
// in one stream: for backups in etcd's own format (storage/backup). It reads them only
// to say whether they are sound ([Check]); for all else go.etcd.io/bbolt reads.
//
// # The format
//
// As bbolt v1.5.0 has it (internal/common: page.go, meta.go, bucket.go, inode.go),
// on a machine of little byte order. A file is pages of PageSize bytes:
//
//	page 0, 1   meta: the root, how many pages there are; with a checksum, twice
//	page 2      the free pages: none
//	page 3...   the trees of the buckets, then the tree of their names
//
// Every page begins with 16 bytes: its number (8), its kind (2), how many elements
// it has (2), by how many further pages it is continued (4). In a leaf or a branch
// there follow 16 bytes for each element, then the keys and values:
//
//	leaf     flags (4), position (4), length of the key (4), of the value (4)
//	branch   position (4), length of the key (4), page (8)
//
// A position counts from the element. A branch names each page below it by the
// first key there.
//
// # Two passes
//
// The meta pages come first and tell the root and the end, which are known last. So
// the rows are gone through twice: [Plan] counts pages, [Write] writes them. A tree
// grows from the bottom; a page is written as soon as it is full, behind those that it
// names. No more than one page for each level of a tree is in memory.
//
// Of rows that are costly to have in order Plan may be told no more than how many and
// how long they are ([Writer.Bulk]). It takes as many pages for them as they can need;
// those that are left over lie behind all other buckets, and continue the root page of
// the last one: no list of free pages has to name them, and bbolt frees them when it
// writes that page anew.
//
//	... | bulk | other buckets, the last one's root | left over | names
//
// # Invariants
//
//  1. Write makes the layout that it was given, or fails.
//  2. A branch has two elements at least: bbolt panics when it deletes from a page
//     that is alone below its branch.
//  3. Of a leaf's pages a sixteenth is empty at most, or it is the last of its tree.
//
// Plan, Write and Check may be called concurrently; the Writer that fill is given is
// for one goroutine.
package bolt
