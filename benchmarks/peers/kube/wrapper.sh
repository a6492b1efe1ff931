#!/usr/bin/env bash
#
# wrapper.sh VERSION DIR writes into DIR a module from which Kubernetes' own
# main packages can be built at VERSION. ../build.sh calls it, under its lock.
#
# Kubernetes' go.mod replaces its staging modules (k8s.io/api and 30-odd more)
# by folders of its repository, which the published module lacks. The wrapper
# is that go.mod with each of them replaced by the published module of the same
# release, v0.X.Y for v1.X.Y. The module is written outside the checkout, since
# the go tool adds the published modules' checksums to its go.sum.

set -euo pipefail

[[ $# -eq 2 && $1 == v1.* && $2 == /* ]] || {
	echo "usage: wrapper.sh v1.X.Y /ABSOLUTE/DIR" >&2
	exit 2
}
version=$1 dir=$2 staging=v0.${1#v1.}

die() {
	printf 'wrapper.sh: error: %s\n' "$*" >&2
	exit 1
}

# Outside any module, so that no other go.mod has a say.
rm -rf "$dir.tmp"
mkdir -p "$dir.tmp"
answer=$(cd "$dir.tmp" && go mod download -json "k8s.io/kubernetes@$version") ||
	die "cannot download k8s.io/kubernetes $version: $answer"
upstream=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p' <<<"$answer")
[[ -f $upstream/go.mod && -f $upstream/go.sum ]] ||
	die "no go.mod and go.sum in '$upstream'"

{
	sed -e 's|^module k8s.io/kubernetes$|module github.com/pebbledash/pebbledash/benchmarks/peers/kube|' \
		-e "s|=> \./staging/src/\(k8s.io/[^ ]*\)$|=> \1 $staging|" \
		"$upstream/go.mod"
	printf '\nrequire k8s.io/kubernetes %s\n' "$version"
} >"$dir.tmp/go.mod"
if grep -nE '=> *\.|^module k8s.io/kubernetes$' "$dir.tmp/go.mod" >&2; then
	die "these lines of $upstream/go.mod were not understood"
fi
# By cat, since a copy would be read-only like everything in the module cache.
cat "$upstream/go.sum" >"$dir.tmp/go.sum"

rm -rf "$dir"
mv "$dir.tmp" "$dir"
