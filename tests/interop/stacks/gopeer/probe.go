package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// caller is a link on which a probe says one thing and looks at what the node does. Each has a
// key of its own, so that no probe changes what another one sees.
type caller struct {
	conn     *tls.Conn
	identity ed25519.PrivateKey
	address  string
	node     []byte
	theirs   *hello
	epoch    uint64
}

func call(address string, node []byte, change func(h *hello)) (*caller, error) {
	_, identity, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return callAs(identity, address, node, change)
}

func callAs(identity ed25519.PrivateKey, address string, node []byte, change func(h *hello)) (*caller, error) {
	certificate, err := makeCertificate(identity)
	if err != nil {
		return nil, err
	}
	plain, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	plain.SetDeadline(time.Now().Add(5 * time.Second))
	c := &caller{identity: identity, address: address, node: node, epoch: 1000}
	c.conn = tls.Client(plain, tlsConfig(certificate, func(did []byte) error {
		if !bytes.Equal(did, node) {
			return errors.New("another DID answered")
		}
		return nil
	}))
	h := &hello{
		minVersion: 2, maxVersion: 2, maxPayload: maxPayload, maxBatch: maxBatchBytes,
		epochs: [2]uint64{c.epoch, c.epoch},
	}
	change(h)
	if err := c.say(typeHello, h.encode()); err != nil {
		return nil, err
	}
	return c, c.hear()
}

func (c *caller) say(kind byte, body []byte) error {
	_, err := c.conn.Write(frame(kind, body))
	return err
}

// again makes another link with the same key.
func (c *caller) again(change func(h *hello)) *caller {
	made, err := callAs(c.identity, c.address, c.node, change)
	if err != nil {
		panic(err)
	}
	return made
}

func asBefore(*hello) {}

// next makes another link, and waits for credit, which the link before may still have (11).
func (c *caller) next() *caller {
	made := c.again(asBefore)
	for made.theirs.credit[5].messages == 0 || made.theirs.credit[5].bytes < 4096 {
		kind, body, err := made.hearFrame()
		if err != nil || kind == typeClose {
			break
		}
		if kind == typeCredit {
			made.theirs.credit, _ = decodeCredit(body)
		}
	}
	return made
}

// hear reads the HELLO of the node.
func (c *caller) hear() error {
	kind, body, err := c.hearFrame()
	if err != nil || kind != typeHello {
		return fmt.Errorf("a frame of type %d, %v", kind, err)
	}
	c.theirs, err = decodeHello(body)
	return err
}

// hearFrame reads a frame of the node.
func (c *caller) hearFrame() (byte, []byte, error) {
	header := make([]byte, 4)
	if _, err := io.ReadFull(c.conn, header); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(header))
	_, err := io.ReadFull(c.conn, body)
	return body[0], body[1:], err
}

// outcome waits for as many answers, or for a PONG or the end.
func (c *caller) outcome(count int) string {
	var seen []string
	for len(seen) < count {
		kind, body, err := c.hearFrame()
		if err != nil {
			seen = append(seen, "ended")
			break
		}
		switch kind {
		case typeReceipt:
			r, err := decodeReceipt(body)
			if err != nil || !r.isSigned(c.node, didOf(c.identity)) {
				return "a receipt that is not right"
			}
			if r.kind == refused {
				seen = append(seen, fmt.Sprintf("refused %d", r.detail))
			} else if r.kind != handled {
				seen = append(seen, fmt.Sprintf("accepted %d", r.kind))
			}
		case typePong:
			return strings.Join(append(seen, "pong"), ", ")
		case typeClose:
			code, _, _ := decodeClose(body)
			return strings.Join(append(seen, fmt.Sprintf("closed %d", code)), ", ")
		}
	}
	return strings.Join(seen, ", ")
}

// envelope is a volatile one of normal priority. A probe changes it.
func (c *caller) envelope(sequence uint64) *envelope {
	e := &envelope{
		sequence: sequence, sender: didOf(c.identity), recipient: c.node, priority: 1,
		timestamp: uint64(time.Now().UnixMicro()), epoch: c.epoch, payload: []byte("probe"),
	}
	rand.Read(e.id[:16])
	return e
}

func (c *caller) sign(bodies ...[]byte) *batch { return signBatch(c.identity, 5, bodies) }

func (c *caller) sayBatch(b *batch) {
	c.sayPart(part{flags: partWhole, stream: b.stream, count: len(b.bodies), total: b.total(), data: b.encode()})
}

func (c *caller) sayPart(p part) { c.say(typeEnvelopes, p.encode()) }

// ask sends one envelope after a change, and then a PING, whose answer shows that the link lives.
func (c *caller) ask(change func(e *envelope)) string {
	e := c.envelope(1)
	change(e)
	c.sayBatch(c.sign(e.encode()))
	return c.outcome(1)
}

// raw sends one envelope after a change of its bytes.
func (c *caller) raw(change func(body []byte)) string {
	body := c.envelope(1).encode()
	change(body)
	c.sayBatch(c.sign(body))
	return c.outcome(1)
}

// frame sends one frame and a PING.
func (c *caller) frame(kind byte, body []byte) string {
	c.say(kind, body)
	c.say(typePing, encodePing(1, now()))
	return c.outcome(1)
}

// split sends a batch in parts with so many bytes of the batch in each but the last.
func (c *caller) split(b *batch, sizes ...int) string {
	rest := b.encode()
	for i, size := range append(sizes, -1) {
		p := part{flags: partMiddle, stream: b.stream, count: len(b.bodies), total: b.total()}
		if i == 0 {
			p.flags = partFirst
		}
		if size < 0 {
			p.flags, size = partLast, len(rest)
		}
		p.data, rest = rest[:size], rest[size:]
		c.sayPart(p)
	}
	return c.outcome(1)
}

// sayInParts sends a batch of any size.
func (c *caller) sayInParts(b *batch) {
	o := &link{}
	o.underWay[b.stream] = &outgoing{batch: b}
	for o.underWay[b.stream] != nil {
		c.conn.Write(o.partOf(int(b.stream)))
	}
}

func (c *caller) large(sequence uint64, size int) []byte {
	e := c.envelope(sequence)
	e.payload = filled(size)
	return e.encode()
}

// probe is something that a peer says, and what the text says that the node does.
type probe struct {
	name, want string
	act        func(c *caller) string
}

var probes = []probe{
	{"a message", "accepted 1", func(c *caller) string { return c.ask(func(*envelope) {}) }},
	{"a deadline that has passed", "refused 1", func(c *caller) string {
		return c.ask(func(e *envelope) { e.expires = 1 })
	}},
	{"another recipient", "refused 2", func(c *caller) string {
		return c.ask(func(e *envelope) { e.recipient = e.sender })
	}},
	{"a payload that is too large", "refused 3", func(c *caller) string {
		c.sayInParts(c.sign(c.large(1, int(c.theirs.maxPayload)+1)))
		return c.outcome(1)
	}},
	{"another sender", "refused 7", func(c *caller) string {
		return c.ask(func(e *envelope) { e.sender = c.node })
	}},
	{"another epoch", "refused 7", func(c *caller) string {
		return c.ask(func(e *envelope) { e.epoch++ })
	}},
	{"the sequence 0", "refused 7", func(c *caller) string {
		return c.ask(func(e *envelope) { e.sequence = 0 })
	}},
	{"the payload type 5", "refused 7", func(c *caller) string {
		return c.ask(func(e *envelope) { e.payloadType = 5 })
	}},
	{"another magic", "refused 7", func(c *caller) string {
		return c.raw(func(body []byte) { body[0]++ })
	}},
	{"the version 8", "refused 7", func(c *caller) string {
		return c.raw(func(body []byte) { body[4] = 8 })
	}},
	{"a control message", "refused 7", func(c *caller) string {
		return c.ask(func(e *envelope) { e.kind, e.control = 4, 3 })
	}},
	{"a message with a control type", "refused 7", func(c *caller) string {
		return c.ask(func(e *envelope) { e.control = 1 })
	}},
	{"a reply that is too short", "refused 7", func(c *caller) string {
		return c.ask(func(e *envelope) { e.kind = kindReply })
	}},
	{"a subject that is longer than the body", "refused 7", func(c *caller) string {
		return c.raw(func(body []byte) { body[125] = 200 })
	}},
	{"a subject with a line end", "refused 7", func(c *caller) string {
		return c.ask(func(e *envelope) { e.subject = []byte("a\n") })
	}},
	{"a subject that is not NFC", "accepted 1", func(c *caller) string {
		return c.ask(func(e *envelope) { e.subject = []byte("o\u0308") })
	}},
	{"a subject with a private character", "accepted 1", func(c *caller) string {
		return c.ask(func(e *envelope) { e.subject = []byte("\ue000") })
	}},
	{"a subject with a joiner", "accepted 1", func(c *caller) string {
		return c.ask(func(e *envelope) { e.subject = []byte("a\u200db") })
	}},
	{"further flags", "accepted 1", func(c *caller) string {
		return c.raw(func(body []byte) { body[124] = 0xFE })
	}},
	{"a batch that another key signed", "refused 8, closed 7", func(c *caller) string {
		b := c.sign(c.envelope(1).encode())
		b.signature[0]++
		c.sayBatch(b)
		return c.outcome(2)
	}},
	{"the same message again", "accepted 1, accepted 1", func(c *caller) string {
		b := c.sign(c.envelope(1).encode())
		c.sayBatch(b)
		first := c.outcome(1)
		c.sayBatch(b)
		return first + ", " + c.outcome(1)
	}},
	{"another message with the same number", "accepted 1, refused 9", func(c *caller) string {
		c.sayBatch(c.sign(c.envelope(1).encode()))
		c.sayBatch(c.sign(c.envelope(1).encode()))
		return c.outcome(2)
	}},
	{"a batch with one message that has expired", "accepted 2, refused 1", func(c *caller) string {
		late := c.envelope(2)
		late.expires = 1
		c.sayBatch(c.sign(c.envelope(1).encode(), late.encode(), c.envelope(3).encode()))
		got := strings.Split(c.outcome(2), ", ")
		slices.Sort(got)
		return strings.Join(got, ", ")
	}},
	{"a first part of 2048 bytes", "accepted 1", func(c *caller) string {
		return c.split(c.sign(c.large(1, 9000)), 2040, 2046)
	}},
	{"a first part of 2047 bytes", "closed 1", func(c *caller) string {
		return c.split(c.sign(c.large(1, 9000)), 2039)
	}},
	{"a middle part of 2047 bytes", "closed 1", func(c *caller) string {
		return c.split(c.sign(c.large(1, 9000)), 2040, 2045)
	}},
	{"a last part without bytes", "closed 1", func(c *caller) string {
		b := c.sign(c.large(1, 9000))
		return c.split(b, len(b.encode()))
	}},
	{"a batch of two that is too large", "closed 1", func(c *caller) string {
		return c.split(c.sign(c.large(1, 40000), c.large(2, 40000)), 15000)
	}},
	{"a batch of one that is larger", "accepted 1", func(c *caller) string {
		c.sayInParts(c.sign(c.large(1, 80000)))
		return c.outcome(1)
	}},
	{"a second first part", "closed 1", func(c *caller) string {
		b := c.sign(c.large(1, 9000))
		p := part{flags: partFirst, stream: 5, count: 1, total: b.total(), data: b.encode()[:3000]}
		c.sayPart(p)
		c.sayPart(p)
		return c.outcome(1)
	}},
	{"an abort, and the message again", "accepted 1", func(c *caller) string {
		b := c.sign(c.large(1, 9000))
		c.sayPart(part{flags: partFirst, stream: 5, count: 1, total: b.total(), data: b.encode()[:3000]})
		c.sayPart(part{flags: partAbort, stream: 5})
		c.sayBatch(b)
		return c.outcome(1)
	}},
	{"an abort without a batch", "closed 1", func(c *caller) string {
		c.sayPart(part{flags: partAbort, stream: 5})
		return c.outcome(1)
	}},
	{"a volatile message in a durable stream", "closed 1", func(c *caller) string {
		b := c.sign(c.envelope(1).encode())
		b.stream = 1
		c.sayBatch(b)
		return c.outcome(1)
	}},
	{"a part of the stream 8", "closed 1", func(c *caller) string {
		return c.frame(typeEnvelopes, make([]byte, 3000)[:2+2998])
	}},
	{"more than the credit", "closed 1", func(c *caller) string {
		for sequence := uint64(1); sequence < c.theirs.credit[5].messages+2; sequence += 256 {
			var bodies [][]byte
			for i := range uint64(256) {
				bodies = append(bodies, c.envelope(sequence+i).encode())
			}
			c.sayInParts(c.sign(bodies...))
		}
		c.say(typePing, encodePing(1, now()))
		got := strings.Split(c.outcome(1000), ", ")
		return got[len(got)-1]
	}},
	{"one copy of three", "accepted 2", func(c *caller) string { return c.copy(1, 3, 1) }},
	{"a copy with an index that does not fit", "closed 1", func(c *caller) string {
		return c.copy(3, 3, 1)
	}},
	{"a copy with a path that does not fit", "refused 8, closed 7", func(c *caller) string {
		return c.copy(2, 3, 2) // the path is that of index 1
	}},
	{"a part in the middle with copies", "closed 1", func(c *caller) string {
		c.say(typeEnvelopes, append([]byte{partCopies, 5}, make([]byte, 3000)...))
		return c.outcome(1)
	}},
	{"a joint signature", "accepted 1", func(c *caller) string { return c.joint(0) }},
	{"a joint signature that does not fit", "refused 8, closed 7", func(c *caller) string {
		return c.joint(1)
	}},
	{"a second link", "closed 2", func(c *caller) string {
		c.again(asBefore)
		return c.outcome(1)
	}},
	{"a second link with later epochs", "closed 2", func(c *caller) string {
		c.again(func(h *hello) { h.epochs = [2]uint64{1001, 1001} })
		return c.outcome(1)
	}},
	{"a second link with an older epoch", "closed 3", func(c *caller) string {
		return c.again(func(h *hello) { h.epochs[0] = 999 }).outcome(1)
	}},
	{"what a second HELLO knows", "1000, 1000, 0, 7", func(c *caller) string {
		c.ask(func(e *envelope) { e.sequence = 7 })
		h := c.again(asBefore).theirs
		return fmt.Sprintf("%d, %d, %d, %d", h.known[0], h.known[1], h.marks[1], h.marks[5])
	}},
	{"what a HELLO knows after a new epoch", "1000, 1001, 0, 0", func(c *caller) string {
		c.ask(func(*envelope) {})
		c.again(func(h *hello) { h.epochs[1] = 1001 })
		h := c.again(func(h *hello) { h.epochs[1] = 1001 }).theirs
		return fmt.Sprintf("%d, %d, %d, %d", h.known[0], h.known[1], h.marks[1], h.marks[5])
	}},
	{"the same message over the next link", "accepted 1, accepted 1", func(c *caller) string {
		b := c.sign(c.envelope(1).encode())
		c.sayBatch(b)
		first, next := c.outcome(1), c.next()
		next.sayBatch(b)
		return first + ", " + next.outcome(1)
	}},
	{"the same message in another batch", "accepted 1, accepted 1", func(c *caller) string {
		bodies := [][]byte{c.envelope(1).encode(), c.envelope(2).encode()}
		c.sayBatch(c.sign(bodies[0]))
		first, next := c.outcome(1), c.next()
		next.sayBatch(next.sign(bodies...))
		return first + ", " + next.outcome(1)
	}},
	{"an expired message over the next link", "refused 1, refused 1", func(c *caller) string {
		late := c.envelope(1)
		late.expires = 1
		b := c.sign(late.encode())
		c.sayBatch(b)
		first, next := c.outcome(1), c.next()
		next.sayBatch(b)
		return first + ", " + next.outcome(1)
	}},
	{"a message that was malformed, mended", "refused 7, accepted 1", func(c *caller) string {
		first := c.ask(func(e *envelope) { e.payloadType = 9 })
		return first + ", " + c.ask(func(*envelope) {}) // the mark stayed
	}},
	{"the number of an expired message", "refused 1, refused 9", func(c *caller) string {
		first := c.ask(func(e *envelope) { e.expires = 1 })
		return first + ", " + c.ask(func(*envelope) {})
	}},
	{"an unknown frame that is skipped", "pong", func(c *caller) string { return c.frame(0x80, nil) }},
	{"an unknown frame", "closed 1", func(c *caller) string { return c.frame(0x09, nil) }},
	{"a second HELLO", "closed 1", func(c *caller) string {
		return c.frame(typeHello, c.theirs.encode())
	}},
	{"a READ beyond what was sent", "closed 1", func(c *caller) string {
		return c.frame(typeRead, encodeRead(1<<40, 0, 0))
	}},
	{"a READ without a new byte", "pong", func(c *caller) string {
		return c.frame(typeRead, encodeRead(0, 0, 0))
	}},
	{"a smaller credit", "closed 1", func(c *caller) string {
		var larger [streamCount]credit
		larger[3] = credit{9, 9}
		c.say(typeCredit, encodeCredit(larger))
		return c.frame(typeCredit, encodeCredit([streamCount]credit{}))
	}},
	{"the same credit", "pong", func(c *caller) string {
		return c.frame(typeCredit, encodeCredit([streamCount]credit{}))
	}},
	{"a PING that is too long", "closed 1", func(c *caller) string {
		return c.frame(typePing, make([]byte, 25))
	}},
	{"a PONG that nobody asked for", "pong", func(c *caller) string {
		return c.frame(typePong, make([]byte, 56))
	}},
	{"a receipt for an unknown message", "pong", func(c *caller) string {
		return c.receipt(accepted, 0)
	}},
	{"a refusal with the reason 0", "pong", func(c *caller) string { return c.receipt(refused, 0) }},
	{"a refusal with the reason 255", "pong", func(c *caller) string { return c.receipt(refused, 255) }},
	{"a receipt with committed 2", "closed 1", func(c *caller) string { return c.receipt(accepted, 2) }},
	{"a length of 0", "closed 1", func(c *caller) string {
		c.conn.Write(make([]byte, 4))
		return c.outcome(1)
	}},
	{"a length of 16381", "closed 1", func(c *caller) string {
		c.conn.Write(binary.BigEndian.AppendUint32(nil, maxLength+1))
		return c.outcome(1)
	}},
}

func (c *caller) receipt(kind, detail uint8) string {
	r := &receipt{kind: kind, detail: detail, hashes: []hash{{}}}
	text := receiptText(didOf(c.identity), c.node, r.statement())
	r.signature = ed25519.Sign(c.identity, text)
	return c.frame(typeReceipt, r.encode())
}

// copy sends the envelope 1 of a tree of so many, as an item that says another index.
func (c *caller) copy(index, leaves byte, count int) string {
	var bodies [][]byte
	for i := range uint64(leaves) {
		bodies = append(bodies, c.envelope(i+1).encode())
	}
	b := c.sign(bodies...)
	item := []byte{index, leaves - 1}
	for _, one := range pathOf(b.leaves, 1) {
		item = append(item, one[:]...)
	}
	sent := &batch{bodies: [][]byte{append(item, bodies[1]...)}, signature: b.signature}
	c.sayPart(part{flags: partWhole, form: partCopies, stream: 5, count: 1,
		total: sent.total(), data: sent.encode()})
	return c.outcome(count)
}

// joint sends a receipt and a batch under one signature, changed by some bits (8.3).
func (c *caller) joint(bits byte) string {
	b := c.sign(c.envelope(1).encode())
	r := &receipt{kind: accepted, hashes: []hash{{}}}
	b.join(c.identity, c.node, r)
	b.signature[0] ^= bits
	c.sayPart(part{flags: partWhole, form: partJoint, stream: 5, count: 1,
		total: b.total(), receipt: r, data: b.encode()})
	return c.outcome(1 + int(bits))
}

// hellos are changes of our HELLO, and what becomes of the link.
var hellos = []struct {
	name, want string
	change     func(h *hello)
}{
	{"no version in common", "closed 6", func(h *hello) { h.minVersion, h.maxVersion = 3, 4 }},
	{"a later version too", "pong", func(h *hello) { h.maxVersion = 4 }},
	{"no version at all", "closed 1", func(h *hello) { h.minVersion = 3 }},
	{"unknown features", "pong", func(h *hello) { h.features = 1 << 63 }},
	{"the epoch 0", "closed 1", func(h *hello) { h.epochs[1] = 0 }},
	{"an epoch that is too large", "closed 1", func(h *hello) { h.epochs[0] = 1 << 63 }},
	{"batches that are too small", "closed 1", func(h *hello) { h.maxBatch = 1023 }},
	{"a known epoch that is later", "closed 3", func(h *hello) { h.known[0] = 1 << 62 }},
	{"the last known epoch", "closed 1", func(h *hello) { h.known[0] = 1<<63 - 1 }},
}

// probeNode makes each probe on a link of its own.
func probeNode(address, claim string) error {
	node, err := hex.DecodeString(claim)
	if err != nil {
		return err
	}
	var wrong []string
	compare := func(name, want, got string) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %s, not %s", name, got, want))
		}
	}
	for _, one := range probes {
		c, err := call(address, node, asBefore)
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		compare(one.name, one.want, one.act(c))
		c.conn.Close()
	}
	for _, one := range hellos {
		c, err := call(address, node, one.change)
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		c.say(typePing, encodePing(1, now()))
		compare("HELLO with "+one.name, one.want, c.outcome(1))
		c.conn.Close()
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "\n"))
	}
	fmt.Printf("probed %d\n", len(probes)+len(hellos))
	return nil
}
