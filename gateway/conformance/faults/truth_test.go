package faults

import (
	"slices"
	"unique"
)

// truth is what the whole history turned out to be: the events of every
// revision, as a watch of everything told them when all was over.
type truth struct {
	revs []int64 // increasing
	at   map[int64][]told
}

func newTruth() *truth { return &truth{at: map[int64][]told{}} }

// add adds the events of the next revision.
func (t *truth) add(rev int64, events []told) {
	t.revs = append(t.revs, rev)
	t.at[rev] = events
}

// last is the newest revision.
func (t *truth) last() int64 {
	if len(t.revs) == 0 {
		return firstRevision - 1
	}
	return t.revs[len(t.revs)-1]
}

// in is what a watch of a range must be told, of revisions from one to
// another.
func (t *truth) in(key, end string, from, to int64) []told {
	var events []told
	i, _ := slices.BinarySearch(t.revs, from)
	for ; i < len(t.revs) && t.revs[i] <= to; i++ {
		for _, e := range t.at[t.revs[i]] {
			if covers(key, end, e.Value().key) {
				events = append(events, e)
			}
		}
	}
	return events
}

// plain takes the events out of their handles, and handles makes them anew.
func plain(all []told) []event {
	events := make([]event, 0, len(all))
	for _, e := range all {
		events = append(events, e.Value())
	}
	return events
}

func handles(events []event) []told {
	all := make([]told, 0, len(events))
	for _, e := range events {
		all = append(all, unique.Make(e))
	}
	return all
}
