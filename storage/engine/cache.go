package engine

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Cache is a block cache that can be kept from growing. Databases keep it alive: Unref
// is called once, and Hold, also concurrently, while there is one or the maker has it.
type Cache struct {
	blocks *pebble.Cache

	// mu guards what follows. Nothing is taken after it.
	mu      sync.Mutex
	holders int
	unhold  func()
}

// NewCache makes a cache of so many bytes at most. Whoever makes it calls Unref.
func NewCache(bytes int64) *Cache { return &Cache{blocks: pebble.NewCache(bytes)} }

// Unref says that the maker needs the cache no more.
func (c *Cache) Unref() { c.blocks.Unref() }

// heldGrowth is how much a cache may grow while it is held, so that one that is
// empty is of some use.
const heldGrowth = 16 << 20

// Hold keeps the cache from growing much until release is called: for a walk over
// everything, which Pebble would else put into it for nobody. Blocks that others read
// take the place of others meanwhile.
func (c *Cache) Hold() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders++; c.holders == 1 {
		c.unhold = c.blocks.Reserve(int(max(c.blocks.MaxSize()-c.blocks.Size()-heldGrowth, 0)))
	}
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.holders--; c.holders == 0 {
			c.unhold()
		}
	})
}
