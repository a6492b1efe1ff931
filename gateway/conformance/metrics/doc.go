// Package metrics looks at a member's /metrics and traces from outside. It has only
// tests.
//
//	metrics_test.go   starts members, gives them something to count, reads /metrics
//	etcd_test.go      etcd's metrics: which are there, as they are in etcd
//	mixin_test.go     those that etcd-mixin's alerts and dashboards read
//	lint_test.go      the names, as promtool checks them
//	page_test.go      manifests/monitoring/METRICS.md lists what there is
//	traces_test.go    spans arrive at an OpenTelemetry collector
//
//	go test ./gateway/conformance/metrics -count=1
//	go test ./gateway/conformance/metrics -count=1 -rewrite   the page, and the list of
//	                                                          etcd's metrics, from a real etcd
package metrics
