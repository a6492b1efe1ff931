// Package crash kills a real server with SIGKILL while clients work with it,
// starts it again on the same data, and compares what it holds with what every
// client was told. It has only tests.
//
//	main_test.go      which program; how often it is killed, from which seed
//	session_test.go   the rounds: load, kill, start, verify
//	writer_test.go    the load: random requests of several clients
//	client_test.go    sends one request and notes the answer
//	op_test.go        what a request is, and what its answer was
//	ledger_test.go    everything that clients have been told
//	watcher_test.go   watches that go on through all kills
//	history_test.go   every revision's events, as watchers were told them
//	model_test.go     the states of all keys that these events make
//	checker_test.go   compares ledger, history and model
//	verify_test.go    asks the restarted server, and compares with the model
//	judge_test.go     faults planted in made-up histories, which must be found
//	report_test.go    the closing table
//
// Run it by
//
//	make kill                                                       50 kills
//	PEBBLEDASH_KILLS=500 go test ./gateway/conformance/crash -count=1 -v -timeout 1h
//	PEBBLEDASH_SEED=7 ...                                           the same load again
//	PEBBLEDASH_CONFORMANCE_TARGET=etcd ...                          the real etcd, which must pass
//	PEBBLEDASH_BINARY=/path/of/a/pebbledash ...                     another build
//	... -artifacts -outputdir /tmp                                  keeps the data directory and the log
//
// Every value that is written is unique and names its request, so each revision
// can be traced to the one request that made it. What must hold:
//
//  1. An acknowledged write is in the history with exactly the revision that
//     was told and exactly what it asked for; one that changed nothing made no
//     revision.
//  2. A write that was not acknowledged is there once and whole, or not at all,
//     and not later than the first answer after the restart.
//  3. Revisions are dense and never used twice. One may be missing only if
//     nobody was told of it before a kill, or of anything later.
//  4. An answer is true at the revision in its header, and that is not older
//     than any revision told to anybody before the request was sent.
//  5. A watcher gets every event of its keys exactly once, in order, whole
//     revisions at a time, and none at or below a revision whose progress it
//     has been told.
//  6. History that is not compacted reads the same as it was before the kill:
//     by ranges at old revisions, by a watch from the compacted revision, by
//     HashKV. What is compacted stays compacted.
//  7. A granted lease is there until it is revoked, or until its TTL is over
//     and not before, and ends with all its keys in one revision.
//  8. Whoever was answered "ready" is not answered with errors until the kill.
//
// NB: a killed process loses nothing that it had handed to the kernel. That
// writes are synced before they are acknowledged is for the tests on file
// systems that forget, see storage/group.
package crash
