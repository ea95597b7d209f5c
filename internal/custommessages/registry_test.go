package custommessages_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/internal/custommessages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const capability = "com.example.a"

// pointer is what stands for the type of an API.
type pointer = *custommessages.Message

func register(t *testing.T, g *custommessages.Group, queued int) *custommessages.Registration[pointer] {
	t.Helper()
	h, err := custommessages.Register(g, capability, queued,
		func(m custommessages.Message) pointer { return &m }, func(m pointer) custommessages.Message { return *m })
	require.NoError(t, err)
	return h
}

func message(n int) custommessages.Message {
	return custommessages.Message{Capability: capability, Type: "t", Data: fmt.Append(nil, n)}
}

// read returns the numbers of all messages that can be read.
func read(h *custommessages.Registration[pointer]) []string {
	var numbers []string
	for {
		select {
		case m := <-h.Messages():
			numbers = append(numbers, string(m.Data))
		default:
			return numbers
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// What the predecessor did not read, and what came while nobody was there, is
// given to the successor, in order.
func TestSuccessorInheritsMessages(t *testing.T) {
	t.Parallel()
	r := custommessages.NewRegistry()
	g := r.NewGroup()
	h := register(t, g, 3)
	r.Ready()
	for n := range 3 {
		require.Zero(t, r.Deliver(message(n)))
	}
	assert.Equal(t, "0", string((<-h.Messages()).Data))
	r.NotReady()
	h.Unregister()
	h.Unregister()
	assert.Empty(t, read(h), "what was taken back is not read twice")
	g.Close()
	require.Zero(t, r.Deliver(message(3)))
	require.Zero(t, r.Deliver(message(4)))
	assert.Equal(t, []string{capability}, r.Capabilities())

	h = register(t, r.NewGroup(), 1)
	require.Zero(t, r.Ready())
	assert.Equal(t, 1, r.Deliver(message(5)), "the queue holds more than was asked for")
	assert.Equal(t, []string{"1", "2", "3", "4"}, read(h))
	require.Zero(t, r.Deliver(message(6)))
	assert.Equal(t, 1, r.Deliver(message(7)), "one is what was asked for")
	assert.Equal(t, []string{"6"}, read(h))
	assert.Equal(t, uint64(2), r.Dropped.Received.Load())
	assert.Zero(t, r.Dropped.Sent.Load())
}

// Several components with one capability: each is given every message, and each
// successor what its predecessor has not read.
func TestEachComponentHasItsOwnMessages(t *testing.T) {
	t.Parallel()
	r := custommessages.NewRegistry()
	g := r.NewGroup()
	first, second := register(t, g, 10), register(t, g, 10)
	r.Ready()
	require.Zero(t, r.Deliver(message(1)))
	require.Zero(t, r.Deliver(message(2)))
	assert.Equal(t, []string{"1", "2"}, read(first))
	assert.Equal(t, "1", string((<-second.Messages()).Data))
	r.NotReady()
	second.Unregister() // the order of stopping is not that of starting
	require.Zero(t, r.Deliver(message(3)))
	first.Unregister()
	require.Zero(t, r.Deliver(message(4)))
	g = r.NewGroup()
	first, second = register(t, g, 10), register(t, g, 10)
	require.Zero(t, r.Ready())
	require.Zero(t, r.Deliver(message(5)))
	assert.Equal(t, []string{"3", "4", "5"}, read(first))
	assert.Equal(t, []string{"2", "3", "4", "5"}, read(second))
}

// Outside a reload a capability ends when its last component unregisters, and
// after a reload when nobody registered it again.
func TestCapabilityIsWithdrawn(t *testing.T) {
	t.Parallel()
	r := custommessages.NewRegistry()
	g := r.NewGroup()
	first, second := register(t, g, 10), register(t, g, 10)
	r.Ready()
	require.Zero(t, r.Deliver(message(1)))
	first.Unregister()
	assert.Equal(t, []string{capability}, r.Capabilities())
	second.Unregister()
	first.Unregister()
	assert.Empty(t, r.Capabilities())
	assert.Equal(t, []string{"1"}, read(first), "what had arrived may still be read")
	assert.Equal(t, 1, r.Deliver(message(2)), "there is nobody")
	assert.Empty(t, read(second)[1:])

	register(t, g, 10)
	require.Zero(t, r.Deliver(message(3)))
	g.Close() // for a component that did not unregister
	g.Close()
	require.Zero(t, r.Deliver(message(4)))
	assert.Equal(t, []string{capability}, r.Capabilities())
	assert.Equal(t, 2, r.Ready())
	assert.Empty(t, r.Capabilities())
	assert.Equal(t, uint64(3), r.Dropped.Received.Load())
}

func TestRegistrationsThatFail(t *testing.T) {
	t.Parallel()
	g := custommessages.NewRegistry().NewGroup()
	for _, bad := range []string{"", "a\xff"} {
		_, err := custommessages.Register(g, bad, 1,
			func(m custommessages.Message) pointer { return &m }, func(m pointer) custommessages.Message { return *m })
		require.ErrorContains(t, err, "a text in UTF-8 that is not empty")
	}
	g.Close()
	_, err := custommessages.Register(g, "a", 1,
		func(m custommessages.Message) pointer { return &m }, func(m pointer) custommessages.Message { return *m })
	require.ErrorIs(t, err, custommessages.ErrClosed)
}

func TestBoundsOfQueues(t *testing.T) {
	t.Parallel()
	r := custommessages.NewRegistry()
	g := r.NewGroup()
	for _, queued := range []int{-1, 0, 1} {
		h := register(t, g, queued)
		r.Ready()
		assert.Zero(t, r.Deliver(message(1)), queued)
		assert.Equal(t, 1, r.Deliver(message(2)), queued)
		h.Unregister()
	}
	register(t, g, 1<<40).Unregister() // would need a terabyte
	register(t, g, 1)
	r.NotReady()
	g.Close()

	// Number and size of what is kept for a successor are bounded.
	for n := range 1000 {
		require.Zero(t, r.Deliver(message(n)))
	}
	assert.Equal(t, 1, r.Deliver(message(0)))
	assert.Equal(t, 1000, r.Ready())
	h := register(t, r.NewGroup(), 1)
	r.NotReady()
	h.Unregister()
	large := custommessages.Message{Capability: capability, Data: make([]byte, 15<<20)}
	require.Zero(t, r.Deliver(large))
	assert.Equal(t, 1, r.Deliver(large))
	assert.Equal(t, 1, r.Ready())
	h = register(t, r.NewGroup(), 1)
	r.NotReady()
	h.Unregister()
	assert.Zero(t, r.Deliver(large), "what was dropped makes room")
}

// A message that is accepted stays until it was sent, whatever becomes of the
// component, and so does its capability.
func TestOutbox(t *testing.T) {
	t.Parallel()
	r := custommessages.NewRegistry()
	h := register(t, r.NewGroup(), 1)
	r.Ready()
	data := []byte("one")
	first, err := h.Send("t", data)
	require.NoError(t, err)
	copy(data, "xxx")
	second, err := h.Send("t", []byte("two"))
	require.NoError(t, err)
	h.Unregister()
	_, err = h.Send("t", nil)
	require.ErrorIs(t, err, custommessages.ErrUnregistered)
	assert.Equal(t, []string{capability}, r.Capabilities())
	m, ok := r.Head()
	require.True(t, ok)
	assert.Equal(t, custommessages.Message{Capability: capability, Type: "t", Data: []byte("one")}, m)
	assert.False(t, isClosed(first))
	r.Sent()
	assert.True(t, isClosed(first))
	assert.False(t, isClosed(second))
	m, ok = r.Head()
	require.True(t, ok)
	assert.Equal(t, "two", string(m.Data))
	drain(r)
	r.Refused()
	assert.True(t, isClosed(r.Changed()), "a capability may have to be withdrawn")
	assert.True(t, isClosed(second))
	_, ok = r.Head()
	assert.False(t, ok)
	assert.Empty(t, r.Capabilities())
	assert.Equal(t, uint64(1), r.Dropped.Sent.Load())
}

func drain(r *custommessages.Registry) {
	select {
	case <-r.Changed():
	default:
	}
}

func TestFullOutbox(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		size int
		fits int
	}{{"number", 0, 1000}, {"size", custommessages.MaxSize - 100, 2}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := custommessages.NewRegistry()
			g := r.NewGroup()
			h, other := register(t, g, 1), register(t, g, 1)
			data := make([]byte, tt.size)
			for range tt.fits {
				_, err := h.Send("t", data)
				require.NoError(t, err)
			}
			room, err := h.Send("t", data)
			require.ErrorIs(t, err, custommessages.ErrFull)
			again, err := other.Send("t", data)
			require.ErrorIs(t, err, custommessages.ErrFull)
			assert.False(t, isClosed(room))
			r.Sent()
			assert.True(t, isClosed(room))
			assert.True(t, isClosed(again))
			_, err = h.Send("t", data)
			require.NoError(t, err)
			room, err = h.Send("t", data)
			require.ErrorIs(t, err, custommessages.ErrFull)
			assert.False(t, isClosed(room))
			h.Unregister()
			assert.True(t, isClosed(room), "whoever waits learns that it may send no more")
			assert.Equal(t, tt.fits, r.Queued())
			assert.Zero(t, r.Dropped.Sent.Load(), "what was not accepted is not dropped")
		})
	}
	_, err := register(t, custommessages.NewRegistry().NewGroup(), 1).Send("t", make([]byte, custommessages.MaxSize))
	require.EqualError(t, err, "sending a custom message of 2097166 bytes: at most 2097152 can be sent")
}

// Whatever the order of reloads, deliveries and reads: components that start in
// the same order each time are given each message that was accepted for them
// once and in order, and every other one is counted.
func TestNothingAcceptedIsLostOrReordered(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		var story strings.Builder
		r := custommessages.NewRegistry()
		seats := 1 + random.IntN(3)
		queued := 1 + random.IntN(5)
		got := make([][]string, seats)
		registered := make([]*custommessages.Registration[pointer], seats)
		var group *custommessages.Group
		begin := func() {
			group = r.NewGroup()
			for i := range registered {
				registered[i] = register(t, group, queued)
			}
		}
		begin()
		delivered, dropped, ready := 0, 0, false
		for range 200 {
			switch what := random.IntN(10); {
			case what < 5:
				n := r.Deliver(message(delivered))
				fmt.Fprintf(&story, "deliver %d, dropped %d\n", delivered, n)
				delivered++
				dropped += n
			case what < 7:
				i := random.IntN(seats)
				select {
				case m := <-registered[i].Messages():
					fmt.Fprintf(&story, "%d reads %s\n", i, m.Data)
					got[i] = append(got[i], string(m.Data))
				default:
				}
			case what < 8 && !ready:
				story.WriteString("ready\n")
				dropped += r.Ready()
				ready = true
			case what >= 8:
				story.WriteString("reload\n")
				if ready {
					r.NotReady()
					ready = false
				}
				for _, i := range random.Perm(seats)[:random.IntN(seats+1)] { // the others forget to
					registered[i].Unregister()
					if random.IntN(2) == 0 {
						dropped += r.Deliver(message(delivered))
						delivered++
					}
				}
				group.Close()
				for range random.IntN(10) {
					dropped += r.Deliver(message(delivered))
					delivered++
				}
				begin()
			}
			require.Equal(t, []string{capability}, r.Capabilities())
		}
		total := 0
		for i, h := range registered {
			got[i] = append(got[i], read(h)...)
			total += len(got[i])
			sorted := slices.IsSortedFunc(got[i], func(a, b string) int {
				return len(a)*1000 - len(b)*1000 + strings.Compare(a, b)
			})
			require.Truef(t, sorted, "seed %d, seat %d: %v\n%s", seed, i, got[i], &story)
			require.Equal(t, slices.Compact(slices.Clone(got[i])), got[i], "seed %d: twice", seed)
		}
		require.Equalf(t, delivered*seats, total+dropped, "seed %d\n%s", seed, &story)
		require.Equal(t, uint64(dropped), r.Dropped.Received.Load())
	}
}

// A component that goes on reading while it is unregistered loses nothing either.
func TestConcurrentReloads(t *testing.T) {
	t.Parallel()
	const messages, reloads = 2000, 50
	r := custommessages.NewRegistry()
	var work sync.WaitGroup
	sending := make(chan struct{})
	work.Go(func() {
		defer close(sending)
		for n := range messages {
			for r.Deliver(message(n)) > 0 {
			}
		}
	})
	var got []string
	for i := range reloads {
		g := r.NewGroup()
		h := register(t, g, 50)
		r.Ready()
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case m := <-h.Messages():
					got = append(got, string(m.Data))
				case <-stop:
					return
				}
			}
		}()
		if i == reloads-1 {
			<-sending
		}
		r.NotReady()
		h.Unregister()
		close(stop)
		<-stopped
		g.Close()
	}
	work.Wait()
	got = append(got, read(register(t, r.NewGroup(), 1))...)
	want := make([]string, messages)
	for n := range want {
		want[n] = strconv.Itoa(n)
	}
	// What a component reads while it unregisters may overtake what is taken back.
	require.ElementsMatch(t, want, got)
}
