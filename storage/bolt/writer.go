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
)

// Layout is what Plan has found out.
type Layout struct{ root, pages uint64 }

// Size returns the length of the file.
func (l Layout) Size() int64 { return int64(l.pages) * PageSize }

// Plan finds out how a file is laid out, of which fill gives the rows.
func Plan(fill func(*Writer) error) (Layout, error) {
	w := &Writer{next: firstPage}
	return w.run(fill)
}

// Write writes the file to out. fill must give the same rows as to Plan.
func Write(out io.Writer, l Layout, fill func(*Writer) error) error {
	w := &Writer{out: out, next: firstPage}
	for i := range uint64(2) {
		w.writeMeta(l, i)
	}
	w.begin(freelistPage, kindFreelist, 0, 0)
	w.pad(headerLen)
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
	w.closeBucket()
	root := w.finish(&w.names)
	return Layout{root: root, pages: w.next}, w.err
}

// Bucket begins a bucket; the rows that follow are in it.
func (w *Writer) Bucket(name string) error {
	w.closeBucket()
	w.name, w.inBucket = append(w.name[:0], name...), true
	return w.err
}

func (w *Writer) closeBucket() {
	if !w.inBucket {
		return
	}
	w.inBucket = false
	root := w.finish(&w.rows)
	row := binary.LittleEndian.AppendUint64(make([]byte, 0, 16), root)
	row = binary.LittleEndian.AppendUint64(row, 0) // its sequence
	w.put(&w.names, flagBucket, w.name, len(row), func(dst []byte) []byte { return append(dst, row...) })
}

// Set adds a row to the bucket.
func (w *Writer) Set(key, value []byte) error {
	return w.Put(key, len(value), func(dst []byte) []byte { return append(dst, value...) })
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
	// What a big value has left of its last page may be used by the next.
	if grown := l.size() + elementLen + len(key) + size; l.count > 0 && grown > roundUp(l.size()) {
		w.push(t, 0, l.first, w.writeLeaf(l))
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
		page := w.writeBranch(b)
		b.elements = append(b.elements[:0], last)
		b.size = headerLen + last.size()
		w.push(t, level+1, first, page)
		b = &t.branches[level] // it may have moved
	}
	b.elements = append(b.elements, e)
	b.size += e.size()
}

// finish writes what is left of a tree, empties it, and returns its root.
func (w *Writer) finish(t *tree) uint64 {
	first := bytes.Clone(t.leaf.first)
	page := w.writeLeaf(&t.leaf)
	for level := 0; level < len(t.branches); level++ {
		w.push(t, level, first, page)
		b := &t.branches[level]
		first = b.elements[0].key
		page = w.writeBranch(b)
	}
	t.branches, t.last = t.branches[:0], nil
	return page
}

func (w *Writer) writeLeaf(l *leaf) (page uint64) {
	size := l.size()
	page = w.begin(w.next, kindLeaf, l.count, size)
	w.next += uint64(roundUp(size) / PageSize)
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
		w.pad(size)
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

func (w *Writer) writeBranch(b *branch) (page uint64) {
	size := headerLen
	for _, e := range b.elements {
		size += e.size()
	}
	page = w.begin(w.next, kindBranch, len(b.elements), size)
	w.next += uint64(roundUp(size) / PageSize)
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
		w.pad(size)
	}
	b.elements, b.size = b.elements[:0], headerLen
	return page
}

func (w *Writer) writeMeta(l Layout, page uint64) {
	w.begin(page, kindMeta, 0, 0)
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
	w.pad(headerLen + metaLen)
}

// begin puts a page's header into buf.
func (w *Writer) begin(page uint64, kind uint16, count, size int) uint64 {
	if w.out == nil {
		return page
	}
	w.buf = binary.LittleEndian.AppendUint64(w.buf[:0], page)
	w.buf = binary.LittleEndian.AppendUint16(w.buf, kind)
	w.buf = binary.LittleEndian.AppendUint16(w.buf, uint16(count))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(max(roundUp(size)/PageSize, 1)-1))
	if kind == kindFreelist {
		w.flush(w.buf)
	}
	return page
}

func (w *Writer) flush(b []byte) {
	if w.err == nil {
		_, w.err = w.out.Write(b)
	}
}

var zeros [PageSize]byte

// pad writes what is left of a page of which there are size bytes.
func (w *Writer) pad(size int) { w.flush(zeros[:roundUp(size)-size]) }

func roundUp(size int) int { return (size + PageSize - 1) / PageSize * PageSize }
