#!/usr/bin/env bash
#
# run.sh [FLAG...] loads a Kubernetes control plane with hollow nodes on top of pebbledash
# and of etcd, in turn, and prints what clients saw beside what Kubernetes promises.
# README.md says what the tables mean. It needs root, for a network namespace.
#
#   benchmarks/kubemark/run.sh                        100 nodes, 1000 pods, both stores
#   benchmarks/kubemark/run.sh -nodes=5 -pods=20         a look
#   benchmarks/kubemark/run.sh -save                  keep text and page in benchmarks/results
#   benchmarks/kubemark/run.sh -members=3 -during=rolling-restart    an operation under load
#   benchmarks/kubemark/run.sh -help                  all flags
#
# It builds what it needs: bin/pebbledash, bin/kubemark, and the peers, which
# benchmarks/peers/build.sh keeps; Kubernetes takes half an hour of CPU the first time.

set -euo pipefail

main() {
	local here root commit arg name args=() names
	here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
	root=$(cd "$here/../.." && pwd -P)
	for arg; do
		case $arg in
		-save | --save) args+=("-save=$root/benchmarks/results") ;;
		*) args+=("$arg") ;;
		esac
	done
	make -s -C "$root" build >&2
	CGO_ENABLED=0 go build -C "$root/benchmarks" -trimpath -o "$root/bin/kubemark" ./kubemark
	args=("-bin=pebbledash=$root/bin/pebbledash" "-dir=$root/data/kubemark" "${args[@]}")
	names=(etcd etcdctl etcdutl kube-apiserver kube-controller-manager kube-scheduler hollow-nodes)
	"$root/benchmarks/peers/build.sh" "${names[@]}" >/dev/null
	for name in "${names[@]}"; do
		args=("-bin=$name=$("$root/benchmarks/peers/build.sh" "$name")" "${args[@]}")
	done
	commit=$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)
	exec "$root/bin/kubemark" "-commit=$commit" "${args[@]}"
}

# In a function, so that bash has read the whole file before it builds.
main "$@"
