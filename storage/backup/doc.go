// Package backup writes and reads copies of the store in etcd's own file format: what
// `etcdctl snapshot save` stores, and `etcdutl snapshot restore` takes. So data comes
// from etcd and goes back to it.
//
// A file is a database of bbolt (storage/bolt), and behind it the SHA-256 of all that
// is before it. etcd calls it a snapshot; so do commands, but nothing else here,
// where that is raft's word.
//
// # The buckets
//
// As etcd 3.7 has them (server/storage/schema, server/storage/mvcc):
//
//	bucket            key                                  value
//	key               main (8), '_', sub (8), 't' or not   mvccpb.KeyValue; of a tombstone, only the key
//	lease             id (8)                               leasepb.Lease: id, TTL, remaining TTL
//	meta              consistent_index, term               8 bytes: how far raft's log was applied
//	                  confState                            raft's configuration, as JSON
//	                  scheduledCompactRev                  revision (17): reads below it are refused
//	                  finishedCompactRev                   revision (17): rows below it are gone
//	                  storageVersion                       such as 3.7.0
//	members           id in hexadecimal                    a member, as JSON
//	members_removed   id in hexadecimal                    "removed"
//	cluster           clusterVersion                       such as 3.7.0
//	alarm, auth, authUsers, authRoles                      see Tables
//
// Integers are big-endian. A tombstone of an empty key stands for revisions that
// changed nothing.
//
// # Invariants
//
//  1. What is written is what the store has at one revision, with the history from the
//     compacted revision on.
//  2. A backup that is read and one that is written of it have the same rows in the
//     buckets key and lease.
//  3. Writing and reading hold a few pages in memory, whatever the size, and
//     the ids of the leases.
//
// Nothing of another cluster is believed: who its members were does not come over.
//
// A File and a Backup are for one goroutine each.
package backup
