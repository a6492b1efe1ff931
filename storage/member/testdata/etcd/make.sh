#!/usr/bin/env bash
#
# make.sh VERSION... makes the snapshots that TestRestoreOfOlder restores: each of a real
# etcd of that version, built through the module proxy, with what its clients saw.
#
#   storage/member/testdata/etcd/make.sh v3.4.13 v3.5.35 v3.6.16
#
#   etcd-<version>.db.gz    etcdctl snapshot save
#   etcd-<version>.txt.gz   "rev N JSON" from the compacted revision on, "lease JSON", "user JSON"

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
readonly here port=23790
etcdctl=$("$here/../../../../benchmarks/peers/build.sh" etcdctl)
work=$(mktemp -d)
server=
cleanup() {
	[[ -z $server ]] || kill "$server" || true
	wait
	rm -rf "$work"
}
trap cleanup EXIT

build() { # VERSION
	local package=go.etcd.io/etcd/server/v3/etcdmain main='etcdmain.Main(os.Args)' get=("go.etcd.io/etcd/server/v3@$1")
	if [[ $1 == v3.4.13 ]]; then
		# Its module had no version of that name yet, and wants an older Go.
		package=go.etcd.io/etcd/etcdmain main='etcdmain.Main()'
		get=(go.etcd.io/etcd@v0.5.0-alpha.5.0.20200910180754-dd1b699fc489 golang.org/x/sys@latest)
	fi
	mkdir -p "$work/$1"
	cat >"$work/$1/main.go" <<-GO
		package main

		import (
			"os"

			"$package"
		)

		func main() {
			_ = os.Args
			$main
		}
	GO
	(
		cd "$work/$1"
		go mod init etcd
		go get "${get[@]}"
		go mod tidy
		go build -o etcd .
	) >&2
}

ctl() { "$etcdctl" --endpoints="http://127.0.0.1:$port" "$@"; }

fill() {
	local lease i
	lease=$(ctl lease grant 3600 -w json | sed 's/.*"ID":\([0-9]*\).*/\1/')
	for i in {1..30}; do
		ctl put "/registry/pods/default/p$((i % 7))" "value $i"
		ctl put "/registry/events/default/e$i" "event $i" --lease="$(printf %x "$lease")"
		((i % 5)) || ctl del "/registry/pods/default/p$((i % 7))"
	done
	ctl put --ignore-value=false big "$(head -c 9000 /dev/zero | tr '\0' x)"
	ctl txn <<<$'\n\nput both "1"\nput /registry/leases/both "2"\ndel p1\n\n'
	ctl compact 30 --physical
	ctl put after compaction
	ctl user add root --new-user-password=secret
	ctl user grant-role root root
	ctl role add reader
	ctl role grant-permission reader read /registry/ /registry0
	ctl user add reader --new-user-password=secret
	ctl user grant-role reader reader
}

look() {
	local rev last user
	last=$(ctl get after -w json | sed 's/.*"revision":\([0-9]*\).*/\1/')
	for ((rev = 30; rev <= last; rev++)); do
		echo "rev $rev $(ctl get '' --from-key --rev="$rev" -w json)"
	done
	for lease in $(ctl lease list | tail -n +2); do
		echo "lease $(ctl lease timetolive "$lease" --keys -w json)"
	done
	for user in $(ctl user list); do
		echo "user $user $(ctl user get "$user" -w json)"
	done
}

for version; do
	build "$version"
	"$work/$version/etcd" --data-dir="$work/$version/data" --log-level=error \
		--listen-client-urls="http://127.0.0.1:$port" --advertise-client-urls="http://127.0.0.1:$port" \
		--listen-peer-urls=http://127.0.0.1:23791 --initial-advertise-peer-urls=http://127.0.0.1:23791 \
		--initial-cluster=default=http://127.0.0.1:23791 &
	server=$!
	ctl --dial-timeout=30s --command-timeout=30s get x >&2
	fill >&2
	look | gzip -9n >"$here/etcd-$version.txt.gz"
	ctl snapshot save "$work/$version/db" >&2
	gzip -9n <"$work/$version/db" >"$here/etcd-$version.db.gz"
	kill "$server"
	wait "$server" || true
	server=
done
