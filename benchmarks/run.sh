#!/usr/bin/env bash
#
# run.sh [quick|full|cluster|overload|fanout|snapshot|backup] [FLAG...] measures pebbledash and the real etcd
# beside each other, under the same load and with the same durability, and prints
# medians, spreads and ratios. README.md says what the columns mean.
#
#   benchmarks/run.sh                       quick: under five minutes
#   benchmarks/run.sh full -save            keep the results in benchmarks/results
#   benchmarks/run.sh fanout                one event to up to 10,000 watchers, some 5 minutes
#   benchmarks/run.sh snapshot              a snapshot of 5 GiB, some 10 minutes; -fill=1073741824 is 1 GiB
#   benchmarks/run.sh backup                our own backups of 1 GiB, first and incremental, and a restore; pebbledash alone
#   benchmarks/run.sh cluster               three members of each, writes, some 15 minutes
#   benchmarks/run.sh overload              node leases under a storm of events and lists, some 5 minutes
#   benchmarks/run.sh quick -loads put1k -shapes 8/64 -turns 5
#   benchmarks/run.sh -help                 all flags
#
# It builds what it needs: bin/pebbledash, bin/benchmarks, and etcd, which
# benchmarks/peers/build.sh keeps. With -server of your own, only those servers
# are measured, such as two builds of pebbledash.

set -euo pipefail

main() {
	local here root commit mode=quick args=() arg etcd own=0
	here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
	root=$(dirname "$here")
	case ${1-} in
	'' | -*) ;;
	*) mode=$1 && shift ;;
	esac
	for arg; do
		case $arg in
		-save | --save) args+=("-save=$here/results") ;;
		-server | --server | -server=* | --server=*) own=1 && args+=("$arg") ;;
		*) args+=("$arg") ;;
		esac
	done

	CGO_ENABLED=0 go build -C "$here" -trimpath -o "$root/bin/benchmarks" .
	if ((!own)); then
		make -s -C "$root" build >&2
		etcd=$("$here/peers/build.sh" etcd)
		if [[ $mode == cluster ]]; then
			args=("-server=one-group=$root/bin/pebbledash --resource-groups=" "${args[@]}")
			args=("-server=four-groups=$root/bin/pebbledash" "${args[@]}")
		else
			args=("-server=pebbledash=$root/bin/pebbledash" "${args[@]}")
		fi
		if [[ $mode != backup ]]; then
			args+=("-server=etcd=$etcd")
		fi
	fi
	commit=$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)
	exec "$root/bin/benchmarks" "$mode" "-commit=$commit" "${args[@]}"
}

# In a function, so that bash has read the whole file before it builds.
main "$@"
