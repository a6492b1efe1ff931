// Package watchcache keeps recent events in memory and brings them to watchers
// (room [8] of the drawing in gateway/doc.go), and the objects of resources that are
// listed, for reads. The storage hands events in through [Hub.Publish];
// gateway/watch.go takes them out through [Stream.Next], and what reads the store
// does so through [Hub.Through].
//
//	applier ── Publish ──> resources           each with a history of its events, and objects
//	                         v
//	                       window              the recent batches; also the queue to the hub
//	                         │ hub's goroutine: one pass over what is new
//	                         v
//	                       spans               one log for all watchers of the same keys
//	                         │ wakes the streams of idle watchers
//	                         v
//	                       stream ── Next ──> gateway
//	                         ^
//	                         │ watchers that are behind read, on their own stream's goroutine
//	                       window, else a history, else the store
//
// Nothing is copied for a watcher: a live watcher is a cursor in its span's log,
// and an [Event] is shared by all. So what a slow reader costs is bounded by what
// Next returned last, wherever its watchers stand.
//
// A watcher is idle (it has been given everything in its span's log), or queued
// (its log has more), or behind (it is in no span). It falls behind when its
// start is in the past, when its span's log dropped what it had not read, or
// when the hub was overrun; it catches up from the window, or from the store
// where the window does not reach, and joins its span again once it has reached
// what the hub has appended.
//
// # Invariants
//
//  1. The window holds every event with a revision above its start, up to
//     published; batches hold whole revisions.
//  2. A span's log holds, from its base on, every event of the span with a
//     revision up to Hub.appended; it grows by whole revisions.
//  3. A watcher joins a span, at the end of its log and under Hub.mu, only if its
//     next revision is above Hub.appended. So there is no gap, and what it might
//     see twice lies below its next revision and is skipped.
//  4. Hub.fanned is raised to R after all watchers with events at or below R have
//     been queued. Whoever loads fanned first, and then finds a watcher neither
//     queued nor behind, knows that it was given everything up to there.
//  5. A progress notification with revision R is returned by Next after all
//     events with revisions at or below R of the watchers it speaks for, and R
//     is not below any revision that the stream has shown.
//  6. Publish waits for nobody but for a moment for those who look up a place
//     in the window or in a history, or who bring objects up to date.
//  7. A history holds every event of its resource above its start, up to published,
//     in order: events are in it before they are published. The objects of a
//     resource are what they were in the store when they were read, changed by all
//     events of the history since, up to objects.next.
//
// # Who may call
//
// Publish, Restored and Start may be called concurrently, but Publish only in
// revision order. A [Stream] is for one goroutine, except for Poke. What a Stream
// returned may be read by anybody and changed by nobody.
package watchcache
