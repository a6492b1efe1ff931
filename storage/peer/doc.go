// Package peer carries bytes between the members of a cluster: raft messages of
// all groups, calls and their replies, notices of which only the newest counts, and
// snapshots. It knows nothing of what they mean. storage/member hands it bytes and
// gets those of others through a Handler.
//
// Each member dials each other one, so that between two there are two connections:
// what a member sends, and the replies to its calls, go over the one that it
// dialed. Everything of all groups shares it. A snapshot has a connection of its
// own for as long as it takes, so that nothing waits behind it.
//
//	                    dialed by A
//	A: Send, Notify ──▶ outbox ─▶ writer ══ stream ══▶ reader ─▶ B: Handler.Raft, Notice
//	   Call ──────────▶                                       └▶ workers ─▶ Handler.Call
//	   reply ◀──────────────────── reader ◀══ stream ══ writer ◀─ outbox ◀───┘
//
// A stream carries frames; a frame is what was waiting when the writer came, up to
// about a MiB, so that under load many records share the price of one message. Under
// it are gRPC, HTTP/2, and TLS where a URL begins with https.
//
// # Invariants
//
//  1. Send and Notify never block, nor does a member that is stopped, slow or gone
//     hold up anything that is meant for another. What does not fit is dropped and
//     counted.
//  2. What is sent to a member in one connection arrives in the order in which it
//     was sent, once at most. A member reads from one connection of another at a
//     time: a new one takes the place of the old one, after that has been read to
//     where it ends.
//  3. A call that failed with ErrNotSent or ErrBusy was not and will not be handled
//     by the other side. One that failed with ErrUnknown may have been, and may
//     still be.
//  4. The context of a call that a Handler answers ends when the caller gives up
//     or cannot be reached any more.
//  5. Everything received is bounded: its size before it is read, the number of
//     calls, snapshots and connections.
//
// All methods of a Transport may be called concurrently, Serve once; those of a Handler
// are, but where it says otherwise.
//
// # The protocol
//
// What follows is the protocol between members, and should not be changed but with
// a new version. Numbers of a fixed width are big-endian, the others are unsigned
// varints. Method pebbledash.Peer/Talk, a stream, after the greeting:
//
//	frame    record ...
//	record   1 raft      group, length, payload
//	         2 notice    length, payload
//	         3 call      id, method byte, length, payload
//	         4 cancel    id
//	         5 reply     id, length, payload
//	         6 failure   id, class byte, code byte, length, message
//
// The dialing side sends 1 to 4, the other 5 and 6. The greeting, with which
// Talk and Snapshot begin, is one message of each side:
//
//	hello    newest and oldest version: a byte each; cluster, sender, receiver:
//	         8 bytes each
//	welcome  0, version byte, cluster, member: 8 bytes each
//	refusal  why byte (not 0), code byte, message
//
// Method Snapshot, a stream, after the greeting; the last message is the receiver's:
//
//	1 header    2 chunk    3 end    answer
//
// Methods Ask and Ping are unary. Ask takes a method byte and a payload and returns
// an answer, Ping is empty.
//
//	answer   0, payload, or class byte (not 0), code byte, message
package peer
