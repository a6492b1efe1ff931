package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
)

// PageSize is that of the files.
const PageSize = 4096

const (
	magic   = 0xED0CDAED
	version = 2

	headerLen  = 16
	elementLen = 16
	metaLen    = 64

	kindBranch   = 0x01
	kindLeaf     = 0x02
	kindMeta     = 0x04
	kindFreelist = 0x10

	flagBucket = 0x01

	freelistPage = 2
	firstPage    = 3

	// maxKey and maxValue are bbolt's.
	maxKey   = 32768
	maxValue = math.MaxInt32 - 2
	// minBranch is how many elements a branch is written with at least; a page is
	// held back until there is one more.
	minBranch = 2

	// maxWaste is the part of a leaf's pages that may be left empty when it is
	// written; but for the last of a tree, which has what there is.
	maxWaste = 16
)

// Layout is what Plan has found out. The tree of the names begins at page names; what
// was planned for rows and is not needed lies before it.
type Layout struct{ root, names, pages uint64 }

// Size returns the length of the file.
func (l Layout) Size() int64 { return int64(l.pages) * PageSize }

// Plan finds out how a file is laid out, of which fill gives the rows.
func Plan(fill func(*Writer) error) (Layout, error) {
	w := &Writer{next: firstPage}
	return w.run(fill)
}

// Write writes the file to out. fill must give the same rows as to Plan.
func Write(out io.Writer, l Layout, fill func(*Writer) error) error {
	w := &Writer{out: out, next: firstPage, planned: l.names}
	for i := range uint64(2) {
		w.writeMeta(l, i)
	}
	w.header(freelistPage, kindFreelist, 0, 1)
	w.flush(w.buf)
	w.flush(zeros[len(w.buf):])
	got, err := w.run(fill)
	if err == nil && got != l {
		err = fmt.Errorf("bolt: the file has come out as %+v, it was planned as %+v", got, l)
	}
	return err
}

// Writer takes the rows of a file: buckets in the order of their names, in each its
// rows in the order of their keys. It is for one goroutine.
type Writer struct {
	// out is nil while it is planned.
	out  io.Writer
	next uint64
	err  error

	// planned is Layout.names; 0 while it is planned.
	planned uint64
	// names is the tree of the buckets, rows that of the bucket name.
	names, rows tree
	name        []byte
	inBucket    bool

	buf []byte
}

func (w *Writer) run(fill func(*Writer) error) (Layout, error) {
	if err := fill(w); err != nil {
		return Layout{}, err
	}
	w.closeBucket(w.planned)
	names := w.next
	root := w.finish(&w.names, 0)
	return Layout{root: root, names: names, pages: w.next}, w.err
}

// Bucket begins a bucket; the rows that follow are in it.
func (w *Writer) Bucket(name string) error {
	w.closeBucket(0)
	w.name, w.inBucket = append(w.name[:0], name...), true
	return w.err
}

// closeBucket writes what is left of a bucket; its root takes all pages before end.
func (w *Writer) closeBucket(end uint64) {
	if !w.inBucket {
		return
	}
	w.inBucket = false
	root := w.finish(&w.rows, end)
	row := binary.LittleEndian.AppendUint64(make([]byte, 0, 16), root)
	row = binary.LittleEndian.AppendUint64(row, 0) // its sequence
	w.put(&w.names, flagBucket, w.name, len(row), func(dst []byte) []byte { return append(dst, row...) })
}

// Set adds a row to the bucket.
func (w *Writer) Set(key, value []byte) error {
	return w.Put(key, len(value), func(dst []byte) []byte { return append(dst, value...) })
}

// maxBulkKey bounds the keys of Bulk: a branch has room for some.
const maxBulkKey = 512

// Bulk stands, in a Plan, for rows that follow in the bucket: so many at most, with so
// many bytes of keys and values at most, in whatever order, of keys of maxKey bytes at
// most. Pages are planned that are enough for all of them.
func (w *Writer) Bulk(rows, bytes int64, maxKey int) error {
	switch {
	case !w.inBucket || w.out != nil:
		return errors.New("bolt: only a plan has rows in bulk, and in a bucket")
	case maxKey > maxBulkKey:
		return fmt.Errorf("bolt: keys of %d bytes in bulk", maxKey)
	}
	// Of each leaf but the last, which wastes less than a page, maxWaste at most is
	// empty, and a header is in each.
	const used = PageSize - PageSize/maxWaste - headerLen
	total := uint64(bytes) + uint64(rows)*elementLen
	leaves := total/used + 2
	w.next += leaves
	// A branch that is written because it is full has one element less than it has
	// room for.
	full := uint64(PageSize-headerLen)/uint64(elementLen+maxKey) - 1
	for n := min(leaves, uint64(rows)); n > 1; {
		n = (n-1)/full + 1
		w.next += n
	}
	return w.err
}

// Put adds a row whose value has size bytes, which value appends to what it is
// given. It is only called if they are needed, before Put returns.
func (w *Writer) Put(key []byte, size int, value func(dst []byte) []byte) error {
	if !w.inBucket {
		return errors.New("bolt: a row outside of any bucket")
	}
	w.put(&w.rows, 0, key, size, value)
	return w.err
}

func (w *Writer) put(t *tree, flags uint32, key []byte, size int, value func([]byte) []byte) {
	if w.err != nil {
		return
	}
	l := &t.leaf
	switch {
	case len(key) == 0 || len(key) > maxKey:
		w.err = fmt.Errorf("bolt: a key of %d bytes", len(key))
	case size > maxValue:
		w.err = fmt.Errorf("bolt: a value of %d bytes", size)
	case t.last != nil && bytes.Compare(t.last, key) >= 0:
		w.err = fmt.Errorf("bolt: key %x follows key %x", key, t.last)
	}
	if w.err != nil {
		return
	}
	// A page that is nearly full is closed. One that is not is continued: two values
	// of three quarters of a page take two, not one each and nearly a half of nothing.
	pages, grown := roundUp(l.size()), l.size()+elementLen+len(key)+size
	if l.count > 0 && grown > pages && (pages-l.size())*maxWaste <= pages {
		w.push(t, 0, l.first, w.writeLeaf(l, 0))
	}
	if l.count == 0 {
		l.first = append(l.first[:0], key...)
	}
	t.last = append(t.last[:0], key...)
	l.count++
	l.bytes += len(key) + size
	if w.out == nil {
		return
	}
	l.elements = append(l.elements, leafElement{flags, uint32(len(key)), uint32(size)})
	l.data = append(l.data, key...)
	before := len(l.data)
	l.data = value(l.data)
	if n := len(l.data) - before; n != size {
		w.err = fmt.Errorf("bolt: a value of %d bytes was to have %d", n, size)
	}
}

// tree is the right edge of a tree: what of each level is not written yet.
type tree struct {
	leaf leaf
	// branches are from the lowest to the highest.
	branches []branch
	// last is the greatest key so far; nil if there is none.
	last []byte
}

type leaf struct {
	first []byte
	count int
	// bytes counts those of keys and values.
	bytes int
	// elements and data are empty while it is planned.
	elements []leafElement
	data     []byte
}

type leafElement struct{ flags, key, value uint32 }

func (l *leaf) size() int { return headerLen + l.count*elementLen + l.bytes }

type branch struct {
	elements []branchElement
	size     int
}

type branchElement struct {
	key  []byte
	page uint64
}

func (e branchElement) size() int { return elementLen + len(e.key) }

// push names a page in a branch of the level.
func (w *Writer) push(t *tree, level int, key []byte, page uint64) {
	if level == len(t.branches) {
		t.branches = append(t.branches, branch{size: headerLen})
	}
	e := branchElement{bytes.Clone(key), page}
	b := &t.branches[level]
	if n := len(b.elements); b.size+e.size() > PageSize && n > minBranch {
		// The last stays for the next page, which so has two.
		last := b.elements[n-1]
		b.elements = b.elements[:n-1]
		first := b.elements[0].key
		page := w.writeBranch(b, 0)
		b.elements = append(b.elements[:0], last)
		b.size = headerLen + last.size()
		w.push(t, level+1, first, page)
		b = &t.branches[level] // it may have moved
	}
	b.elements = append(b.elements, e)
	b.size += e.size()
}

// finish writes what is left of a tree, empties it, and returns its root, which takes
// all pages before end.
func (w *Writer) finish(t *tree, end uint64) uint64 {
	upTo := func(level int) uint64 {
		if level == len(t.branches) {
			return end
		}
		return 0
	}
	first := bytes.Clone(t.leaf.first)
	page := w.writeLeaf(&t.leaf, upTo(0))
	for level := 0; level < len(t.branches); level++ {
		w.push(t, level, first, page)
		b := &t.branches[level]
		first = b.elements[0].key
		page = w.writeBranch(b, upTo(level+1))
	}
	t.branches, t.last = t.branches[:0], nil
	return page
}

func (w *Writer) writeLeaf(l *leaf, end uint64) (page uint64) {
	size := l.size()
	page = w.begin(kindLeaf, l.count, size, end)
	if w.out != nil {
		at := l.count * elementLen // from this element
		for _, e := range l.elements {
			for _, v := range [...]uint32{e.flags, uint32(at), e.key, e.value} {
				w.buf = binary.LittleEndian.AppendUint32(w.buf, v)
			}
			at += int(e.key) + int(e.value) - elementLen
		}
		w.flush(w.buf)
		w.flush(l.data)
		w.pad(page, size)
	}
	l.count, l.bytes = 0, 0
	l.elements, l.data = l.elements[:0], l.data[:0]
	if cap(l.data) > maxKeptBytes {
		l.data = nil
	}
	return page
}

// maxKeptBytes bounds the buffer that is kept for the next leaf.
const maxKeptBytes = 1 << 20

func (w *Writer) writeBranch(b *branch, end uint64) (page uint64) {
	size := headerLen
	for _, e := range b.elements {
		size += e.size()
	}
	page = w.begin(kindBranch, len(b.elements), size, end)
	if w.out != nil {
		at := len(b.elements) * elementLen
		for _, e := range b.elements {
			w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(at))
			w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(len(e.key)))
			w.buf = binary.LittleEndian.AppendUint64(w.buf, e.page)
			at += len(e.key) - elementLen
		}
		for _, e := range b.elements {
			w.buf = append(w.buf, e.key...)
		}
		w.flush(w.buf)
		w.pad(page, size)
	}
	b.elements, b.size = b.elements[:0], headerLen
	return page
}

// begin takes pages for size bytes, and all others before end, and puts the header of
// the first into buf.
func (w *Writer) begin(kind uint16, count, size int, end uint64) (page uint64) {
	page = w.next
	w.next += uint64(roundUp(size) / PageSize)
	if end > 0 && w.next > end && w.err == nil {
		w.err = fmt.Errorf("bolt: %d pages before the names were planned, there are %d", end, w.next)
	}
	w.next = max(w.next, end)
	w.header(page, kind, count, w.next-page)
	return page
}

// header puts a header into buf.
func (w *Writer) header(page uint64, kind uint16, count int, pages uint64) {
	w.buf = binary.LittleEndian.AppendUint64(w.buf[:0], page)
	w.buf = binary.LittleEndian.AppendUint16(w.buf, kind)
	w.buf = binary.LittleEndian.AppendUint16(w.buf, uint16(count))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(pages-1))
}

func (w *Writer) writeMeta(l Layout, page uint64) {
	w.header(page, kindMeta, 0, 1)
	at := len(w.buf)
	for _, v := range [...]uint32{magic, version, PageSize, 0} {
		w.buf = binary.LittleEndian.AppendUint32(w.buf, v)
	}
	// The last is the transaction: the greater of both is the one that counts.
	for _, v := range [...]uint64{l.root, 0, freelistPage, l.pages, page} {
		w.buf = binary.LittleEndian.AppendUint64(w.buf, v)
	}
	sum := fnv.New64a()
	_, _ = sum.Write(w.buf[at:])
	w.buf = binary.LittleEndian.AppendUint64(w.buf, sum.Sum64())
	w.flush(w.buf)
	w.flush(zeros[len(w.buf):])
}

func (w *Writer) flush(b []byte) {
	if w.err == nil {
		_, w.err = w.out.Write(b)
	}
}

var zeros [PageSize]byte

// pad writes what is left of the pages from page to next, of which there are size bytes.
func (w *Writer) pad(page uint64, size int) {
	w.flush(zeros[:roundUp(size)-size])
	for range w.next - page - uint64(roundUp(size)/PageSize) {
		w.flush(zeros[:])
	}
}

func roundUp(size int) int { return (size + PageSize - 1) / PageSize * PageSize }
