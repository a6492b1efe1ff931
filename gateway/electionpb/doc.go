// Package electionpb is etcd's Election service, v3electionpb.Election, whose Go code
// etcd has in its server. All but this file is made from election.proto by
// gateway/protogen, together with lockpb.
package electionpb
