package revline

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func promise(closed int64, indexes ...uint64) Promise {
	return Promise{Epoch: 1, Closed: closed, Indexes: indexes}
}

// TestPromise is what the sequencer may say: nothing that is outstanding, and the
// indexes of the same moment.
func TestPromise(t *testing.T) {
	r := newRig(2, nil)
	_, ok := r.Promise()
	require.False(t, ok)
	r.reign(t, 7)
	p, ok := r.Promise()
	require.True(t, ok)
	require.Equal(t, Promise{Epoch: 7, Closed: 1, Indexes: []uint64{2, 2}}, p)
	r.next(0)
	r.next(1)
	r.apply(1, 3)
	p, _ = r.Promise()
	require.Equal(t, Promise{Epoch: 7, Closed: 1, Indexes: []uint64{2, 3}}, p)
	r.apply(0, 2)
	p, _ = r.Promise()
	require.Equal(t, Promise{Epoch: 7, Closed: 3, Indexes: []uint64{3, 3}}, p)
	r.End()
	_, ok = r.Promise()
	require.False(t, ok)
}

// TestPromised: the greatest promise that is reached counts, in whatever order
// they come.
func TestPromised(t *testing.T) {
	r := newRig(2, nil)
	r.Promised(promise(9, 5, 5))
	r.Promised(promise(4, 2, 1))
	r.Promised(promise(6, 2, 3))
	require.Equal(t, [2]int64{1, 1}, r.at())
	r.apply(0, 3)
	require.Equal(t, [2]int64{4, 4}, r.at())
	require.Len(t, r.promises, 2, "what is reached is forgotten")
	r.Promised(promise(3, 9, 9)) // old
	require.Len(t, r.promises, 2)
	r.apply(1, 5, 6)
	require.Equal(t, [2]int64{6, 6}, r.at())
	r.apply(0, 7, 8, 9)
	require.Equal(t, [2]int64{6, 6}, r.at())
	r.Promised(promise(7, 3, 3)) // reached when it comes
	require.Equal(t, [2]int64{7, 7}, r.at())
	r.apply(1, 10, 11)
	require.Equal(t, [2]int64{9, 9}, r.at())
	require.Empty(t, r.promises)

	// One of other groups is none; nor is any while this member reigns.
	r.Promised(promise(50, 1))
	r.Promised(promise(50, 1, 1, 1))
	r.reign(t, 2)
	require.Equal(t, [2]int64{11, 11}, r.at())
	r.Promised(promise(50, 1, 1))
	require.Equal(t, [2]int64{11, 11}, r.at())
	r.End()
	require.Equal(t, [2]int64{11, 11}, r.at())
	// Those from before a reign are forgotten with it.
	r.Promised(promise(60, 100, 100))
	r.reign(t, 3)
	require.Empty(t, r.promises)
}

// TestPromisesAreBounded: a member that lags keeps the oldest, and the newest in
// place of the one before it.
func TestPromisesAreBounded(t *testing.T) {
	r := newRig(1, nil)
	for i := range uint64(200) {
		r.Promised(promise(int64(10+i), 10+i))
	}
	require.Len(t, r.promises, maxPromises)
	r.groups[0].Index = 10 + maxPromises - 2
	r.apply(0, 2)
	require.EqualValues(t, 10+maxPromises-2, r.Closed())
	require.Len(t, r.promises, 1)
	r.groups[0].Index = 208
	r.apply(0, 3)
	require.EqualValues(t, 209, r.Closed())
}

func TestPromiseCoding(t *testing.T) {
	for _, p := range []Promise{
		{Epoch: 0, Closed: 1, Indexes: []uint64{}},
		{Epoch: 1, Closed: 1, Indexes: []uint64{0}},
		{Epoch: 300, Closed: 1 << 40, Indexes: []uint64{1, 300, math.MaxUint64}},
		{Epoch: math.MaxUint64, Closed: math.MaxInt64, Indexes: []uint64{7, 7, 7, 7}},
	} {
		data := p.Append([]byte("before"))
		got, err := DecodePromise(data[6:], len(p.Indexes))
		require.NoError(t, err)
		require.Equal(t, p, got)
		for n := range data[6:] {
			_, err := DecodePromise(data[6:6+n], len(p.Indexes))
			require.ErrorIs(t, err, errBadPromise, "the first %d bytes", n)
		}
		_, err = DecodePromise(append(data[6:], 0), len(p.Indexes))
		require.ErrorIs(t, err, errBadPromise)
		_, err = DecodePromise(data[6:], len(p.Indexes)+1)
		require.ErrorIs(t, err, errBadPromise)
	}
	// As members of one cluster may be of different versions.
	require.Equal(t, "\xac\x02\x05\x01\x02", string(Promise{Epoch: 300, Closed: 5, Indexes: []uint64{1, 2}}.Append(nil)))
	for _, closed := range []uint64{0, 1 << 63, math.MaxUint64} {
		data := binary.AppendUvarint(binary.AppendUvarint(nil, 1), closed)
		_, err := DecodePromise(data, 0)
		require.ErrorIs(t, err, errBadPromise)
	}
	_, err := DecodePromise([]byte(strings.Repeat("\xff", 20)), 1)
	require.ErrorIs(t, err, errBadPromise)
}

func FuzzDecodePromise(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add(Promise{Epoch: 300, Closed: 5, Indexes: []uint64{1, 2}}.Append(nil), 2)
	f.Add([]byte(strings.Repeat("\xff", 12)), 1)
	f.Fuzz(func(t *testing.T, data []byte, groups int) {
		groups = max(0, groups%16)
		p, err := DecodePromise(data, groups)
		if err != nil {
			return
		}
		require.Positive(t, p.Closed)
		require.Len(t, p.Indexes, groups)
		again, err := DecodePromise(p.Append(nil), groups)
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}
