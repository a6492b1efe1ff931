package evaluate_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// benchKeys is how many keys a benchmark's store has.
const benchKeys = 10_000

func benchKey(i int) []byte { return fmt.Appendf(nil, "/registry/pods/default/pod-%06d", i%benchKeys) }

// filled is a script with benchKeys keys, all applied.
func filled(b *testing.B) *script {
	b.Helper()
	s := newScript(b)
	b.Cleanup(func() { require.NoError(b, s.db.Close()) })
	value := make([]byte, 512)
	for i := 0; i < benchKeys; i += 1000 {
		s.eval.Begin(nil)
		for j := range 1000 {
			_, err := s.eval.Do(context.Background(), &evaluate.Put{Key: benchKey(i + j), Value: value})
			require.NoError(b, err)
		}
		encoded, _ := s.eval.Seal(0)
		s.flight = append(s.flight, encoded)
		s.apply(1)
	}
	return s
}

func BenchmarkReadGet(b *testing.B) {
	s := filled(b)
	head := s.store.Revision()
	keys := make([][]byte, 1000)
	for i := range keys {
		keys[i] = benchKey(i * 7)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		res, err := evaluate.Read(context.Background(), s.store, head, &evaluate.Range{Key: keys[i%1000]})
		if err != nil || len(res.KVs) != 1 {
			b.Fatal(err, res)
		}
	}
}

func BenchmarkReadList100(b *testing.B) {
	s := filled(b)
	head := s.store.Revision()
	b.ReportAllocs()
	for b.Loop() {
		res, err := evaluate.Read(context.Background(), s.store, head, &evaluate.Range{Key: benchKey(500), End: benchKey(600)})
		if err != nil || len(res.KVs) != 100 {
			b.Fatal(err, res)
		}
	}
}

// BenchmarkUpdate evaluates kube-apiserver's update of a key, 100 to an entry.
func BenchmarkUpdate(b *testing.B) {
	s := filled(b)
	value := make([]byte, 512)
	buf := make([]byte, 0, 1<<20)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i%100 == 0 {
			if i > 0 {
				_, _ = s.eval.Seal(0)
				s.eval.Applied()
			}
			s.eval.Begin(buf[:0])
		}
		i++
		key := benchKey(i * 7)
		_, err := s.eval.Do(context.Background(), &evaluate.Txn{
			Compare: []evaluate.Compare{{Target: evaluate.CompareMod, Result: evaluate.CompareNotEqual, Key: key, Number: 1}},
			Success: []evaluate.Op{&evaluate.Put{Key: key, Value: value}},
			Failure: []evaluate.Op{&evaluate.Range{Key: key}},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
