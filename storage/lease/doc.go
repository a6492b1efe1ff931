// Package lease keeps one member's view of the cluster's leases: which there
// are, how long each was granted for, and, on the one member that counts, when
// each of them ends. It is memory only. What is durable about a lease (its ID,
// its TTL, the last checkpoint) lives in storage/mvcc, and so do the keys that
// are attached to it.
//
// Two kinds of calls come in, from storage/member:
//
//   - Effects that the log has decided, on every member and in log order:
//     [Lessor.Granted], [Lessor.Revoked], [Lessor.Checkpointed]. They are
//     idempotent, so a replay does no harm.
//   - The work of the primary, which is core's leader between
//     [Lessor.Promote] and [Lessor.Demote]: [Lessor.Renew],
//     [Lessor.TimeToLive], and the expiry loop (see [Lessor.Wait]).
//
// # What holds
//
//  1. A lease lives at least its time to live, counted from the moment at which
//     the last acknowledged renewal (or the grant) was applied, whoever leads
//     in between. A new primary gives every lease what its last checkpoint
//     left of it, or all of it, and an extension.
//  2. A lease that was handed out by [Lessor.Expired] is never renewed any more
//     by this primary, because its revocation may already stand in the log. A
//     renewal that comes too late waits to see what becomes of it.
//  3. A checkpoint can not take away what a later renewal gave: a renewal waits
//     for a checkpoint of the same lease that is on its way, and asks for a
//     reset when there is, or may be, one to undo.
//  4. On a member that is not primary no lease ever expires.
//
// # Time
//
// Time is pkg/clock's, read as the duration since the Lessor was made, so a
// step of the wall clock changes nothing. TTLs are whole seconds, as in etcd.
//
// All methods may be called concurrently.
package lease
