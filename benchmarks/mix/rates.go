package mix

// Kind is a kind of request.
type Kind string

// The kinds. Updates include those that were in conflict, and their second try.
const (
	Renew    Kind = "node lease"
	Update   Kind = "status update"
	Create   Kind = "pod create"
	Delete   Kind = "pod delete"
	Event    Kind = "event create"
	Get      Kind = "get"
	Bare     Kind = "revision"
	Progress Kind = "progress"
	List     Kind = "list of 500"
	Grant    Kind = "lease grant"
	Count    Kind = "count"
	Health   Kind = "health"
	// Watched is no request: from when a write was due until its event was there.
	Watched Kind = "event delivered"
)

// What a kube-apiserver sent in observed, with 100 nodes of three pods each, of which
// most came up in that time.
const (
	observedNodes   = 100
	observedSeconds = 17 * 60

	observedUpdates   = 1663
	observedConflicts = 352
	observedCreates   = 300
	observedEvents    = 1500
	observedGets      = 5108
	observedBares     = 2057
	observedProgress  = 1621
	observedLists     = 303
	observedGrants    = 214

	// nodePeriod is how often a node renews its lease, in seconds.
	nodePeriod = 10
	// leastASecond is how many revisions are read, and progress is asked for, if there
	// is nothing to do.
	leastASecond = 1
)

// rate is how many requests a second there are of a kind.
type rate struct {
	kind      Kind
	perSecond float64
}

// rates are those for so many nodes.
func rates(nodes int) []rate {
	each := func(observed float64) float64 {
		return observed * float64(nodes) / observedNodes / observedSeconds
	}
	return []rate{
		{Renew, float64(nodes) / nodePeriod},
		{Update, each(observedUpdates)},
		{Create, each(observedCreates)},
		{Delete, each(observedCreates)},
		{Event, each(observedEvents)},
		{Get, each(observedGets)},
		{Bare, max(leastASecond, each(observedBares))},
		{Progress, max(leastASecond, each(observedProgress))},
		{List, each(observedLists)},
		{Grant, each(observedGrants)},
		{Count, 1.0 / 60},
		{Health, 0.2},
	}
}
