package sim_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/sim"
)

// FuzzEvaluate has the fuzzer choose the requests of a history, how many entries
// are in flight, and when they are applied; every answer must be the model's.
func FuzzEvaluate(f *testing.F) {
	for seed := range uint64(16) {
		rng := rand.New(rand.NewPCG(seed, 3))
		data := make([]byte, 512)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		src := &choices{data: data, rest: rand.NewPCG(1, 4)}
		target := newStoreTarget(t, 1)
		target.rng = rand.New(src)
		h := sim.NewHistoryFrom(src, target)
		for len(src.data) > 0 {
			require.NoError(t, h.Run(1))
		}
		target.checkRows(h.Model)
		require.NoError(t, target.db.Close())
	})
}

// choices is a source of randomness whose high bits, which decide, are data's
// while there are any.
type choices struct {
	data []byte
	rest rand.Source
}

func (c *choices) Uint64() uint64 {
	v := c.rest.Uint64()
	if len(c.data) > 0 {
		v = v>>8 | uint64(c.data[0])<<56
		c.data = c.data[1:]
	}
	return v
}
