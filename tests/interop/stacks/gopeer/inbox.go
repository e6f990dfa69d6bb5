package main

import (
	"bytes"
	"fmt"
	"time"
)

// answer is what a RECEIPT will say about one hash (10). Its credit is granted again after it
// was written (11).
type answer struct {
	kind   uint8
	reason uint8
	text   string
	hash   hash
	stream uint8
	frees  credit
}

// inbox is what a receiver keeps about a sender, over all links (9, 10). It has no store.
type inbox struct {
	us, them []byte
	epochs   [2]uint64 // the latest known ones, durable and volatile
	marks    [streamCount]uint64
	accepted [streamCount]*memory[struct{}]
	refused  [streamCount]*memory[answer] // on arrival
	later    [2]*memory[answer]           // of the application: handled, or refused afterwards
}

func newInbox(us, them []byte) *inbox {
	in := &inbox{us: us, them: them}
	in.forget(0)
	in.forget(1)
	return in
}

// kindOf is 0 for a durable stream and 1 for a volatile one.
func kindOf(stream uint8) int { return int(stream / 4) }

// forget begins a new epoch of a kind.
func (in *inbox) forget(kind int) {
	for stream := 4 * kind; stream < 4*kind+4; stream++ {
		in.marks[stream] = 0
		in.accepted[stream] = newMemory[struct{}](windowMessages)
		in.refused[stream] = newMemory[answer](windowMessages)
	}
	in.later[kind] = newMemory[answer](4 * windowMessages)
}

// learn takes the epochs of a HELLO. It returns a fault if one is stale (9).
func (in *inbox) learn(h *hello) error {
	for kind, epoch := range h.epochs {
		if epoch < in.epochs[kind] {
			return &fault{closeStaleEpoch, "an epoch older than the latest known one"}
		}
	}
	for kind, epoch := range h.epochs {
		if epoch > in.epochs[kind] {
			in.forget(kind)
			in.epochs[kind] = epoch
		}
	}
	return nil
}

// take checks the envelopes of a good batch in order (12, steps 7 to 12). It returns the answers,
// and the envelopes for the application.
func (in *inbox) take(b *batch) (answers []answer, fresh []*envelope) {
	areAccepted := true
	var again []answer // of the application, behind the receipts
	for i, body := range b.bodies {
		e, err := decodeEnvelope(body)
		a := in.check(e, err, b.leaves[i], b.stream)
		a.stream, a.frees = b.stream, credit{1, uint64(len(body))}
		isNew := a.kind == accepted && in.accept(e, a, b.leaves[i])
		if isNew {
			fresh = append(fresh, e)
		} else if last, isKnown := in.later[kindOf(b.stream)].get(b.leaves[i]); isKnown {
			again = append(again, last)
		}
		areAccepted = areAccepted && a.kind == accepted
		answers = append(answers, a)
	}
	if areAccepted && !b.isCopies { // a root of copies is never named (8.4)
		total := credit{uint64(len(b.bodies)), uint64(b.total())}
		whole := answer{kind: acceptedBatches, hash: b.root, stream: b.stream, frees: total}
		answers = []answer{whole}
	}
	return append(answers, again...), fresh
}

// check says whether an envelope is accepted or refused. It moves the mark.
func (in *inbox) check(e *envelope, malformed error, leaf hash, stream uint8) answer {
	refuse := func(reason uint8, text string) answer {
		return answer{kind: refused, reason: reason, text: text, hash: leaf}
	}
	switch {
	case len(e.payload) > maxPayload:
		return refuse(reasonTooLarge, fmt.Sprintf("at most %d bytes", maxPayload))
	case !bytes.Equal(e.recipient, in.us):
		return refuse(reasonNotForUs, "")
	case malformed != nil:
		return refuse(reasonMalformed, malformed.Error())
	case !bytes.Equal(e.sender, in.them) || e.epoch != in.epochs[kindOf(stream)] || e.sequence == 0:
		return refuse(reasonMalformed, "another sender or epoch, or no sequence")
	}
	if e.sequence <= in.marks[stream] {
		if in.accepted[stream].has(leaf) {
			return answer{kind: accepted, hash: leaf}
		}
		if before, isKnown := in.refused[stream].get(leaf); isKnown {
			return refuse(before.reason, before.text)
		}
		return refuse(reasonDuplicate, "")
	}
	in.marks[stream] = e.sequence
	made := answer{kind: accepted, hash: leaf}
	if string(e.subject) == "rule" {
		made = refuse(reasonSubjectRule, "the rule of this peer")
	} else if e.expires != 0 && e.expires <= uint64(time.Now().UnixMicro()) {
		made = refuse(reasonExpired, "")
	}
	if made.kind == refused {
		in.refused[stream].put(leaf, made)
	}
	return made
}

// accept remembers a leaf. It reports whether it is new.
func (in *inbox) accept(e *envelope, a answer, leaf hash) bool {
	if in.accepted[a.stream].has(leaf) {
		return false
	}
	in.accepted[a.stream].put(leaf, struct{}{})
	return true
}

// memory keeps the values of the last keys.
type memory[V any] struct {
	limit  int
	order  []hash
	values map[hash]V
}

func newMemory[V any](limit int) *memory[V] {
	return &memory[V]{limit: limit, values: map[hash]V{}}
}

func (m *memory[V]) get(key hash) (V, bool) { value, is := m.values[key]; return value, is }
func (m *memory[V]) has(key hash) bool      { _, is := m.values[key]; return is }

func (m *memory[V]) put(key hash, value V) {
	if !m.has(key) {
		m.order = append(m.order, key)
	}
	m.values[key] = value
	for len(m.order) > m.limit {
		delete(m.values, m.order[0])
		m.order = m.order[1:]
	}
}

// all are the values, the oldest first.
func (m *memory[V]) all() (values []V) {
	for _, key := range m.order {
		values = append(values, m.values[key])
	}
	return values
}
