// Package wire encodes requests and their results for the way between members:
// what a member asks of the one that evaluates, and what that one answers.
//
// An encoding is a version byte and then the op or the result. All numbers are
// unsigned varints (negative ones are cast, and take ten bytes), byte strings and
// lists are preceded by their length. Part of the protocol between members; what
// stands here should not be changed, only a new version put beside it:
//
//	op              kind byte, and then
//	  range         flags (key's only, count only, and which of the next are
//	                there), key, end, [limit], [revision], [target, order: a byte
//	                each], [least and greatest mod, least and greatest create]
//	  put           flags, key, value, lease
//	  delete range  flags, key, end
//	  txn           compares, ops of success, ops of failure: a count each and
//	                then so many of them
//	  compact       revision
//	  lease grant   id, ttl
//	  lease revoke  id
//	  checkpoint    count, and so many of id and seconds
//	records         table, version, count, and so many of: flags (set), key, value
//	mirror          after, count and so many of lease and ttl, count and so many
//	                revisions, count and so many leases, compacted revision
//	  revision      revision, count, and so many of: flags (deleted), sub, key,
//	                and of one that is not deleted value, create, version, lease
//	compare         target and result: a byte each, key, end, number, value
//	result          flags (more, succeeded, and which of the next are there),
//	                revision, [kvs], [count], [previous kvs], [deleted],
//	                [results], [ttl]
//	kv              key, create, mod, version, value, lease
//
// A missing list or byte string and an empty one are the same, and are decoded as
// nil: no request and no result means different things by them.
//
// Decoders trust nothing: what they allocate is bounded by what they were given,
// and what they do not know is an error. The functions are safe for concurrent use.
package wire
