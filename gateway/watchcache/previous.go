package watchcache

import "go.etcd.io/etcd/api/v3/mvccpb"

// previousValues remembers the newest version of recently changed keys, so that
// the PrevKv of the next change need not be read from the store. It is for the
// hub's goroutine, which shows it every event without a gap; after a gap it must
// be cleared.
//
// It has two generations: a key that has not changed while a whole generation
// filled up is forgotten.
type previousValues struct {
	// maxBytes bounds the events that the two generations have seen. It counts
	// events and not what is still held of them, because a value may keep alive
	// the whole entry that it came in.
	maxBytes int
	bytes    int
	young    map[string]*lastVersion
	old      map[string]*lastVersion
}

// lastVersion is a key's newest version; kv is nil after a deletion.
type lastVersion struct{ kv *mvccpb.KeyValue }

func (p *previousValues) clear() {
	p.young, p.old, p.bytes = nil, nil, 0
}

// note tells e its key's previous version, if that is known, and remembers e as
// the newest.
func (p *previousValues) note(e *Event) {
	if p.bytes += e.bytes; p.bytes > p.maxBytes/2 {
		p.old, p.young, p.bytes = p.young, nil, e.bytes
	}
	kv := e.plain.Kv
	last := p.young[string(kv.Key)]
	if last == nil {
		if last = p.old[string(kv.Key)]; last == nil {
			last = &lastVersion{}
		} else {
			e.know(last.kv)
		}
		if p.young == nil {
			p.young = make(map[string]*lastVersion)
		}
		p.young[string(kv.Key)] = last
	} else {
		e.know(last.kv)
	}
	last.kv = kv
	if e.plain.Type == mvccpb.Event_DELETE {
		last.kv = nil
	}
}

// know records the key's version before e. One of the same revision is not the
// one that PrevKv means, which is the key before the transaction.
func (e *Event) know(prev *mvccpb.KeyValue) {
	if e.creates() {
		return // needs none
	}
	if prev == nil || prev.ModRevision >= e.revision {
		return // a change of a key that did not exist: let the store say
	}
	e.prev.CompareAndSwap(nil, prev)
}
