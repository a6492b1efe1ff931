package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// maxDepth is deeper than any tree of a file that fits on a disk.
const maxDepth = 40

// Check looks through a file of size bytes, what is behind its pages included, and
// returns an error if bbolt could stumble over it: a page that is not there, is of
// another kind, or is met twice, an element that reaches out of its page, keys that
// are not in order. bbolt's own check takes the file's word for how long a page is.
// It holds a bit for each page.
func Check(r io.ReaderAt, size int64) error {
	c := checker{r: r}
	root, err := c.meta(size)
	if err != nil {
		return fmt.Errorf("bolt: %w", err)
	}
	c.seen = make([]uint64, c.pages/64+1)
	if err := c.page(root, 0, true, nil); err != nil {
		return fmt.Errorf("bolt: %w", err)
	}
	return nil
}

type checker struct {
	r        io.ReaderAt
	pageSize uint64
	pages    uint64
	seen     []uint64
}

// meta finds the root and how many pages there are. That page 0 is right is enough to
// know the size of pages, of which page 1 depends; so is page 1 for the usual sizes.
func (c *checker) meta(size int64) (root uint64, err error) {
	var txid uint64
	found := false
	for _, at := range []int64{0, 1 << 10, 2 << 10, PageSize, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		b := make([]byte, headerLen+metaLen)
		if _, err := c.r.ReadAt(b, at); err != nil {
			continue
		}
		m := b[headerLen:]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:metaLen-8])
		pageSize := uint64(binary.LittleEndian.Uint32(m[8:]))
		if binary.LittleEndian.Uint32(m) != magic || binary.LittleEndian.Uint32(m[4:]) != version ||
			sum.Sum64() != binary.LittleEndian.Uint64(m[metaLen-8:]) || pageSize < 1<<10 || pageSize > 64<<10 ||
			at != 0 && uint64(at) != pageSize {
			continue
		}
		if id := binary.LittleEndian.Uint64(m[48:]); !found || id > txid {
			found, txid = true, id
			root, c.pages, c.pageSize = binary.LittleEndian.Uint64(m[16:]), binary.LittleEndian.Uint64(m[40:]), pageSize
		}
	}
	switch {
	case !found:
		return 0, errors.New("it has no valid first page")
	case c.pages > uint64(size)/c.pageSize:
		return 0, fmt.Errorf("it was cut short: it has %d bytes of %d pages of %d", size, c.pages, c.pageSize)
	}
	return root, nil
}

// take notes that a page is met, with those that continue it, and returns its bytes.
func (c *checker) take(id uint64) ([]byte, error) {
	if id < 2 || id >= c.pages {
		return nil, fmt.Errorf("page %d is not there", id)
	}
	b := make([]byte, c.pageSize)
	if _, err := c.r.ReadAt(b, int64(id*c.pageSize)); err != nil {
		return nil, err
	}
	more := uint64(binary.LittleEndian.Uint32(b[12:]))
	if got := binary.LittleEndian.Uint64(b); got != id || more >= c.pages-id {
		return nil, fmt.Errorf("page %d says that it is page %d, and %d more", id, got, more)
	}
	for p := id; p <= id+more; p++ {
		if c.seen[p/64]&(1<<(p%64)) != 0 {
			return nil, fmt.Errorf("page %d is met twice", p)
		}
		c.seen[p/64] |= 1 << (p % 64)
	}
	for more > 0 {
		// What no element reaches to need not be read: it may be a lot.
		reach := min(reachOf(b), (1+more)*c.pageSize)
		if reach <= uint64(len(b)) {
			break
		}
		b = make([]byte, reach)
		if _, err := c.r.ReadAt(b, int64(id*c.pageSize)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// reachOf returns up to where a page's elements reach, those that b has; to the end of
// the elements at least.
func reachOf(b []byte) uint64 {
	kind, count := binary.LittleEndian.Uint16(b[8:]), int(binary.LittleEndian.Uint16(b[10:]))
	end := headerLen + count*elementLen
	reach := uint64(end)
	for place := headerLen; place < end && place+elementLen <= len(b); place += elementLen {
		at, keyLen, valueLen := element(kind, b[place:])
		reach = max(reach, uint64(place)+uint64(at)+uint64(keyLen)+uint64(valueLen))
	}
	return reach
}

// element says where an element has its key, from its own place, and how long it and
// the value behind it are.
func element(kind uint16, e []byte) (at, keyLen, valueLen uint32) {
	if kind == kindLeaf {
		return binary.LittleEndian.Uint32(e[4:]), binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
	}
	return binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:]), 0
}

// page looks through the tree below a page. buckets says that it is that of the
// buckets, first which key the page was named by.
func (c *checker) page(id uint64, depth int, buckets bool, first []byte) error {
	b, err := c.take(id)
	if err == nil && depth > maxDepth {
		err = errors.New("too deep a tree")
	}
	if err != nil {
		return err
	}
	return c.elements(fmt.Sprintf("page %d", id), b, depth, buckets, first)
}

// elements looks through the elements of a page, one of its own or one within a value.
func (c *checker) elements(name string, b []byte, depth int, buckets bool, first []byte) error {
	if len(b) < headerLen {
		return fmt.Errorf("%s: it has %d bytes", name, len(b))
	}
	kind := binary.LittleEndian.Uint16(b[8:])
	count := int(binary.LittleEndian.Uint16(b[10:]))
	if headerLen+count*elementLen > len(b) || kind != kindLeaf && kind != kindBranch || kind == kindBranch && count == 0 {
		return fmt.Errorf("%s: it is of kind %d, with %d elements", name, kind, count)
	}
	last := first
	for i := range count {
		e := b[headerLen+i*elementLen:]
		at, keyLen, valueLen := element(kind, e)
		if uint64(at)+uint64(keyLen)+uint64(valueLen) > uint64(len(e)) || keyLen == 0 || keyLen > maxKey {
			return fmt.Errorf("%s: element %d reaches out of it", name, i)
		}
		key := e[at : at+keyLen]
		if order := bytes.Compare(last, key); last != nil && (order > 0 || order == 0 && i > 0) {
			return fmt.Errorf("%s: key %x follows key %x", name, key, last)
		}
		last = key
		var err error
		switch {
		case kind == kindBranch:
			err = c.page(binary.LittleEndian.Uint64(e[8:]), depth+1, buckets, key)
		case binary.LittleEndian.Uint32(e)&flagBucket != 0:
			err = c.bucket(e[at+keyLen:at+keyLen+valueLen], depth+1, buckets)
		case buckets:
			err = fmt.Errorf("%s: element %d is no bucket", name, i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket looks through a bucket, whose page is in the value if it is small.
func (c *checker) bucket(value []byte, depth int, allowed bool) error {
	if len(value) < 16 || !allowed {
		return fmt.Errorf("a bucket of %d bytes", len(value))
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return c.page(root, depth, false, nil)
	}
	if inside := value[16:]; len(inside) < headerLen || binary.LittleEndian.Uint16(inside[8:]) != kindLeaf {
		return errors.New("a bucket without a page")
	}
	return c.elements("a small bucket", value[16:], depth, false, nil)
}
