// Package admission is room [2] of the drawing in gateway/doc.go: it says whether a
// request may come in now, has to wait, or is refused. The gateway asks it before it
// serves a call ([Limiter.Arrive]), waits where it must ([Visit.Wait]), and gives
// the seats back ([Visit.Leave]).
//
// # Seats and queues
//
// A request takes seats while it is served: one, and a list one for each quarter of
// a megabyte that it is expected to return. What to expect is learned from what such
// lists have returned (width.go). Who finds no seat waits in fair queues (fair.go), which
// do what kube-apiserver's do. There a flow is what one client asks of one resource
// (flow.go). Shuffle sharding gives it a few of the many queues, so that a flood fills
// its own and leaves others' short. Queues, bytes and time to wait are bounded; past
// the bounds the answer is etcd's "too many requests".
//
// The queues cost a lock and a change of goroutines. As long as seats are free and nobody
// waits, a request passes by one atomic operation instead (gate.go).
//
// # Classes
//
// Each class has seats and queues of its own. None borrows from another: a seat that
// can be lent can not be promised.
//
//	exempt    health checks, status, members, lease revokes; no limit
//	leases    node leases, and those of kube-apiserver     1/4 of the mutating limit
//	mutating  all else that may change something           3/4 of it
//	lists     ranges of more than one key                  1/2 of the other limit
//	readonly  reads of one key                             1/2 of it
//
// Leases are apart because a node whose lease is late is given up: no storm of
// events may cost a node. One queue with them would be fair, and a fair part of an
// overload is too late. Lists are apart from reads because one takes as long as
// thousands of the other. Exempt is what tells whether the member lives, and what an
// operator needs on a bad day. When the store has reached its quota, what makes it
// smaller is exempt as well. Watches, keep-alives of leases, and snapshots last: they
// are bounded by number where they are served, and pass here. What members send each
// other comes by other listeners.
//
// A limit of a resource is one more gate, which its requests of any class pass
// before that of their class: who waits there takes no seat from others.
//
// # Processors
//
// Seats bound memory and the disk's queue. But the scheduler of Go knows no classes:
// what has come in competes for processors. So half of the processors, at least one,
// are for long lists, one after another ([Visit.Compute]), which let others run now and
// then. Where processors are few, Go has twice as many threads (cmd/pebbledash/app), so
// that the kernel, too, takes turns. Taking seats away from
// writes while many goroutines are runnable was tried: writes became a third slower,
// and renewals of leases not measurably faster.
//
// # Invariants
//
//  1. No more seats of a gate are taken than it has.
//  2. No request overtakes one that waits at the same gate, but in the order of the
//     fair queues.
//  3. Whoever is let in, leaves: seats come back after a panic, a client's leaving
//     and a timeout alike.
//  4. A request that is let in takes no lock and allocates nothing, if it need not
//     wait.
//
// All methods of a Limiter may be called concurrently; a Visit belongs to one
// goroutine at a time.
package admission
