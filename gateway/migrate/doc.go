// Package migrate moves a cluster into a running one without a pause: it has the
// destination, which is Pebbledash, mirror the source, an etcd or a Pebbledash, until
// clients may go over from the one to the other.
//
// It is a client of both. What it does, in order:
//
//  1. It watches the source's whole key space, from now on, into a file (spool): the
//     source may compact what it has not read yet, however long the rest takes.
//  2. It takes a snapshot of the source and has its history replayed at the
//     destination, each version of a key at its own revision.
//  3. It goes on with what was watched. Leases and compactions have no events: it asks
//     the source for them, now and then, and of a lease when a key first names it.
//  4. At the end it compares the two by their hashes (Finish).
//
// It keeps nothing but the snapshot, and that until it is replayed. Where the mirror
// stands is the destination's revision: whoever begins again goes on there, and what
// comes twice is left out (evaluate.Mirror). Two may run at once.
//
// It does not decide what the destination takes: gateway/migration.go does.
//
// All functions may be called concurrently, but two that begin with a snapshot of one
// source need a WorkDir each. Report and Retrying are called on the goroutine of Run or Finish.
package migrate
