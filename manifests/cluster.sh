#!/usr/bin/env bash
#
# cluster.sh [FLAG...] starts a cluster of members on the loopback interface, from
# the program that make build has made, prints its endpoints when all of them
# serve, and stops it on ctrl-C. FLAGs go to every member. It is for trying things
# out: all members are on one machine.
#
#   MEMBERS  how many, 1 to 5; 3 if not set
#   DATA     a folder for the members' data and logs; data/cluster if not set.
#            What is there goes on as the cluster that it was.
#
# Member m1 serves clients at 2379 and other members at 2380, m2 at 12379 and
# 12380, m3 at 22379 and 22380, and so on.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

members=${MEMBERS:-3}
data=${DATA:-data/cluster}

[[ $members =~ ^[1-5]$ ]] || { echo "cluster: MEMBERS is '$members' and must be 1 to 5" >&2; exit 2; }
[[ -x bin/pebbledash ]] || { echo 'cluster: there is no bin/pebbledash; use make build' >&2; exit 2; }

client() { echo "http://127.0.0.1:$((2379 + 10000 * ($1 - 1)))"; }
peer() { echo "http://127.0.0.1:$((2380 + 10000 * ($1 - 1)))"; }
join() { local IFS=,; echo "$*"; }

# ready asks a member whether it serves.
ready() {
	local status=
	{
		exec 3<>"/dev/tcp/127.0.0.1/$((2379 + 10000 * ($1 - 1)))" &&
			printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && read -r _ status _ <&3
		exec 3>&-
	} 2>/dev/null
	[[ $status == 200 ]]
}

initial=() endpoints=()
for ((i = 1; i <= members; i++)); do
	initial+=("m$i=$(peer "$i")")
	endpoints+=("$(client "$i")")
done

pids=()
stop() {
	trap - EXIT INT TERM
	((${#pids[@]})) && kill "${pids[@]}" 2>/dev/null
	wait
}
trap stop EXIT
trap 'exit 0' INT TERM

mkdir -p "$data"
for ((i = 1; i <= members; i++)); do
	log=$data/m$i.log
	: >"$log"
	bin/pebbledash --log-format=console --name="m$i" --data-dir="$data/m$i" \
		--listen-client-urls="$(client "$i")" --advertise-client-urls="$(client "$i")" \
		--listen-peer-urls="$(peer "$i")" --initial-advertise-peer-urls="$(peer "$i")" \
		--initial-cluster="$(join "${initial[@]}")" --initial-cluster-token=local "$@" >"$log" 2>&1 &
	pids+=($!)
done

for ((i = 1; i <= members; i++)); do
	until (ready "$i"); do
		kill -0 "${pids[i - 1]}" 2>/dev/null || { echo "cluster: m$i does not start:" >&2; tail -n 5 "$data/m$i.log" >&2; exit 1; }
		sleep 0.1
	done
	echo "m$i  process ${pids[i - 1]}  $(client "$i")  $data/m$i.log"
done
echo
echo "export ETCDCTL_ENDPOINTS=$(join "${endpoints[@]}")"
echo "kube-apiserver --etcd-servers=$(join "${endpoints[@]}")"

# Members that are killed can be started again by hand; the others go on.
wait
