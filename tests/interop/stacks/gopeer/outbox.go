package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"math"
	"slices"
	"time"
)

// message is one that we send.
type message struct {
	label    string
	envelope *envelope
	stream   uint8
	body     []byte // of its number
	leaf     hash
	written  bool
	isDone   bool // accepted, refused or given up: it is not sent again
	isClosed bool // handled or refused by the application
	batches  []*batch
	answers  [5]*receipt // of each kind, for proofs
}

// outbox has the messages to a peer, over all links (9). It has no store.
type outbox struct {
	identity ed25519.PrivateKey
	them     []byte
	epochs   [2]uint64
	theirs   uint64              // volatile epoch of the other side, as its last HELLO has it
	numbers  [streamCount]uint64 // the last one
	waiting  [streamCount][]*message
	leaves   map[hash]*message
	roots    map[hash][]*message
	labels   map[string]*message
	say      func(format string, values ...any)
}

func newOutbox(identity ed25519.PrivateKey, them []byte, say func(string, ...any)) *outbox {
	out := &outbox{identity: identity, them: them, say: say}
	out.leaves, out.roots = map[hash]*message{}, map[hash][]*message{}
	out.labels = map[string]*message{}
	now := uint64(time.Now().UnixMicro())
	out.epochs = [2]uint64{now, now}
	return out
}

// add makes a message with the next number of its stream.
func (out *outbox) add(label string, isDurable bool, priority uint8, subject, payload []byte) *message {
	e := &envelope{
		sender: didOf(out.identity), recipient: out.them,
		timestamp: uint64(time.Now().UnixMicro()), priority: priority,
		isDurable: isDurable, subject: subject, payload: payload,
	}
	rand.Read(e.id[:16])
	m := &message{label: label, envelope: e, stream: priority}
	if !isDurable {
		m.stream += 4
	}
	out.number(m)
	out.labels[label] = m
	out.waiting[m.stream] = append(out.waiting[m.stream], m)
	return m
}

// number gives a message a number of the present epoch, and so its bytes.
func (out *outbox) number(m *message) {
	delete(out.leaves, m.leaf)
	out.numbers[m.stream]++
	m.envelope.sequence = out.numbers[m.stream]
	m.envelope.epoch = out.epochs[kindOf(m.stream)]
	m.body = m.envelope.encode()
	m.leaf = leafOf(m.body)
	out.leaves[m.leaf] = m
}

// learn compares our counts with the HELLO of the other side (9). After a fault the link closes.
func (out *outbox) learn(h *hello) error {
	var lost error
	defer func() { out.theirs = h.epochs[1] }()
	for kind := range 2 {
		if kind == 1 && h.known[1] != out.epochs[1] && h.epochs[1] != out.theirs {
			out.giveUp(kind, "unknown outcome")
		}
		isOld := h.known[kind] > out.epochs[kind]
		for stream := 4 * kind; stream < 4*kind+4; stream++ {
			isCopy := h.known[kind] == out.epochs[kind] && h.marks[stream] > out.numbers[stream]
			isOld = isOld || isCopy
		}
		if !isOld {
			continue
		}
		if h.known[kind] == math.MaxInt64 {
			return broken("no epoch is left for this key")
		}
		lost = &fault{closeStaleEpoch, "our epoch is older than the one known"}
		out.giveUp(kind, "stale epoch")
		out.epochs[kind] = max(h.known[kind]+1, uint64(time.Now().UnixMicro()))
		for stream := 4 * kind; stream < 4*kind+4; stream++ {
			out.numbers[stream] = 0
			for _, m := range out.waiting[stream] {
				out.number(m)
			}
		}
	}
	return lost
}

// giveUp ends the messages of a kind that were written and have no answer.
func (out *outbox) giveUp(kind int, why string) {
	for stream := 4 * kind; stream < 4*kind+4; stream++ {
		for _, m := range slices.Clone(out.waiting[stream]) {
			if m.written {
				out.done(m)
				out.say("failed %s %s", m.label, why)
			}
		}
	}
}

func (out *outbox) done(m *message) {
	m.isDone = true
	same := func(other *message) bool { return other == m }
	out.waiting[m.stream] = slices.DeleteFunc(out.waiting[m.stream], same)
}

// answered takes a RECEIPT whose signature was verified. It returns the messages that it names.
func (out *outbox) answered(r *receipt) (named []*message) {
	for _, one := range r.hashes {
		messages := out.roots[one]
		if r.kind != acceptedBatches {
			messages = nil
			if m, isKnown := out.leaves[one]; isKnown {
				messages = []*message{m}
			}
		}
		for _, m := range messages {
			out.answer(m, r)
		}
		named = append(named, messages...)
	}
	return named
}

func (out *outbox) answer(m *message, r *receipt) {
	if m.isClosed { // of two answers of the application the first counts
		return
	}
	if r.kind == refused {
		m.answers[r.kind] = r
		m.isClosed = true
		out.done(m)
		out.say("refused %s %d %s", m.label, r.reason(), printable(r.text))
		return
	}
	if !m.isDone {
		m.answers[r.kind] = r
		out.done(m)
		out.say("accepted %s kind=%d committed=%d", m.label, r.kind, r.detail)
	}
	if r.kind == handled {
		m.answers[handled] = r
		m.isClosed = true
		out.say("handled %s", m.label)
	}
}

// proof joins the last answer to a message and its envelope (17).
func (out *outbox) proof(m *message) []byte {
	for _, kind := range []int{refused, handled, accepted, acceptedBatches} {
		r := m.answers[kind]
		if r == nil {
			continue
		}
		for _, b := range slices.Backward(m.batches) {
			if kind != acceptedBatches || slices.Contains(r.hashes, b.root) {
				return makeProof(alone(m.body, b), r)
			}
		}
	}
	return nil
}

// next signs the next batch of a stream, of messages that wait for this link, as far as the
// credit and the limits of the other side allow, and with so many bytes after the signature. It
// returns the rest of the messages.
func (out *outbox) next(todo []*message, room credit, h *hello, limit int) (*batch, []*message, []*message) {
	var taken []*message
	total := 0
	for len(todo) > 0 && len(taken) < min(maxBatch, int(min(room.messages, maxBatch))) {
		m := todo[0]
		if !m.isDone && len(m.envelope.payload) > int(h.maxPayload) {
			out.done(m)
			out.say("failed %s too large", m.label)
		}
		size := len(m.body)
		isDouble := len(taken) > 0 && total+size > int(h.maxBatch)
		isOver := isDouble || uint64(total+size) > room.bytes || total+size+4*len(taken)+4 > limit
		if !m.isDone && isOver {
			break
		}
		todo = todo[1:]
		if !m.isDone {
			taken, total = append(taken, m), total+size
		}
	}
	if len(taken) == 0 {
		return nil, nil, todo
	}
	var bodies [][]byte
	for _, m := range taken {
		bodies = append(bodies, m.body)
	}
	b := signBatch(out.identity, taken[0].stream, bodies)
	for _, m := range taken {
		m.written, m.batches = true, append(m.batches, b)
	}
	out.roots[b.root] = taken
	return b, taken, todo
}
