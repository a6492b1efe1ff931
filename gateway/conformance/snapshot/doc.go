// Package snapshot carries data from etcd to Pebbledash and back, by snapshots in
// etcd's file format, and compares everything that a client can see. It has tests only.
package snapshot
