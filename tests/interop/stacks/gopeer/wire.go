package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
)

// Types of frames (4).
const (
	typeHello     = 0x01
	typeEnvelopes = 0x02
	typeReceipt   = 0x03
	typeRead      = 0x04
	typeCredit    = 0x05
	typePing      = 0x06
	typePong      = 0x07
	typeClose     = 0x08
)

// Codes of CLOSE (14) that this program sends.
const (
	closeDone       = 0
	closeBroken     = 1
	closeOtherLink  = 2
	closeStaleEpoch = 3
	closeNoVersion  = 6
	closeSignature  = 7
)

// Sizes of 4, 5 and 16.
const (
	maxLength   = 16380 // of type and body
	minPart     = 2048  // the body of a frame with a part that is not the last
	maxHashes   = 500
	maxText     = 256
	maxBatch    = 256 // envelopes
	helloSize   = 244
	streamCount = 8
)

var le = binary.LittleEndian

// fault is a broken rule: the link closes with its code.
type fault struct {
	code uint16
	text string
}

func (f *fault) Error() string { return fmt.Sprintf("%s (code %d)", f.text, f.code) }

func broken(format string, values ...any) error {
	return &fault{closeBroken, fmt.Sprintf(format, values...)}
}

// scanner reads fields from the front of bytes. After a field that is not there, all are zero.
type scanner struct {
	rest  []byte
	isBad bool
}

func (s *scanner) take(size int) []byte {
	if size < 0 || size > len(s.rest) {
		s.isBad, s.rest = true, nil
		return make([]byte, max(0, min(size, 64)))
	}
	taken := s.rest[:size]
	s.rest = s.rest[size:]
	return taken
}

func (s *scanner) u8() uint8   { return s.take(1)[0] }
func (s *scanner) u16() uint16 { return le.Uint16(s.take(2)) }
func (s *scanner) u32() uint32 { return le.Uint32(s.take(4)) }
func (s *scanner) u64() uint64 { return le.Uint64(s.take(8)) }
func (s *scanner) all() []byte { return s.take(len(s.rest)) }

// end reports whether all fields were there, and nothing behind them.
func (s *scanner) end() bool { return !s.isBad && len(s.rest) == 0 }

// frame puts the length and the type before a body (4).
func frame(kind byte, body []byte) []byte {
	made := binary.BigEndian.AppendUint32(nil, uint32(len(body)+1))
	return append(append(made, kind), body...)
}

// credit is what a side may send in a stream since the link began (11).
type credit struct{ messages, bytes uint64 }

// hello is the first frame of each side (5.1). Index 0 of a pair is durable, 1 is volatile.
type hello struct {
	minVersion, maxVersion uint16
	features               uint64
	maxPayload, maxBatch   uint32
	epochs, known          [2]uint64
	marks                  [streamCount]uint64
	credit                 [streamCount]credit
}

func (h *hello) encode() []byte {
	body := le.AppendUint16(nil, h.minVersion)
	body = le.AppendUint16(body, h.maxVersion)
	body = le.AppendUint64(body, h.features)
	body = le.AppendUint32(body, h.maxPayload)
	body = le.AppendUint32(body, h.maxBatch)
	for _, number := range append(append(h.epochs[:], h.known[:]...), h.marks[:]...) {
		body = le.AppendUint64(body, number)
	}
	return append(body, encodeCredit(h.credit)...)
}

func decodeHello(body []byte) (*hello, error) {
	if len(body) < helloSize {
		return nil, broken("a HELLO of %d bytes", len(body))
	}
	s := scanner{rest: body[:helloSize]} // a later version may have more
	h := &hello{minVersion: s.u16(), maxVersion: s.u16(), features: s.u64()}
	h.maxPayload, h.maxBatch = s.u32(), s.u32()
	for _, numbers := range [][]uint64{h.epochs[:], h.known[:], h.marks[:]} {
		for i := range numbers {
			numbers[i] = s.u64()
		}
	}
	h.credit = scanCredit(&s)
	for i := range 2 {
		if h.epochs[i] == 0 || h.epochs[i] > math.MaxInt64 || h.known[i] > math.MaxInt64 {
			return nil, broken("a HELLO with an epoch out of its range")
		}
	}
	if h.minVersion > h.maxVersion || h.maxBatch < 1024 {
		return nil, broken("a HELLO with a field out of its range")
	}
	return h, nil
}

func encodeCredit(credits [streamCount]credit) []byte {
	var body []byte
	for _, one := range credits {
		body = le.AppendUint64(body, one.messages)
		body = le.AppendUint64(body, one.bytes)
	}
	return body
}

func scanCredit(s *scanner) (credits [streamCount]credit) {
	for i := range credits {
		credits[i] = credit{s.u64(), s.u64()}
	}
	return credits
}

func decodeCredit(body []byte) ([streamCount]credit, error) {
	s := scanner{rest: body}
	credits := scanCredit(&s)
	if !s.end() {
		return credits, broken("a CREDIT of %d bytes", len(body))
	}
	return credits, nil
}

// Flags of a part (5.2).
const (
	partMiddle = 0
	partFirst  = 1
	partLast   = 2
	partWhole  = 3
	partAbort  = 4

	partForms  = 8 | 16 // bits of a first part
	partCopies = 8      // with 1 or 3
	partJoint  = 16     // with 3 alone
)

// part is the body of an ENVELOPES frame (5.2).
type part struct {
	flags, stream uint8
	form          uint8    // in a first part: 0, partCopies or partJoint
	count         int      // in a first part
	total         int      // in a first part
	receipt       *receipt // in a joint part, without its signature
	data          []byte
}

func (p part) isFirst() bool { return p.flags == partFirst || p.flags == partWhole }
func (p part) isLast() bool  { return p.flags == partLast || p.flags == partWhole }

func (p part) encode() []byte {
	body := []byte{p.flags | p.form, p.stream}
	if p.isFirst() {
		body = le.AppendUint16(body, uint16(p.count))
		body = le.AppendUint32(body, uint32(p.total))
	}
	if p.form == partJoint {
		statement := p.receipt.statement()
		body = append(le.AppendUint16(body, uint16(len(statement))), statement...)
	}
	return append(body, p.data...)
}

func decodePart(body []byte) (part, error) {
	s := scanner{rest: body}
	flags := s.u8()
	p := part{flags: flags &^ partForms, form: flags & partForms, stream: s.u8()}
	isForm := p.form == 0 || (p.form == partCopies && p.isFirst()) ||
		(p.form == partJoint && p.flags == partWhole)
	if p.flags > partAbort || !isForm {
		return p, broken("an ENVELOPES with the flags %d", flags)
	}
	if p.isFirst() {
		p.count, p.total = int(s.u16()), int(s.u32())
		if p.count < 1 || p.count > maxBatch {
			return p, broken("a batch of %d envelopes", p.count)
		}
	}
	if p.form == partJoint {
		statement := scanner{rest: s.take(int(s.u16()))}
		r, err := scanStatement(&statement)
		if err != nil || !statement.end() {
			return p, broken("a joint statement that is not one: %v", err)
		}
		p.receipt = r
	}
	p.data = s.all()
	switch {
	case !s.end() || p.stream >= streamCount:
		return p, broken("an ENVELOPES without its fields")
	case p.flags == partAbort && len(p.data) > 0:
		return p, broken("an abort with further bytes")
	case !p.isLast() && p.flags != partAbort && len(body) < minPart:
		return p, broken("a part of %d bytes", len(body))
	}
	return p, nil
}

// Kinds of a RECEIPT (5.3).
const (
	acceptedBatches = 1
	accepted        = 2
	handled         = 3
	refused         = 4
)

// Reasons of a refusal (5.4) that this program gives.
const (
	reasonExpired      = 1
	reasonNotForUs     = 2
	reasonTooLarge     = 3
	reasonApplication  = 6
	reasonMalformed    = 7
	reasonBadSignature = 8
	reasonDuplicate    = 9
	reasonSubjectRule  = 15
)

type hash = [32]byte

// receipt is the body of a RECEIPT frame (5.3).
type receipt struct {
	kind      uint8
	at        uint64
	detail    uint8 // committed, or the reason of a refusal
	text      []byte
	hashes    []hash
	signature []byte
	joint     *hash // the root that the signature also covers (8.3)
}

func (r *receipt) statement() []byte {
	made := le.AppendUint64([]byte{r.kind}, r.at)
	made = append(made, r.detail)
	if r.kind == refused {
		made = append(le.AppendUint16(made, uint16(len(r.text))), r.text...)
	}
	made = le.AppendUint16(made, uint16(len(r.hashes)))
	for _, one := range r.hashes {
		made = append(made, one[:]...)
	}
	return made
}

func (r *receipt) encode() []byte { return append(r.statement(), r.signature...) }

// isSigned reports whether the signature is that of the recipient, in either form (8.3).
func (r *receipt) isSigned(recipient, sender []byte) bool {
	text := receiptText(recipient, sender, r.statement())
	if r.joint != nil {
		text = jointText(*r.joint, sha256.Sum256(text))
	}
	return verify(recipient, text, r.signature)
}

// reason is that of a refusal. One that we do not know is read as 6 (5.4).
func (r *receipt) reason() uint8 {
	if r.detail == 0 || r.detail > reasonSubjectRule {
		return reasonApplication
	}
	return r.detail
}

func decodeReceipt(body []byte) (*receipt, error) {
	s := scanner{rest: body}
	r, err := scanStatement(&s)
	if err != nil {
		return nil, err
	}
	r.signature = s.take(64)
	if !s.end() {
		return nil, broken("a RECEIPT of %d bytes", len(body))
	}
	return r, nil
}

func scanStatement(s *scanner) (*receipt, error) {
	r := &receipt{kind: s.u8(), at: s.u64(), detail: s.u8()}
	switch {
	case s.isBad || r.kind < acceptedBatches || r.kind > refused:
		return nil, broken("a RECEIPT of kind %d", r.kind)
	case r.kind != refused && r.detail > 1:
		return nil, broken("a RECEIPT with committed %d", r.detail)
	case r.kind == refused:
		size := s.u16()
		if size > maxText {
			return nil, broken("a refusal with a text of %d bytes", size)
		}
		r.text = s.take(int(size))
	}
	count := s.u16()
	if count < 1 || count > maxHashes {
		return nil, broken("a RECEIPT of %d hashes", count)
	}
	for range count {
		r.hashes = append(r.hashes, hash(s.take(32)))
	}
	if s.isBad {
		return nil, broken("a RECEIPT that is cut")
	}
	return r, nil
}

// stamp is one instant by two clocks (5.5), in µs.
type stamp struct{ wall, monotonic uint64 }

func (t stamp) encode() []byte {
	return le.AppendUint64(le.AppendUint64(nil, t.wall), t.monotonic)
}

func scanStamp(s *scanner) stamp { return stamp{s.u64(), s.u64()} }

func encodePing(number uint64, sent stamp) []byte {
	return append(le.AppendUint64(nil, number), sent.encode()...)
}

func encodeClose(code uint16, text string) []byte {
	text = text[:min(len(text), maxText)]
	body := le.AppendUint16(nil, code)
	return append(le.AppendUint16(body, uint16(len(text))), text...)
}

func decodeClose(body []byte) (code uint16, text []byte, err error) {
	s := scanner{rest: body}
	code = s.u16()
	text = s.take(int(s.u16()))
	if !s.end() || len(text) > maxText {
		return 0, nil, broken("a CLOSE of %d bytes", len(body))
	}
	return code, text, nil
}

func encodeRead(bytes uint64, age uint32, readUs uint64) []byte {
	return le.AppendUint64(le.AppendUint32(le.AppendUint64(nil, bytes), age), readUs)
}
