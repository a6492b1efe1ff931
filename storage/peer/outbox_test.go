package peer

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

func testOutbox() (*outbox, *clock.Manual) {
	c := clock.NewManual(time.Unix(0, 0))
	return newOutbox(100, 8<<20, time.Millisecond, c), c
}

func raftRecord(payload string) record { return record{kind: recordRaft, payload: []byte(payload)} }

// frames takes everything and returns the payloads, a line for each frame.
func (o *outbox) frames() string {
	var lines []string
	for {
		batch := o.take(nil)
		if len(batch) == 0 {
			return strings.Join(lines, "\n")
		}
		var line []string
		for _, r := range batch {
			what := string(r.payload)
			if len(what) > 10 {
				what = fmt.Sprintf("%d bytes", len(what))
			}
			if r.kind == recordNotice {
				what = "notice " + what
			}
			line = append(line, what)
		}
		lines = append(lines, strings.Join(line, ", "))
	}
}

func TestEverythingThatWaitsGoesIntoOneFrame(t *testing.T) {
	o, _ := testOutbox()
	for i := range 5 {
		require.NoError(t, o.push(raftRecord(fmt.Sprint(i)), i%2 == 0))
	}
	require.Equal(t, "0, 1, 2, 3, 4", o.frames())
}

func TestFramesAreBounded(t *testing.T) {
	o, _ := testOutbox()
	third := strings.Repeat("x", maxFrameBytes/3)
	for _, p := range []string{"a", third, third, third, "b", strings.Repeat("x", 2*maxFrameBytes), "c"} {
		require.NoError(t, o.push(raftRecord(p), false))
	}
	require.Equal(t, "a, 349525 bytes, 349525 bytes\n349525 bytes, b\n2097152 bytes\nc", o.frames())
}

func TestNoticesReplaceOlderOnes(t *testing.T) {
	o, _ := testOutbox()
	require.NoError(t, o.push(raftRecord("a"), false))
	require.NoError(t, o.notify([]byte("1")))
	require.NoError(t, o.push(raftRecord("b"), false))
	require.NoError(t, o.notify([]byte("2")))
	require.NoError(t, o.notify([]byte("3")))
	require.NoError(t, o.push(raftRecord("c"), false))
	require.Equal(t, "a, b, c, notice 3", o.frames())
	require.Empty(t, o.frames())
}

// TestNoticeIsNotPutOffForEver has newer notices come whenever a frame has gone, and
// always more to send than one frame takes.
func TestNoticeIsNotPutOffForEver(t *testing.T) {
	o, _ := testOutbox()
	half := strings.Repeat("x", maxFrameBytes/2-maxRecordHead)
	for range 4 {
		require.NoError(t, o.push(raftRecord(half), false))
	}
	require.NoError(t, o.notify([]byte("0")))
	var sent []string
	for i := range 12 {
		for range 2 {
			require.NoError(t, o.push(raftRecord(half), false))
		}
		for _, r := range o.take(nil) {
			if r.kind == recordNotice {
				sent = append(sent, fmt.Sprintf("%s in frame %d", r.payload, i))
			}
		}
		require.NoError(t, o.notify(fmt.Append(nil, i+1)))
	}
	require.Equal(t, []string{"0 in frame 1", "2 in frame 3", "4 in frame 5", "6 in frame 7", "8 in frame 9", "10 in frame 11"}, sent)
	_, unsent := o.close()
	require.Equal(t, "12", string(unsent.payload))
}

// TestNoticesBehindWhatWasSentBefore is the same with everything at random, against
// what a notice promises: it comes after all that was sent before it, and the newest
// comes in the end.
func TestNoticesBehindWhatWasSentBefore(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		o, _ := testOutbox()
		pushed, notices, got, newest := 0, 0, 0, -1
		before := map[int]int{} // How many records were pushed before a notice.
		take := func() {
			for _, r := range o.take(nil) {
				if r.kind != recordNotice {
					got++
					continue
				}
				n := int(r.payload[0])
				require.Greater(t, n, newest, "seed %d", seed)
				require.GreaterOrEqual(t, got, before[n], "seed %d", seed)
				newest = n
			}
		}
		for range 150 {
			switch rng.IntN(4) {
			case 0:
				before[notices] = pushed
				require.NoError(t, o.notify([]byte{byte(notices)}))
				notices++
			case 1:
				take()
			default:
				if o.push(record{kind: recordRaft, payload: make([]byte, rng.IntN(maxFrameBytes/2))}, false) == nil {
					pushed++
				}
			}
		}
		for o.messages.Load() > 0 || o.first.there {
			take()
		}
		require.Equal(t, pushed, got, "seed %d", seed)
		require.Equal(t, notices-1, newest, "seed %d", seed)
	}
}

func TestQueueIsBounded(t *testing.T) {
	o, _ := testOutbox()
	for range 100 {
		require.NoError(t, o.push(raftRecord("x"), false))
	}
	require.ErrorIs(t, o.push(raftRecord("x"), false), errFull)
	require.NoError(t, o.push(record{kind: recordCancel, id: 1}, false))
	o.frames()
	require.Zero(t, o.bytes.Load())

	// A payload alone may be larger than all together.
	require.NoError(t, o.push(raftRecord(strings.Repeat("x", 9<<20)), false))
	require.ErrorIs(t, o.push(raftRecord("x"), false), errFull)
	require.NoError(t, o.push(record{kind: recordFailure, id: 1}, false))
	lost, _ := o.close()
	require.Equal(t, 1, lost)
	require.ErrorIs(t, o.push(raftRecord("x"), false), errClosed)
	require.Empty(t, o.take(nil))
}

func TestWithdrawnCallIsNotSent(t *testing.T) {
	o, _ := testOutbox()
	a, b := &pendingCall{}, &pendingCall{}
	require.NoError(t, o.push(record{kind: recordCall, payload: []byte("a"), call: a}, false))
	require.NoError(t, o.push(record{kind: recordCall, payload: []byte("b"), call: b}, false))
	require.True(t, o.withdraw(a))
	require.Equal(t, "b", o.frames())
	require.False(t, o.withdraw(b))
	require.Zero(t, o.messages.Load())
}

// TestLazyRecordsWait looks when the writer wakes.
func TestLazyRecordsWait(t *testing.T) {
	o, c := testOutbox()
	woken := make(chan string)
	go func() {
		for o.wait() {
			woken <- o.frames()
		}
		close(woken)
	}()
	// idle returns when the writer waits, so that nothing but what follows wakes it.
	idle := func() {
		for {
			o.mu.Lock()
			idle := o.idle
			o.mu.Unlock()
			if idle {
				return
			}
			select {
			case got := <-woken:
				t.Errorf("woken for %q", got)
			default:
			}
		}
	}
	idle()
	require.NoError(t, o.push(raftRecord("a"), true))
	require.NoError(t, o.push(raftRecord("b"), true))
	require.Equal(t, 1, c.Timers())
	idle()
	c.Advance(time.Millisecond)
	require.Equal(t, "a, b", <-woken)

	idle()
	require.NoError(t, o.push(raftRecord("c"), true))
	require.NoError(t, o.push(raftRecord("d"), false))
	require.Equal(t, "c, d", <-woken)

	// What the timer was for has gone; the next lazy one waits as long as any.
	idle()
	c.Advance(time.Millisecond / 2)
	require.NoError(t, o.push(raftRecord("e"), true))
	c.Advance(time.Millisecond / 2)
	idle()
	c.Advance(time.Millisecond / 2)
	require.Equal(t, "e", <-woken)
	o.close()
	_, open := <-woken
	require.False(t, open)
}

func TestCallTable(t *testing.T) {
	table := callTable{max: 2}
	c := [3]*pendingCall{}
	for i := range c {
		c[i] = &pendingCall{done: make(chan struct{}, 1)}
	}
	a, err := table.add(c[0])
	require.NoError(t, err)
	b, err := table.add(c[1])
	require.NoError(t, err)
	_, err = table.add(c[2])
	require.ErrorIs(t, err, errFull)
	require.Same(t, c[0], table.remove(a))
	require.Nil(t, table.remove(a))
	again, err := table.add(c[2])
	require.NoError(t, err)
	require.NotEqual(t, a, again)
	require.Nil(t, table.remove(a), "the id of the call before in the slot")
	require.Nil(t, table.remove(1<<slotBits-1))
	require.Equal(t, 2, table.len())

	c[1].sent = true
	table.close(ErrProtocol)
	<-c[1].done
	require.ErrorIs(t, c[1].err, ErrUnknown)
	<-c[2].done
	require.ErrorIs(t, c[2].err, ErrNotSent)
	require.ErrorIs(t, c[2].err, ErrProtocol)
	require.Nil(t, table.remove(b))
	_, err = table.add(c[0])
	require.ErrorIs(t, err, errClosed)
}
