#!/usr/bin/env bash
#
# run.sh [MODE] [FLAG...] measures pebbledash and the real etcd beside each other,
# under the same load and with the same durability, and prints medians, spreads and
# ratios. README.md says what the modes and the columns are.
#
#   benchmarks/run.sh                       quick: under five minutes
#   benchmarks/run.sh full -save            keep the results in benchmarks/results
#   benchmarks/run.sh quick -loads put1k -shapes 8/64 -turns 5
#   benchmarks/run.sh all                   every mode, one after the other, kept; then the goals
#   benchmarks/run.sh goals                 goals, met or not, of what was kept last
#   benchmarks/run.sh page                  plots of all that was kept, benchmarks/results/index.html
#   benchmarks/run.sh -help                 all modes and flags
#
# It builds what it needs: bin/pebbledash, bin/benchmarks, and the peers, which
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
	case $mode in
	all)
		all "${args[@]}"
		return
		;;
	goals | page) exec "$root/bin/benchmarks" "$mode" "-results=$here/results" "${args[@]}" ;;
	esac
	if ((!own)); then
		make -s -C "$root" build >&2
		etcd=$("$here/peers/build.sh" etcd)
		# kine takes no plain puts, and is no cluster.
		if [[ $mode == full ]]; then
			args=("-server=kine=$("$here/peers/build.sh" kine)" "${args[@]}")
		fi
		if [[ $mode == cluster ]]; then
			args=("-server=one-group=$root/bin/pebbledash --resource-groups=" "${args[@]}")
			args=("-server=four-groups=$root/bin/pebbledash" "${args[@]}")
		else
			args=("-server=pebbledash=$root/bin/pebbledash" "${args[@]}")
		fi
		# backup measures what only pebbledash has.
		if [[ $mode != backup ]]; then
			args+=("-server=etcd=$etcd")
		fi
	fi
	commit=$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)
	exec "$root/bin/benchmarks" "$mode" "-commit=$commit" "${args[@]}"
}

# all runs every mode with sizes that together take some 75 minutes, keeps what they
# say, and tells at the end which goals were met. One that fails does not keep the
# others from running.
all() {
	local run failed=()
	for run in 'full -turns=3' 'cluster -turns=3' 'overload -turns=2' fanout 'lists -turns=2' leases \
		large 'large -keys=10000000' compaction failover 'mix -turns=1 -overrides' \
		'mix -turns=1 -nodes=1000 -find -warmup=3s -measure=10s' growth 'snapshot -fill=1073741824' backup; do
		# shellcheck disable=SC2086 # Words.
		"$here/run.sh" $run -save "$@" || failed+=("$run")
	done
	"$here/run.sh" goals
	if ((${#failed[@]})); then
		printf 'failed: %s\n' "${failed[@]}" >&2
		return 1
	fi
}

# In a function, so that bash has read the whole file before it builds.
main "$@"
