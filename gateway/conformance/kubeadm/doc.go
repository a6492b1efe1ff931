// Package kubeadm starts a member with the arguments that kubeadm writes into the
// static pod of etcd, taken from kubeadm's source, and asks it what the pod's probes
// ask. It has tests only.
package kubeadm
