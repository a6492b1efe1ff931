#!/usr/bin/env bash
#
# mutants.sh [CLUSTERS] plants each bug of testdata/mutants in a copy of the tree,
# and runs the simulation there, which must find it. It prints for each how many
# simulated clusters that took, and fails if one is not found in CLUSTERS (200).

set -euo pipefail

main() {
	local here root clusters=${1:-200} patch name out failed=0
	here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
	root=$(cd "$here/../.." && pwd -P)
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	printf '%-24s %-10s %s\n' mutant clusters found
	for patch in "$here"/testdata/mutants/*.patch; do
		name=$(basename "$patch" .patch)
		rm -rf "$work/tree" && mkdir -p "$work/tree"
		cp -r "$root/go.mod" "$root/go.sum" "$root/storage" "$root/pkg" "$work/tree"
		patch -s -p1 -d "$work/tree" <"$patch"
		if out=$(cd "$work/tree" && go test -timeout 30m ./storage/group -run TestSimulation -clusters "$clusters" 2>&1); then
			printf '%-24s %-10s %s\n' "$name" "$clusters" 'NOT FOUND'
			failed=1
			continue
		fi
		if ! grep -q 'steps after its begin' <<<"$out"; then
			printf '%-24s %-10s %s\n' "$name" - 'does not build:'
			head -20 <<<"$out"
			failed=1
			continue
		fi
		printf '%-24s %-10s %s\n' "$name" \
			"$(grep -o 'TestSimulation -seed [0-9]*' <<<"$out" | head -1 | tr -dc 0-9)" \
			"$(grep -A1 'steps after its begin' <<<"$out" | sed -n 2p | sed 's/^ *//' | cut -c1-90)"
	done
	return "$failed"
}

main "$@"
