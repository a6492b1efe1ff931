// Package member runs one member of a cluster: it opens the data directory and
// the two databases in it, starts the groups, and joins them with what is one
// for all of them: the sequencer, the leases, compaction, and the feed of
// changes for watchers. It is what the gateway sees of the storage.
//
// One Pebble holds the raft logs and is synced. Another holds the state, is not
// synced, and is brought up to date from the logs at start.
package member
