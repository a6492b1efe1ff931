package wire_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/evaluate/wire"
)

const rounds = 3000

func TestOpsRoundTrip(t *testing.T) {
	for seed := range uint64(rounds) {
		op := newMaker(seed).op()
		dst := []byte("before")
		b := wire.AppendOp(dst, op)
		require.Equal(t, "before", string(b[:len(dst)]))
		got, err := wire.DecodeOp(b[len(dst):])
		require.NoError(t, err, "seed %d", seed)
		require.Equal(t, op, got, "seed %d", seed)
	}
}

func TestResultsRoundTrip(t *testing.T) {
	for seed := range uint64(rounds) {
		r := newMaker(seed).result(3)
		b := wire.AppendResult(nil, &r)
		got, err := wire.DecodeResult(b)
		require.NoError(t, err, "seed %d", seed)
		require.Equal(t, r, got, "seed %d", seed)
	}
}

// kinds has one op of each kind, in which nothing is set.
func kinds() []evaluate.Op {
	return []evaluate.Op{
		&evaluate.Range{}, &evaluate.Put{}, &evaluate.DeleteRange{}, &evaluate.Txn{}, &evaluate.Compact{},
		&evaluate.LeaseGrant{}, &evaluate.LeaseRevoke{}, &evaluate.LeaseCheckpoint{}, &evaluate.Records{},
		&evaluate.Mirror{},
	}
}

// TestEveryKindIsEncoded holds kinds to the source of evaluate: reflection cannot
// list what implements an interface.
func TestEveryKindIsEncoded(t *testing.T) {
	pkgs, err := parser.ParseDir(token.NewFileSet(), "..", nil, 0) //nolint:staticcheck // Build tags do not matter here.
	require.NoError(t, err)
	var declared []string
	for _, pkg := range pkgs {
		for _, file := range pkg.Files {
			for _, decl := range file.Decls {
				if f, ok := decl.(*ast.FuncDecl); ok && f.Recv != nil && f.Name.Name == "isOp" {
					star, ok := f.Recv.List[0].Type.(*ast.StarExpr)
					require.True(t, ok)
					declared = append(declared, star.X.(*ast.Ident).Name)
				}
			}
		}
	}
	var known []string
	for _, op := range kinds() {
		known = append(known, reflect.TypeOf(op).Elem().Name())
		got, err := wire.DecodeOp(wire.AppendOp(nil, op))
		require.NoError(t, err)
		require.Equal(t, op, got)
	}
	slices.Sort(declared)
	slices.Sort(known)
	require.Equal(t, declared, known)
}

// TestEveryFieldIsEncoded sets each field of each op alone, at any depth, and
// looks for it in what is decoded.
func TestEveryFieldIsEncoded(t *testing.T) {
	for _, op := range kinds() {
		eachField(t, reflect.TypeOf(op).Elem(), func(path string, v reflect.Value) {
			op := v.Addr().Interface().(evaluate.Op)
			got, err := wire.DecodeOp(wire.AppendOp(nil, op))
			require.NoError(t, err, path)
			require.Equal(t, op, got, path)
		})
	}
}

func TestEveryFieldOfAResultIsEncoded(t *testing.T) {
	eachField(t, reflect.TypeFor[evaluate.Result](), func(path string, v reflect.Value) {
		r := v.Addr().Interface().(*evaluate.Result)
		got, err := wire.DecodeResult(wire.AppendResult(nil, r))
		require.NoError(t, err, path)
		require.Equal(t, *r, got, path)
	})
}

// eachField calls f with new values of typ, a struct, in each of which one field is
// set. A field that holds structs is set once for each field of theirs.
func eachField(t *testing.T, typ reflect.Type, f func(path string, v reflect.Value)) {
	t.Helper()
	for i := range typ.NumField() {
		field := typ.Field(i)
		if !field.IsExported() {
			require.Equal(t, reflect.TypeFor[mvccpb.KeyValue](), typ, "%s.%s cannot be set", typ, field.Name)
			continue
		}
		for path, value := range values(t, field.Type, typ) {
			v := reflect.New(typ).Elem()
			v.Field(i).Set(value)
			f(typ.Name()+"."+field.Name+path, v)
		}
	}
}

// values returns values of typ that are not its zero; owner is the struct that it
// stands in.
func values(t *testing.T, typ, owner reflect.Type) map[string]reflect.Value {
	t.Helper()
	v := reflect.New(typ).Elem()
	out := map[string]reflect.Value{}
	switch typ.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("x")
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
		negative := reflect.New(typ).Elem()
		negative.SetInt(-5)
		out["=-5"] = negative
	case reflect.Slice:
		if typ.Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte("x"))
			break
		}
		for path, elem := range values(t, typ.Elem(), owner) {
			out["[]"+path] = reflect.Append(v, elem)
		}
		return out
	case reflect.Pointer:
		for path, elem := range values(t, typ.Elem(), owner) {
			p := reflect.New(typ.Elem())
			p.Elem().Set(elem)
			out[path] = p
		}
		return out
	case reflect.Struct:
		if typ == owner { // A Result in a Result.
			v.FieldByName("Revision").SetInt(1)
			break
		}
		eachField(t, typ, func(path string, v reflect.Value) { out["."+path] = v })
		return out
	case reflect.Interface:
		v.Set(reflect.ValueOf(&evaluate.DeleteRange{Key: []byte("k")}))
	default:
		t.Fatalf("nothing here makes a %s", typ)
	}
	out[""] = v
	return out
}

// TestEmptyIsNil says what becomes of what is empty but not nil.
func TestEmptyIsNil(t *testing.T) {
	got, err := wire.DecodeOp(wire.AppendOp(nil, &evaluate.Range{Key: []byte("k"), End: []byte{}}))
	require.NoError(t, err)
	require.Equal(t, &evaluate.Range{Key: []byte("k")}, got)
	got, err = wire.DecodeOp(wire.AppendOp(nil, &evaluate.Put{Key: []byte("k"), Value: []byte{}}))
	require.NoError(t, err)
	require.Equal(t, &evaluate.Put{Key: []byte("k")}, got)
	r, err := wire.DecodeResult(wire.AppendResult(nil, &evaluate.Result{KVs: []*mvccpb.KeyValue{}, Responses: []evaluate.Result{}}))
	require.NoError(t, err)
	require.Equal(t, evaluate.Result{}, r)
}

// TestDecodedBytesAreTheInputs also looks that no byte string can grow into the
// next.
func TestDecodedBytesAreTheInputs(t *testing.T) {
	b := wire.AppendOp(nil, &evaluate.Put{Key: []byte("key"), Value: []byte("value")})
	op, err := wire.DecodeOp(b)
	require.NoError(t, err)
	put := op.(*evaluate.Put)
	require.Same(t, &b[bytes.Index(b, []byte("value"))], &put.Value[0])
	_ = append(put.Key, "overwritten"...)
	require.Equal(t, "value", string(put.Value))
}

func nested(depth int) evaluate.Op {
	var op evaluate.Op = &evaluate.Put{Key: []byte("k")}
	for range depth {
		op = &evaluate.Txn{Failure: []evaluate.Op{op}}
	}
	return op
}

func nestedResult(depth int) evaluate.Result {
	r := evaluate.Result{Revision: 7}
	for range depth {
		r = evaluate.Result{Responses: []evaluate.Result{r}}
	}
	return r
}

func TestDepthIsBounded(t *testing.T) {
	op := nested(wire.MaxTxnDepth)
	got, err := wire.DecodeOp(wire.AppendOp(nil, op))
	require.NoError(t, err)
	require.Equal(t, op, got)
	_, err = wire.DecodeOp(wire.AppendOp(nil, nested(wire.MaxTxnDepth+1)))
	require.ErrorIs(t, err, wire.ErrMalformed)

	r := nestedResult(wire.MaxTxnDepth)
	gotResult, err := wire.DecodeResult(wire.AppendResult(nil, &r))
	require.NoError(t, err)
	require.Equal(t, r, gotResult)
	r = nestedResult(wire.MaxTxnDepth + 1)
	_, err = wire.DecodeResult(wire.AppendResult(nil, &r))
	require.ErrorIs(t, err, wire.ErrMalformed)
}

func TestUnknownIsRefused(t *testing.T) {
	put := wire.AppendOp(nil, &evaluate.Put{Key: []byte("k")})
	for name, b := range map[string][]byte{
		"nothing":               {},
		"version":               append([]byte{2}, put[1:]...),
		"kind":                  {1, 99},
		"put's flags":           {1, 2, 1 << 3, 1, 'k', 0, 0},
		"bytes behind the end":  append(slices.Clone(put), 0),
		"a length past the end": {1, 3, 0, 200, 'k', 0},
		"a count past the end":  {1, 4, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"a number past 64 bits": {1, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"a grant in a txn":      {1, 4, 0, 1, 6, 1, 1, 1, 0},
	} {
		_, err := wire.DecodeOp(b)
		require.ErrorIs(t, err, wire.ErrMalformed, name)
	}
	for n := range put {
		_, err := wire.DecodeOp(put[:n])
		require.ErrorIs(t, err, wire.ErrMalformed, "%d bytes of it", n)
	}
	require.Panics(t, func() { wire.AppendOp(nil, nil) })
}

// TestAnnouncedCountsAllocateLittle gives counts that the rest could hold by its
// length, and does not.
func TestAnnouncedCountsAllocateLittle(t *testing.T) {
	const size = 16 << 20
	junk := bytes.Repeat([]byte{0xff}, size)
	for name, head := range map[string][]byte{
		"compares":   {1, 4, 0x80, 0x80, 0x80, 0x01},
		"success":    {1, 4, 0, 0x80, 0x80, 0x80, 0x01},
		"checkpoint": {1, 8, 0x80, 0x80, 0x80, 0x01},
	} {
		b := append(head, junk...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := wire.DecodeOp(b)
		runtime.ReadMemStats(&after)
		require.ErrorIs(t, err, wire.ErrMalformed, name)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), name)
	}
}

func FuzzDecodeOp(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(wire.AppendOp(nil, newMaker(seed).op()))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		op, err := wire.DecodeOp(b)
		if err != nil {
			require.Nil(t, op)
			require.ErrorIs(t, err, wire.ErrMalformed)
			return
		}
		again, err := wire.DecodeOp(wire.AppendOp(nil, op))
		require.NoError(t, err)
		require.Equal(t, op, again)
	})
}

func FuzzDecodeResult(f *testing.F) {
	for seed := range uint64(50) {
		r := newMaker(seed).result(2)
		f.Add(wire.AppendResult(nil, &r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := wire.DecodeResult(b)
		if err != nil {
			require.Zero(t, r)
			require.ErrorIs(t, err, wire.ErrMalformed)
			return
		}
		again, err := wire.DecodeResult(wire.AppendResult(nil, &r))
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

// guardedPut is what kube-apiserver writes with.
func guardedPut() *evaluate.Txn {
	key := []byte("/registry/pods/default/some-deployment-5d8f7c9b4d-x7k2p")
	return &evaluate.Txn{
		Compare: []evaluate.Compare{{Target: evaluate.CompareMod, Key: key, Number: 123456}},
		Success: []evaluate.Op{&evaluate.Put{Key: key, Value: bytes.Repeat([]byte("v"), 1000)}},
		Failure: []evaluate.Op{&evaluate.Range{Key: key}},
	}
}

func list(n int) *evaluate.Result {
	r := &evaluate.Result{Revision: 123456, Count: int64(n)}
	for i := range n {
		r.KVs = append(r.KVs, &mvccpb.KeyValue{
			Key:   fmt.Appendf(nil, "/registry/pods/default/some-deployment-5d8f7c9b4d-%05d", i),
			Value: bytes.Repeat([]byte("v"), 1000), CreateRevision: 100000, ModRevision: 123456, Version: 7,
		})
	}
	return r
}

func BenchmarkAppendTxn(b *testing.B) {
	op, buf := guardedPut(), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = wire.AppendOp(buf[:0], op)
	}
	b.ReportMetric(float64(len(buf)), "encoded-bytes")
}

func BenchmarkDecodeTxn(b *testing.B) {
	encoded := wire.AppendOp(nil, guardedPut())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := wire.DecodeOp(encoded); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendList(b *testing.B) {
	r, buf := list(500), make([]byte, 0, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		buf = wire.AppendResult(buf[:0], r)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecodeList(b *testing.B) {
	encoded := wire.AppendResult(nil, list(500))
	b.SetBytes(int64(len(encoded)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := wire.DecodeResult(encoded); err != nil {
			b.Fatal(err)
		}
	}
}
