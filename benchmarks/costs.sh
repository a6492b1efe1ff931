#!/usr/bin/env bash
#
# costs.sh PROFILE MICROSECONDS: where the CPU of a put goes, of a CPU profile (-profiles)
# of pebbledash and the microseconds that a put has cost in that run. What is of none of
# these is left out.

set -euo pipefail

profile=${1:?usage: costs.sh PROFILE MICROSECONDS}
total=${2:?usage: costs.sh PROFILE MICROSECONDS}

# share WHAT FOCUS [IGNORE] prints the microseconds in stacks with FOCUS, and none of IGNORE.
share() {
	go tool pprof -top -focus="$2" ${3:+-ignore="$3"} "$profile" 2>/dev/null |
		awk -v what="$1" -v total="$total" '
			/^Showing nodes accounting for/ {
				gsub(/[,%]/, "")
				printf "%-46s %5.1f us\n", what, $6 * total / 100
			}'
}

share 'gRPC: frames and headers of requests' 'HandleStreams'
share 'gRPC: answers' 'loopyWriter'
share 'gRPC: calls, messages decoded and encoded' 'serverWorker|handleStream' 'gateway\.\(\*'
share 'admission' 'gateway\.\(\*Server\)\.unary' 'doAs|kvServer'
share 'our handler, and waiting for the outcome' 'kvServer|doAs'
share 'evaluation' '\(\*Group\).evaluate'
share 'raft and the loop of a group' '\(\*Group\).run' '\(\*Group\).evaluate'
share 'log: encoding, writing' 'LogWriter\).run|flushLoop' 'Fdatasync'
share 'log: fdatasync' 'Fdatasync'
share 'applying: batches, memtable' 'applier\).run|memTable\).apply' 'LogWriter\).run|revline|watchcache'
share 'publishing: revision line, watch cache' 'revline|watchcache'
share 'flushes and compactions' 'runCompaction|DB\).flush|DB\).compact'
share 'garbage collector' 'gcBgMarkWorker|bgsweep|bgscavenge'
share 'scheduler' 'runtime.mcall|runtime.findRunnable|runtime.schedule'
