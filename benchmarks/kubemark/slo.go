//go:build linux

package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// request is a kind of request as kube-apiserver tells them apart.
type request struct{ verb, resource, scope string }

func (r request) String() string {
	if r.verb == "LIST" {
		return r.verb + " " + r.resource + ", " + r.scope
	}
	return r.verb + " " + r.resource
}

// requestOf is the kind of a series of kube-apiserver's; empty for what is promised
// nothing: watches, and requests for no resource.
func requestOf(labels map[string]string) string {
	verb, resource := labels["verb"], labels["resource"]
	if verb == "WATCH" || verb == "CONNECT" || resource == "" {
		return ""
	}
	// Both have the method's name there. Nothing is promised of how long many deletions
	// take.
	if verb == "DELETE" && labels["scope"] != "resource" {
		verb = deleteMany
	}
	if sub := labels["subresource"]; sub != "" {
		resource += "/" + sub
	}
	return strings.Join([]string{verb, resource, labels["scope"]}, "\t")
}

const deleteMany = "DELETECOLLECTION"

func parseRequest(key string) request {
	parts := strings.SplitN(key, "\t", 3)
	return request{parts[0], parts[1], parts[2]}
}

// promise is the name of what is promised of a request, "" if nothing is.
func (r request) promise() string {
	switch {
	case r.verb == deleteMany:
		return ""
	case r.verb == "GET" || r.verb == "LIST" && r.scope == "resource":
		return "reads of one object"
	case r.verb != "LIST":
		return "changes"
	case r.scope == "namespace":
		return "lists of a namespace"
	default:
		return "lists of the cluster"
	}
}

// promises in the order of the table, with what they promise in seconds.
var promises = []struct {
	name  string
	bound float64
}{
	{"changes", 1},
	{"reads of one object", 1},
	{"lists of a namespace", 5},
	{"lists of the cluster", 30},
	{podStartup, 5},
}

const podStartup = "start of a pod"

// latency is what one kind of request took.
type latency struct {
	Request  request
	Count    float64
	P50, P99 float64 // seconds
}

// minCount is how many requests it takes to speak of a 99th percentile.
const minCount = 20

// worst is the kind of request with the greatest p99 of those that a promise is about,
// for that holds for each kind by itself.
func worst(all []latency, promise string) (latency, bool) {
	of := slices.DeleteFunc(slices.Clone(all), func(l latency) bool {
		return l.Request.promise() != promise || l.Count < minCount
	})
	if len(of) == 0 {
		return latency{P99: math.NaN()}, false
	}
	return slices.MaxFunc(of, func(a, b latency) int { return cmp.Compare(a.P99, b.P99) }), true
}

// verdict is in words whether a figure keeps a promise.
func verdict(seconds, bound float64) string {
	switch {
	case math.IsNaN(seconds):
		return "not measured"
	case seconds <= bound:
		return "kept"
	default:
		return fmt.Sprintf("broken %.1f times over", seconds/bound)
	}
}
