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
	bounds := map[string]float64{}
	for _, p := range promises {
		bounds[p.name] = p.bound
	}
	for of, want := range map[request]float64{
		{"PUT", "leases", "resource"}:  1,
		{"GET", "pods", "resource"}:    1,
		{"LIST", "nodes", "resource"}:  1, // of one, by its name
		{"LIST", "pods", "namespace"}:  5,
		{"LIST", "pods", "cluster"}:    30,
		{"DELETE", "pods", "resource"}: 1,
	} {
		require.InDelta(t, want, bounds[of.promise()], 0, of)
	}
	many := parseRequest(requestOf(map[string]string{"verb": "DELETE", "resource": "pods", "scope": "namespace"}))
	require.Equal(t, "DELETECOLLECTION pods", many.String())
	require.Empty(t, many.promise())
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
