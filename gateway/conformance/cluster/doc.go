// Package cluster holds sessions with clusters of members, as operators have
// them: members come and go, move, are lost and replaced. It has only tests. The
// sessions are scripts in testdata; the commands are documented at the switch in
// script_test.go, and nearly all of them are lines for the real etcdctl.
//
//	script_test.go    runs the scripts
//	session_test.go   the members and their processes
//	etcdctl_test.go   etcdctl, and what of its output differs from run to run
//	handover_test.go  how fast a leader that is told to stop is replaced
//	certs_test.go     certificates for members
//
// The same scripts run against etcd, which has to print the same:
//
//	go test ./gateway/conformance/cluster -count=1
//	PEBBLEDASH_CONFORMANCE_TARGET=etcd go test ./gateway/conformance/cluster -count=1
//	go test ./gateway/conformance/cluster -count=1 -run 'TestScripts/learner' -v
//	go test ./gateway/conformance/cluster -count=1 -run 'TestScripts/learner' -args -rewrite
//
// Scripts whose name begins with pebbledash are about what etcd does not have.
package cluster
