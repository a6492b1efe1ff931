// Package faults puts a cluster of real processes into networks and onto disks
// that fail, under clients who write, read and watch, and then shows whether
// all of them were told the truth. It runs the same on Pebbledash and on etcd.
// It has only tests.
//
//	main_test.go        which programs, for how long; one trial a fault
//	fault_test.go       the faults: what goes wrong, for how long, and its end
//	session_test.go     a cluster under load: workers, watchers, the end
//	cluster_test.go     members: start, kill, pause, replace
//	network_test.go     a namespace a member, and cables that can be cut one way
//	disk_test.go        disks that are slow, hang, or are full
//	harness_test.go     tests of the two before
//	load_test.go        the load: random requests over keys of several groups
//	client_test.go      sends one request and notes what became of it
//	watcher_test.go     watches: lasting, broken and resumed, of old revisions
//	op_test.go          what a request is, and what its answer was
//	recorder_test.go    all requests, with their times
//	watchlog_test.go    what a watcher was told
//	truth_test.go       the history, as a watch of everything tells it in the end
//	model_test.go       what the store has to do
//	judge_test.go       requests against the truth, in linear time
//	porcupine_test.go   the same by a search for an order
//	watchjudge_test.go  watches against the truth
//	planted_test.go     faults planted in made-up histories, which must be found
//	report_test.go      the table
//
// What is claimed, and how it is shown. The store is one object: a revision and
// all keys at it. Each change makes the next revision, and every answer carries
// the revision that it was given at. So the order of all requests is known, as
// far as they were answered; the history that a watch from the first revision
// tells when all is over fixes the place of the others, by the id of a request
// in each value that it puts. Strict serializability is then that
//
//  1. every revision is what one request makes of the one before, whole, and
//     its answer fits;
//  2. every change that was answered is there at its revision, alone; every
//     other is there once at most;
//  3. every read is right at the revision in its header, and every read at an
//     explicit revision at that;
//  4. this order is one of real time, over all members and all groups, watchers
//     included: nobody is told of less than somebody was told before he asked.
//
// The judge checks this in one pass. Porcupine, which knows nothing of how the
// judge works, searches for an order of the same requests on a store of its
// own. That it should not come to an end is a failure too.
package faults
