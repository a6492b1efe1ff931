// Package manifests checks the files in manifests/ with the parsers of those who read
// them: Kubernetes' and cert-manager's types, Prometheus' configuration, rules and query
// language, our own flags and kube-apiserver's, BuildKit's parser, systemd. It has tests
// only, and a module of its own, so that nothing else depends on theirs.
//
// Each check is a function of a file's content, and TestMutations shows that it finds a
// misspelt name in every file that it is for.
package manifests
