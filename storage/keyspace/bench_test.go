package keyspace_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// BenchmarkGet reads one key: from its group's store, and from the Space.
func BenchmarkGet(b *testing.B) {
	space, stores := filled(b, 2500)
	for _, side := range []struct {
		name  string
		state evaluate.Reader
	}{{"store", stores[space.Of([]byte("/registry/pods/"))]}, {"space", space}} {
		b.Run(side.name, func(b *testing.B) {
			keys := make([][]byte, 1000)
			for i := range keys {
				keys[i] = fmt.Appendf(nil, "/registry/pods/%06d", i*7%2500)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				res, err := evaluate.Read(context.Background(), side.state, 10001, &evaluate.Range{Key: keys[i%1000]})
				if err != nil || len(res.KVs) != 1 {
					b.Fatal(err, res)
				}
			}
		})
	}
}

// BenchmarkList100 reads a page of 100: from one group's store, from the Space,
// and over the border of two groups.
func BenchmarkList100(b *testing.B) {
	space, stores := filled(b, 2500)
	for _, side := range []struct {
		name     string
		state    evaluate.Reader
		key, end string
	}{
		{"store", stores[space.Of([]byte("/registry/pods/"))], "/registry/pods/001000", "/registry/pods/001100"},
		{"space", space, "/registry/pods/001000", "/registry/pods/001100"},
		{"border", space, "/registry/minions/002400", "/registry/pods/"},
	} {
		b.Run(side.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				res, err := evaluate.Read(context.Background(), side.state, 10001, &evaluate.Range{
					Key: []byte(side.key), End: []byte(side.end),
				})
				if err != nil || len(res.KVs) != 100 {
					b.Fatal(err, len(res.KVs))
				}
			}
		})
	}
}

// BenchmarkHashKV hashes 10,000 keys in four groups.
func BenchmarkHashKV(b *testing.B) {
	space, _ := filled(b, 2500)
	for b.Loop() {
		if _, _, err := space.HashKV(context.Background(), 10001); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTouches finds the groups of one key and of one prefix.
func BenchmarkTouches(b *testing.B) {
	space, _ := filled(b, 1)
	get := &evaluate.Range{Key: []byte("/registry/pods/default/a")}
	list := &evaluate.Range{Key: []byte("/registry/pods/"), End: []byte("/registry/pods0")}
	b.ReportAllocs()
	for b.Loop() {
		if evaluate.Needs(get, space) != evaluate.Needs(list, space) || evaluate.Needs(get, space) == 1<<mvcc.CoreGroup {
			b.Fatal("not of one group")
		}
	}
}
