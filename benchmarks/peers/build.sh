#!/usr/bin/env bash
#
# build.sh NAME... builds the peers: the real etcd, kine and Kubernetes binaries
# that tests and benchmarks run beside or on top of pebbledash.
#
#   names   etcd etcdctl etcdutl
#           kine (with SQLite; the one that needs a C compiler)
#           kube-apiserver kube-controller-manager kube-scheduler kubemark
#           hollow-nodes, many of kubemark's nodes in one process (kube/hollow-nodes)
#   groups  etcd-all kube-all
#
# It prints the absolute path of every binary asked for on stdout, one a line,
# in the order asked; progress goes to stderr. Binaries are kept by version in
#
#   ${PEBBLEDASH_CACHE:-$HOME/.cache/pebbledash}/bin/<name>-<version>
#
# outside the checkout. One that is there already costs nothing; kube-apiserver
# takes some 15 CPU minutes the first time. To build one again, delete its file.
#
# Concurrent callers are safe: a family (etcd, kine, kube) is built under one lock,
# and a binary appears under its name only whole, and only after it has told
# its version.

set -euo pipefail

# The versions of etcd and kine are pinned in etcd/go.mod and kine/go.mod.
readonly kube_version=v1.37.1

readonly etcd_names=(etcd etcdctl etcdutl)
readonly kube_names=(kube-apiserver kube-controller-manager kube-scheduler kubemark hollow-nodes)

say() { printf 'peers: %s\n' "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

usage() {
	cat >&2 <<-EOF
		usage: build.sh NAME...
		  names:  ${etcd_names[*]} kine ${kube_names[*]}
		  groups: etcd-all kube-all
	EOF
	exit 2
}

family_of() {
	case $1 in
	etcd*) echo etcd ;;
	kine) echo kine ;;
	*) echo kube ;;
	esac
}

version_of() {
	case $(family_of "$1") in
	etcd) echo "$etcd_version" ;;
	kine) echo "$kine_version" ;;
	kube) echo "$kube_version" ;;
	esac
}

# The source of hollow-nodes is ours, so its name tells that as well as the version.
path_of() {
	case $1 in
	hollow-nodes) echo "$bin/$1-$(cksum <"$here/kube/hollow-nodes/main.go" | cut -d' ' -f1)-$(version_of "$1")" ;;
	*) echo "$bin/$1-$(version_of "$1")" ;;
	esac
}

# build_etcd NAME OUT
build_etcd() {
	nice -n 10 go build -C "$here/etcd" -mod=readonly -trimpath -ldflags '-s -w' \
		-o "$2" "./cmd/$1"
}

# build_kine NAME OUT
build_kine() {
	CGO_ENABLED=1 nice -n 10 go build -C "$here/kine" -mod=readonly -trimpath -tags nats,sqlite_stat4 \
		-ldflags "-s -w -X github.com/k3s-io/kine/pkg/version.Version=$kine_version" -o "$2" .
}

# build_kube NAME OUT
#
# REQUIRES: the kube lock, for the wrapper module.
build_kube() {
	local wrapper=$cache/kube-$kube_version flags='-s -w' main=k8s.io/kubernetes/cmd/$1 pkg major minor
	# Built by the name of the file, for its build tag.
	[[ $1 != hollow-nodes ]] || main=$here/kube/hollow-nodes/main.go
	if [[ ! -f $wrapper/go.mod ]]; then
		say "preparing the wrapper module in $wrapper"
		"$here/kube/wrapper.sh" "$kube_version" "$wrapper" || return
	fi
	IFS=. read -r major minor _ <<<"${kube_version#v}"
	for pkg in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $pkg.gitVersion=$kube_version -X $pkg.gitTreeState=archive"
		flags+=" -X $pkg.gitMajor=$major -X $pkg.gitMinor=$minor"
	done
	nice -n 10 go build -C "$wrapper" -mod=mod -trimpath -ldflags "$flags" \
		-o "$2" "$main"
}

# check NAME FILE asks a fresh binary for its version.
check() {
	local flag=--version answer want
	case $1 in etcdctl | etcdutl) flag=version ;; esac
	want=$(version_of "$1")
	answer=$("$2" "$flag" 2>&1) || true
	[[ $answer == *"${want#v}"* ]] || die "$1 was built, but says '$answer' instead of $want"
}

# ensure NAME builds one binary unless it is there.
ensure() {
	local name=$1 out family tmp started=$SECONDS tool
	out=$(path_of "$name")
	[[ ! -x $out ]] || return 0
	for tool in go flock; do
		command -v "$tool" >/dev/null || die "$name has to be built, and there is no $tool in PATH"
	done
	mkdir -p "$bin" || die "cannot create $bin"

	# The go tool inherits the lock: should only this script be killed, the
	# next caller waits for the orphan, and then finds its work in Go's cache.
	family=$(family_of "$name")
	exec 9>"$cache/$family.lock"
	if ! flock --nonblock 9; then
		say "$name: waiting for another build of $family"
		flock 9
	fi
	if [[ ! -x $out ]]; then # else whoever held the lock has built it
		say "$name: building $out"
		# NB: one fixed name, so that killed builds do not pile up; the lock
		# keeps it ours.
		tmp=$bin/.$(basename "$out").tmp
		"build_$family" "$name" "$tmp" || die "$name was not built, see above"
		check "$name" "$tmp"
		mv -f "$tmp" "$out"
		say "$name: done in $((SECONDS - started)) s"
	fi
	exec 9>&-
}

main() {
	[[ $# -gt 0 ]] || usage
	local arg name names=()
	for arg; do
		case $arg in
		etcd-all) names+=("${etcd_names[@]}") ;;
		kube-all) names+=("${kube_names[@]}") ;;
		-h | --help) usage ;;
		*)
			case " ${etcd_names[*]} kine ${kube_names[*]} " in
			*" $arg "*) names+=("$arg") ;;
			*)
				say "error: unknown peer '$arg'"
				usage
				;;
			esac
			;;
		esac
	done

	here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
	cache=${PEBBLEDASH_CACHE:-${HOME:?neither PEBBLEDASH_CACHE nor HOME is set}/.cache/pebbledash}
	[[ $cache == /* ]] || cache=$PWD/$cache
	bin=$cache/bin
	etcd_version=$(sed -n 's|^[[:space:]]*go\.etcd\.io/etcd/server/v3 \(v[^ ]*\).*|\1|p' "$here/etcd/go.mod")
	[[ -n $etcd_version ]] || die "no go.etcd.io/etcd/server/v3 in $here/etcd/go.mod"
	kine_version=$(sed -n 's|^[[:space:]]*github\.com/k3s-io/kine \(v[^ ]*\).*|\1|p' "$here/kine/go.mod")
	[[ -n $kine_version ]] || die "no github.com/k3s-io/kine in $here/kine/go.mod"
	readonly here cache bin etcd_version kine_version

	# The same binary whatever the caller's settings are. -p=2: a build shares
	# the machine with other work.
	export CGO_ENABLED=0 GOWORK=off GOFLAGS='-p=2 -buildvcs=false'
	unset GOOS GOARCH GOEXPERIMENT

	for name in "${names[@]}"; do ensure "$name"; done
	for name in "${names[@]}"; do path_of "$name"; done
}

# In a function, so that bash has read the whole file before the long build.
main "$@"
exit
