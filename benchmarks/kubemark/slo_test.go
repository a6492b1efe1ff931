//go:build linux

package main

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRequestOf(t *testing.T) {
	key := requestOf(map[string]string{"verb": "PATCH", "resource": "pods", "subresource": "status", "scope": "resource"})
	require.Equal(t, request{"PATCH", "pods/status", "resource"}, parseRequest(key))
	require.Empty(t, requestOf(map[string]string{"verb": "WATCH", "resource": "pods"}))
	require.Empty(t, requestOf(map[string]string{"verb": "GET"}), "no resource")
}

func TestPromises(t *testing.T) {
	for of, want := range map[request]struct {
		promise string
		bound   float64
	}{
		{"PUT", "leases", "resource"}:   {"changes", 1},
		{"GET", "pods", "resource"}:     {"reads of one object", 1},
		{"LIST", "nodes", "resource"}:   {"reads of one object", 1},
		{"LIST", "pods", "namespace"}:   {"lists of a namespace", 5},
		{"LIST", "pods", "cluster"}:     {"lists of the cluster", 30},
		{"DELETE", "pods", "namespace"}: {"changes", 1},
	} {
		require.Equal(t, want.promise, of.promise(), of)
		require.InDelta(t, want.bound, of.bound(), 0, of)
	}
	for _, p := range promises {
		if p.name != podStartup {
			require.Contains(t, []float64{1, 5, 30}, p.bound)
		}
	}
}

func TestWorst(t *testing.T) {
	all := []latency{
		{request{"PUT", "pods", "resource"}, 1000, 0.1, 0.2},
		{request{"POST", "pods", "resource"}, 1000, 0.1, 0.4},
		{request{"POST", "nodes", "resource"}, minCount - 1, 5, 9},
		{request{"GET", "pods", "resource"}, 1000, 0.1, 0.9},
	}
	l, ok := worst(all, "changes")
	require.True(t, ok)
	require.Equal(t, "POST pods", l.Request.String())
	l, ok = worst(all, "lists of the cluster")
	require.False(t, ok)
	require.Equal(t, "not measured", verdict(l.P99, 30))
}

func TestVerdict(t *testing.T) {
	require.Equal(t, "kept", verdict(1, 1))
	require.Equal(t, "broken 2.5 times over", verdict(2.5, 1))
	require.Equal(t, "not measured", verdict(math.NaN(), 1))
}
