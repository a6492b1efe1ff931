// Package inspect looks into the data directory of a member that does not run: what
// its groups have, the keys as they were at a revision, every version of a key, and
// whether all of it is as it must be. The commands verify, dump, history and groups
// are its users.
//
// # Invariants
//
//  1. Nothing in the directory is changed but the time of the lock files, which are
//     empty: databases are opened to be read, on a file system that refuses everything
//     else.
//  2. The directory is locked meanwhile: no member can be started in it, and none that
//     runs is looked into.
//  3. A few rows are in memory, whatever the size, and what of the logs is not in
//     tables yet.
//
// What is shown is the state as it would be after a start, before the log is applied:
// after a crash the state may lack what the log has (Group.Unapplied).
//
// A Dir is for one goroutine.
package inspect
