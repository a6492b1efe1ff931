// Package repository keeps backups of members' states in a directory: what Pebble's
// checkpoints have, stored by content. Pebble's tables never change, so that a backup
// which has most tables in common with an earlier one adds only what is new.
//
// It knows nothing of where a backup comes from (gateway/backupclient brings it from a
// member) and not how its rows become a new member's (storage/mvcc, adopt.go).
//
// # Layout
//
//	REPOSITORY           that this is one, and in which format (JSON)
//	lock                 who uses the repository holds a lock of it; empty
//	create.lock          who adds a backup does, too; empty
//	backups/<id>.json    the manifest of a backup: manifest.go
//	files/<ab>/<abcd...> a file, by the SHA-256 of its content
//	tmp/                 what is being written
//
// The layout and the manifest are a file format, and should not be changed.
//
// # Invariants
//
//  1. A name in files/ is there only with its whole content, durably: it is written in
//     tmp/, synced, and renamed; then its directory is synced.
//  2. A manifest is there only if all its files are, durably: it comes last, and Prune,
//     which alone removes anything, removes manifests first.
//  3. Nothing is ever written to but in tmp/, so that a crash, or a write that fails, leaves
//     the backups that there were. What it leaves in tmp/ the next Create removes, and files
//     that no manifest names Prune does.
//
// Locks are of the kind that ends with its process. Prune excludes all others, Creates
// exclude each other, and whoever only reads may do so beside a Create. What is opened,
// a Repository, a Creation or a FileWriter, is for one goroutine.
package repository
