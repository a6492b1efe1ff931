// Package snapshot carries data from etcd to Pebbledash and back, by snapshots in
// etcd's file format, and over to a running Pebbledash while it is written to, and
// compares everything that a client can see. It has tests only.
package snapshot
