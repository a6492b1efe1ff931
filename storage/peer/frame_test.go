package peer

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/mem"
)

func randomRecord(rng *rand.Rand) record {
	r := record{kind: byte(1 + rng.IntN(6))}
	switch r.kind {
	case recordRaft:
		r.id = uint64(rng.IntN(math.MaxUint16 + 1))
	case recordNotice:
	case recordFailure:
		r.id, r.method, r.code = rng.Uint64()>>rng.IntN(64), byte(rng.Uint32()), byte(rng.Uint32())
	case recordCall:
		r.id, r.method = rng.Uint64()>>rng.IntN(64), byte(rng.Uint32())
	default:
		r.id = rng.Uint64() >> rng.IntN(64)
	}
	if r.kind == recordCancel {
		return r
	}
	n := rng.IntN(100)
	switch rng.IntN(20) {
	case 0:
		n = copyBelow - 1 + rng.IntN(3)
	case 1:
		n = rng.IntN(4 * copyBelow)
	case 2:
		n = 0
	}
	for range n {
		r.payload = append(r.payload, byte(rng.Uint32()))
	}
	return r
}

// split returns b in buffers of random lengths, some of them empty.
func split(rng *rand.Rand, b []byte, longest int) *message {
	var m message
	for len(b) > 0 {
		n := min(len(b), rng.IntN(longest+1))
		m.buffers = append(m.buffers, mem.SliceBuffer(b[:n:n]))
		b = b[n:]
	}
	return &m
}

func TestFramesRoundTrip(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var pool bufferPool
		want := make([]record, 1+rng.IntN(30))
		for i := range want {
			want[i] = randomRecord(rng)
		}
		frame := encode(want, &pool)
		b := frame.Materialize()
		frame.Free()
		var (
			d   decoder
			got []record
		)
		d.begin(split(rng, b, 1+rng.IntN(1<<rng.IntN(15))))
		for r := (record{}); d.next(&r); {
			got = append(got, r)
		}
		require.NoError(t, d.err, "seed %d", seed)
		require.Equal(t, want, got, "seed %d", seed)
	}
}

func TestPayloadsDoNotOverlap(t *testing.T) {
	var pool bufferPool
	frame := encode([]record{
		{kind: recordRaft, payload: []byte("one")}, {kind: recordRaft, payload: []byte("two")},
	}, &pool)
	var (
		d    decoder
		a, b record
	)
	d.begin(&message{buffers: frame})
	require.True(t, d.next(&a))
	require.True(t, d.next(&b))
	_ = append(a.payload, "more"...)
	require.Equal(t, "two", string(b.payload))
}

func TestMalformedFrames(t *testing.T) {
	for name, b := range map[string][]byte{
		"kind":           {99},
		"cut short":      {recordRaft},
		"group":          {recordRaft, 0x80, 0x80, 0x04, 0},
		"length":         {recordNotice, 5, 1, 2},
		"number":         append([]byte{recordReply}, bytes.Repeat([]byte{0xff}, 11)...),
		"number, at end": append([]byte{recordReply}, bytes.Repeat([]byte{0xff}, 9)...),
	} {
		for _, longest := range []int{1, 100} {
			var (
				d decoder
				r record
			)
			d.begin(split(rand.New(rand.NewPCG(1, 1)), b, longest))
			require.False(t, d.next(&r), name)
			require.ErrorIs(t, d.err, ErrProtocol, name)
			require.False(t, d.next(&r), name)
		}
	}
}

// TestAnnouncedLengthAllocatesNothing announces a payload that does not come.
func TestAnnouncedLengthAllocatesNothing(t *testing.T) {
	b := []byte{recordNotice, 0xff, 0xff, 0xff, 0x1f, 1, 2, 3}
	m := &message{buffers: mem.BufferSlice{mem.SliceBuffer(b)}}
	var (
		d decoder
		r record
	)
	allocated := testing.AllocsPerRun(10, func() {
		d.begin(m)
		d.next(&r)
	})
	require.Less(t, allocated, 10.0)
	require.ErrorIs(t, d.err, ErrProtocol)
}

func FuzzFrame(f *testing.F) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var pool bufferPool
		f.Add(encode([]record{randomRecord(rng), randomRecord(rng)}, &pool).Materialize(), byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte, longest byte) {
		records := func(longest int) (string, error) {
			var d decoder
			d.begin(split(rand.New(rand.NewPCG(1, 1)), b, longest))
			var out []byte
			for r := (record{}); d.next(&r); {
				out = fmt.Appendf(out, "%v\n", r)
			}
			return string(out), d.err
		}
		// However it is cut into buffers, a frame is the same, and what has been
		// decoded is encoded to what is decoded to the same.
		one, oneErr := records(len(b) + 1)
		other, otherErr := records(1 + int(longest))
		require.Equal(t, one, other)
		require.Equal(t, oneErr, otherErr)
	})
}

func FuzzGreeting(f *testing.F) {
	f.Add(hello{1, 1, 2, 3, 4}.encode())
	f.Add(hello{1, 1, 2, 3, 4}.welcome())
	f.Add(failure{classRemote, 3, "no"}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeHello(b); err == nil {
			require.Equal(t, b[:helloBytes], h.encode())
			_ = h.check(2, 4)
		}
		if (hello{1, 1, 2, 3, 4}).checkAnswer(b) == nil {
			require.Equal(t, hello{1, 1, 2, 3, 4}.welcome(), b[:welcomeBytes])
		}
	})
}
