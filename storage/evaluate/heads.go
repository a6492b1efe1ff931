package evaluate

import "github.com/pebbledash/pebbledash/storage/mvcc"

// headsBytes bounds each of the two generations of a heads cache: about 100,000
// keys of the length that Kubernetes uses.
const headsBytes = 16 << 20

// headOverhead is about what an entry takes beside its key.
const headOverhead = 96

// heads remembers the newest applied versions of keys that were lately written
// or looked at, without their values: most writes ask for nothing else of the
// store, and looking there costs more than the rest of their evaluation.
//
// Every write of a group passes through its evaluator, or is told to it by
// Advance, so what is remembered stays true until Reset. It has two generations: when the younger
// is full it becomes the elder, and the elder before it is forgotten.
type heads struct {
	young, old map[string]headOrNone
	bytes      int
}

// headOrNone is a head, or the knowledge that the key is not there.
type headOrNone struct {
	head mvcc.Head
	ok   bool
}

func (c *heads) reset() {
	c.young, c.old, c.bytes = map[string]headOrNone{}, nil, 0
}

func (c *heads) get(key []byte) (headOrNone, bool) {
	if h, ok := c.young[string(key)]; ok {
		return h, true
	}
	h, ok := c.old[string(key)]
	if ok {
		c.put(string(key), h)
	}
	return h, ok
}

func (c *heads) put(key string, h headOrNone) {
	if _, ok := c.young[key]; !ok {
		if c.bytes += len(key) + headOverhead; c.bytes > headsBytes {
			c.old, c.young = c.young, make(map[string]headOrNone, len(c.young))
			c.bytes = len(key) + headOverhead
		}
	}
	c.young[key] = h
}

// forget forgets what was remembered of a key.
func (c *heads) forget(key []byte) {
	if _, ok := c.young[string(key)]; ok {
		delete(c.young, string(key))
		c.bytes -= len(key) + headOverhead
	}
	delete(c.old, string(key))
}
