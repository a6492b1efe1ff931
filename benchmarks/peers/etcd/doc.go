// Package etcd is a module of its own that pins etcd, the peer that pebbledash
// is measured against, so that none of etcd's server code enters pebbledash's
// module graph. Its commands are upstream's mains and add nothing to them.
//
// Only tests and benchmarks run these binaries; ../build.sh builds them.
package etcd
