package member

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The identifiers are what etcd 3.7.3 printed when it was started with these
// flags (etcdctl member list -w json).
func TestInitialClusterIDs(t *testing.T) {
	for _, c := range []struct {
		name, value, token string
		cluster            uint64
		members            []InitialMember
	}{
		{
			"etcd's defaults", "default=http://localhost:2380", "etcd-cluster", 14841639068965178418,
			[]InitialMember{{10276657743932975437, "default", []string{"http://localhost:2380"}}},
		},
		{
			"kubeadm", "cp-1=https://192.0.2.10:2380", "etcd-cluster", 2967846730136513572,
			[]InitialMember{{2232387200959030785, "cp-1", []string{"https://192.0.2.10:2380"}}},
		},
		{
			"token", "m1=http://127.0.0.1:24801", "prod east", 17699049500148427487,
			[]InitialMember{{9611601034410498925, "m1", []string{"http://127.0.0.1:24801"}}},
		},
		{
			"no token", "m1=http://127.0.0.1:24801", "", 8565165776300186951,
			[]InitialMember{{17259894907935300776, "m1", []string{"http://127.0.0.1:24801"}}},
		},
		{
			"two URLs, unsorted, and an empty pair",
			"m1=http://127.0.0.1:24802,,m1=http://127.0.0.1:24801", "etcd-cluster", 8322520939444469192,
			[]InitialMember{{5395911330203188479, "m1", []string{"http://127.0.0.1:24801", "http://127.0.0.1:24802"}}},
		},
		{
			"spaces around the URL", "m1= http://127.0.0.1:24801 ", "etcd-cluster", 17368989521238926805,
			[]InitialMember{{17628310501313495538, "m1", []string{"http://127.0.0.1:24801"}}},
		},
		{
			"capitals", "m1=HTTP://LOCALHOST:24801", "etcd-cluster", 10030917651545852657,
			[]InitialMember{{15955494481431631211, "m1", []string{"http://LOCALHOST:24801"}}},
		},
		{
			"query", "m1=http://127.0.0.1:24801?x=1", "etcd-cluster", 17363359571353997744,
			[]InitialMember{{4189522150630536451, "m1", []string{"http://127.0.0.1:24801?x=1"}}},
		},
		{
			"unix", "u=unix://localhost:24810", "etcd-cluster", 8700399051874696326,
			[]InitialMember{{5490496962497325114, "u", []string{"unix://localhost:24810"}}},
		},
		{
			"three members", "a=http://127.0.0.1:24811,b=http://127.0.0.1:24812,c=http://127.0.0.1:24813", "tkn",
			4472357619745317005,
			[]InitialMember{
				{7113164457640835084, "a", []string{"http://127.0.0.1:24811"}},
				{1614229034490433765, "b", []string{"http://127.0.0.1:24812"}},
				{15634753056539550967, "c", []string{"http://127.0.0.1:24813"}},
			},
		},
		{
			"three members, in another order",
			"c=http://127.0.0.1:24813,a=http://127.0.0.1:24811,b=http://127.0.0.1:24812", "tkn",
			4472357619745317005,
			[]InitialMember{
				{7113164457640835084, "a", []string{"http://127.0.0.1:24811"}},
				{1614229034490433765, "b", []string{"http://127.0.0.1:24812"}},
				{15634753056539550967, "c", []string{"http://127.0.0.1:24813"}},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseInitialCluster(c.value, c.token)
			require.NoError(t, err)
			require.Equal(t, InitialCluster{ID: c.cluster, Members: c.members}, got)
		})
	}
	require.Equal(t, "cdf818194e3a8c32", FormatID(14841639068965178418))
}

func TestInitialClusterErrors(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"", "initial cluster unset"},
		{",,", "initial cluster unset"},
		{"m1", `error setting up initial cluster: "m1" is not of the form name=peerURL`},
		{"=http://a:1", `error setting up initial cluster: "=http://a:1" is not of the form name=peerURL`},
		{"m1=", `error setting up initial cluster: member "m1": URL scheme must be http, https, unix, or unixs: ""`},
		{"m1=a:2380", `error setting up initial cluster: member "m1": URL scheme must be http, https, unix, or unixs: "a:2380"`},
		{"m1=http://a", `error setting up initial cluster: member "m1": URL address does not have the form "host:port": http://a`},
		{"m1=http://a:1/x", `error setting up initial cluster: member "m1": URL must not contain a path: http://a:1/x`},
		{"m1=http://a:x1", `error setting up initial cluster: member "m1": parse "http://a:x1": invalid port ":x1" after host`},
		{
			"m1=http://a:1,m2=http://a:1",
			"initial cluster m1=http://a:1,m2=http://a:1 has duplicate url http://a:1",
		},
		{
			"m1=http://a:1,m1=http://a:1",
			"initial cluster m1=http://a:1,m1=http://a:1 has duplicate url http://a:1",
		},
		// Joined, the URLs of both read the same.
		{
			"m1=unix://a,m1=unix://b,m2=unix://aunix://b",
			`error setting up initial cluster: the id 730c4f07a1e4cc85 of member "m2" can't be used; change its peer URLs`,
		},
	} {
		_, err := ParseInitialCluster(c.value, "etcd-cluster")
		require.EqualError(t, err, c.want)
	}
	_, err := ParseURLs(nil)
	require.EqualError(t, err, "no valid URLs given")
}

func TestCheckAdvertised(t *testing.T) {
	hosts := map[string]string{"m1.example:2380": "192.0.2.1:2380", "192.0.2.1:2380": "192.0.2.1:2380", "6.example:1": "[2001:db8:0::1]:1", "[2001:db8::1]:1": "[2001:db8::1]:1"}
	resolve := func(_ context.Context, hostPort string) (string, error) {
		if addr, ok := hosts[hostPort]; ok {
			return addr, nil
		}
		return "", errors.New("no such host")
	}
	for _, c := range []struct {
		name, cluster string
		advertised    []string
		want          string
	}{
		{"same", "m1=http://a:1,m1=http://b:1", []string{"http://b:1", "http://a:1"}, ""},
		{"written otherwise", "m1=http://[2001:db8:0::1]:1", []string{"HTTP://[2001:db8::1]:1"}, ""},
		{"resolved", "m1=https://m1.example:2380", []string{"https://192.0.2.1:2380"}, ""},
		{"resolved to IPv6", "m1=http://6.example:1", []string{"http://[2001:db8::1]:1"}, ""},
		{"another name", "m2=http://a:1", []string{"http://a:1"}, `couldn't find local name "m1" in the initial cluster configuration`},
		{"not a URL", "m1=http://a:1", []string{"a:1"}, `--initial-advertise-peer-urls: URL scheme must be http, https, unix, or unixs: "a:1"`},
		{
			"more in the cluster", "m1=http://a:1,m1=http://b:1",
			[]string{"http://a:1"},
			`--initial-cluster has m1=http://b:1 but missing from --initial-advertise-peer-urls=http://a:1 (2 URLs against 1)`,
		},
		{
			"more advertised", "m1=http://a:1",
			[]string{"http://a:1", "http://b:1"},
			`--initial-advertise-peer-urls has http://b:1 but missing from --initial-cluster=m1=http://a:1 (1 URLs against 2)`,
		},
		{
			"another scheme", "m1=https://m1.example:2380",
			[]string{"http://192.0.2.1:2380"},
			`--initial-cluster has m1=https://m1.example:2380 but missing from --initial-advertise-peer-urls=http://192.0.2.1:2380 ("https://192.0.2.1:2380" is not "http://192.0.2.1:2380")`,
		},
		{
			"localhost is never resolved", "m1=http://localhost:24801",
			[]string{"http://192.0.2.1:2380"},
			`--initial-cluster has m1=http://localhost:24801 but missing from --initial-advertise-peer-urls=http://192.0.2.1:2380 ("http://localhost:24801" is not "http://192.0.2.1:2380")`,
		},
		{
			"unknown host", "m1=http://nowhere:1",
			[]string{"http://192.0.2.1:2380"},
			`--initial-cluster has m1=http://nowhere:1 but missing from --initial-advertise-peer-urls=http://192.0.2.1:2380 (failed to resolve "http://nowhere:1": no such host)`,
		},
		{
			"unix", "m1=unix://a",
			[]string{"unix://b"},
			`--initial-cluster has m1=unix://a but missing from --initial-advertise-peer-urls=unix://b ("unix://a" is not "unix://b")`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster, err := ParseInitialCluster(c.cluster, "etcd-cluster")
			require.NoError(t, err)
			err = cluster.CheckAdvertised(t.Context(), "m1", c.advertised, resolve)
			if c.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, c.want)
			}
		})
	}
	addr, err := ResolveTCP(t.Context(), "127.0.0.1:80")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:80", addr)
	addr, err = ResolveTCP(t.Context(), "[::1]:80")
	require.NoError(t, err)
	require.Equal(t, "[::1]:80", addr)
	_, err = ResolveTCP(t.Context(), "127.0.0.1")
	require.Error(t, err)
}

// An added member's identifier depends on when it was added, as in etcd.
func TestAddedMemberID(t *testing.T) {
	urls := []string{"http://127.0.0.1:24700", "http://127.0.0.1:24802"}
	now := time.Unix(1795351046, 999)
	require.EqualValues(t, 6695790055411928505, addedMemberID(urls, now)) // etcd 3.7.3, at that second
	require.Equal(t, memberID(urls, "1795351046"), addedMemberID(urls, now))
	require.NotEqual(t, addedMemberID(urls, now), addedMemberID(urls, now.Add(time.Second)))
	require.Equal(t, ClusterID([]uint64{1, 2}), ClusterID([]uint64{2, 1}))
}

func FuzzParseInitialCluster(f *testing.F) {
	f.Add("m1=http://a:1,m1=http://b:1,m2=unix://x", "t")
	f.Fuzz(func(t *testing.T, value, token string) {
		c, err := ParseInitialCluster(value, token)
		if err != nil {
			return
		}
		for _, m := range c.Members {
			again, err := ParseURLs(m.PeerURLs)
			require.NoError(t, err)
			require.Equal(t, m.ID, memberID(again, token))
		}
	})
}
