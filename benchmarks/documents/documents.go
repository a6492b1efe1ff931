// Package documents makes values like Kubernetes': objects whose field names, images
// and managed fields repeat, with names, uids and times that do not. What a store that
// compresses makes of them is what it would make of a cluster's. The same arguments
// always give the same bytes.
package documents

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// epoch is when the first of all objects was made.
var epoch = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// Pod is version v of pod i, of so many bytes. Versions of a pod differ in their
// status.
func Pod(i, v, size int) []byte {
	same := rand.New(rand.NewPCG(uint64(i), 1))
	uid, owner := uid(same), uid(same)
	now := epoch.Add(time.Duration(i+10*v) * time.Second).Format(time.RFC3339)
	b := make([]byte, 0, size+1<<10)
	b = fmt.Appendf(b, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-%d-%05x","generateName":"web-%d-","namespace":"namespace-%d","uid":"%s","generation":%d,"creationTimestamp":"%s","labels":{"app":"web-%d","pod-template-hash":"%08x"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-%d","uid":"%s","controller":true,"blockOwnerDeletion":true}]`,
		i%100, same.Uint32()>>12, i%100, i%50, uid, v+1, now, i%100, same.Uint32(), i%100, owner)
	b = fmt.Appendf(b, `},"status":{"phase":"Running","observedGeneration":%d,"hostIP":"10.0.%d.%d","podIP":"10.%d.%d.%d","qosClass":"Burstable","startTime":"%s"`,
		v+1, i>>8&255, i&255, 64+i>>16&63, i>>8&255, i&255, now)
	for _, condition := range []string{"PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		b = fmt.Appendf(b, `,{"type":"%s","status":"True","observedGeneration":%d,"lastProbeTime":null,"lastTransitionTime":"%s"}`, condition, v+1, now)
	}
	// Volumes, containers and managed fields: the same words in all objects, and
	// something of its own in each.
	for n := 0; len(b) < size; n++ {
		b = fmt.Appendf(b, `,{"name":"container-%d","image":"registry.example.com/team-%d/web@sha256:%016x%016x","resources":{"limits":{"cpu":"500m","memory":"256Mi"},"requests":{"cpu":"100m","memory":"128Mi"}},"volumeMounts":[{"name":"kube-api-access-%05x","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}],"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","containerID":"containerd://%016x%016x%016x%016x"}`,
			n, i%20, same.Uint64(), same.Uint64(), same.Uint32()>>12, same.Uint64(), same.Uint64(), same.Uint64(), same.Uint64())
		b = append(b, `,{"manager":"kubelet","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:status":{"f:conditions":{"k:{\"type\":\"ContainersReady\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}}},"f:containerStatuses":{},"f:hostIP":{},"f:phase":{},"f:podIP":{},"f:startTime":{}}},"subresource":"status"}`...)
	}
	return b[:size]
}

// The sizes of objects in a mix.
const (
	LeaseBytes = 512
	EventBytes = 900
	PodBytes   = 4 << 10
	NodeBytes  = 8 << 10
)

// Lease is version v of the lease of node i.
func Lease(i, v int) []byte {
	same := rand.New(rand.NewPCG(uint64(i), 2))
	return exactly(LeaseBytes, fmt.Appendf(nil,
		`{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"node-%d","namespace":"kube-node-lease","uid":"%s","creationTimestamp":"%s","ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"node-%d","uid":"%s"}]},"spec":{"holderIdentity":"node-%d","leaseDurationSeconds":40,"renewTime":"%s"}}`,
		i, uid(same), epoch.Format(time.RFC3339), i, uid(same), i, epoch.Add(time.Duration(v)*10*time.Second).Format(time.RFC3339Nano)))
}

// Event is event i.
func Event(i int) []byte {
	same := rand.New(rand.NewPCG(uint64(i), 3))
	now := epoch.Add(time.Duration(i) * time.Second).Format(time.RFC3339)
	return exactly(EventBytes, fmt.Appendf(nil,
		`{"kind":"Event","apiVersion":"v1","metadata":{"name":"web-%d.%016x","namespace":"namespace-%d","uid":"%s","creationTimestamp":"%s"},"involvedObject":{"kind":"Pod","namespace":"namespace-%d","name":"web-%d","uid":"%s","apiVersion":"v1","fieldPath":"spec.containers{web}"},"reason":"Pulled","message":"Container image \"registry.example.com/team/web\" already present on machine","source":{"component":"kubelet","host":"node-%d"},"firstTimestamp":"%s","lastTimestamp":"%s","count":1,"type":"Normal","reportingComponent":"kubelet","reportingInstance":"node-%d"}`,
		i, same.Uint64(), i%50, uid(same), now, i%50, i, uid(same), i, now, now, i))
}

// Node is version v of node i.
func Node(i, v int) []byte {
	const nodes = 1 << 24 // no pod's number
	return Pod(nodes+i, v, NodeBytes)
}

func uid(r *rand.Rand) string {
	a, b := r.Uint64(), r.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>48, b&0xffffffffffff)
}

// exactly cuts a text or fills it up with spaces.
func exactly(size int, b []byte) []byte {
	for len(b) < size {
		b = append(b, ' ')
	}
	return b[:size]
}
