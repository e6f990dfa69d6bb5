package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

const (
	windowMessages = 1024 // granted at once in each stream (11)
	maxPayload     = 2 << 20
	largestBody    = maxPayload + headerSize + 255 + 32
	windowBytes    = 2 * largestBody
	maxBatchBytes  = 1 << 16
	partSize       = 12288 // of a body: small enough that higher priorities do not wait
	readSize       = 32 << 10
	readPause      = 10 * time.Millisecond
)

var began = time.Now()

func now() stamp {
	at := time.Now()
	return stamp{uint64(at.UnixMicro()), uint64(at.Sub(began).Microseconds())}
}

// socket can cut its connection after a number of bytes, as a broken network does.
type socket struct {
	net.Conn
	canRead, canWrite atomic.Int64 // bytes until the cut; without one, very many
	lastRead          atomic.Int64
}

func newSocket(conn net.Conn) *socket {
	s := &socket{Conn: conn}
	s.canRead.Store(math.MaxInt64)
	s.canWrite.Store(math.MaxInt64)
	s.lastRead.Store(int64(time.Since(began)))
	return s
}

func (s *socket) cut() error {
	if tcp, is := s.Conn.(*net.TCPConn); is {
		tcp.SetLinger(0)
	}
	s.Conn.Close()
	return errors.New("the link was cut")
}

func (s *socket) Read(data []byte) (int, error) {
	left := s.canRead.Load()
	if left <= 0 {
		return 0, s.cut()
	}
	count, err := s.Conn.Read(data[:min(int64(len(data)), left)])
	s.canRead.Add(int64(-count))
	s.lastRead.Store(int64(time.Since(began)))
	return count, err
}

func (s *socket) Write(data []byte) (int, error) {
	left := s.canWrite.Load()
	count, err := s.Conn.Write(data[:min(int64(len(data)), left)])
	s.canWrite.Add(int64(-count))
	if err == nil && count < len(data) {
		err = s.cut()
	}
	return count, err
}

// outgoing is a batch of which some parts were written.
type outgoing struct {
	*batch
	data     []byte
	written  int
	messages []*message
}

// link is one connection, after its handshake. The lock of its peer guards all fields.
type link struct {
	peer     *peer
	conn     *tls.Conn
	socket   *socket
	isDialed bool
	ours     hello
	theirs   *hello // nil until it has come
	control  [][]byte
	isDone   bool
	fault    *fault // what our CLOSE will say
	isClosed bool   // our CLOSE is written: nothing that comes is taken
	ended    *fault // what their CLOSE said

	// as sender
	todo      [streamCount][]*message
	underWay  [streamCount]*outgoing
	used      [streamCount]credit
	granted   [streamCount]credit
	shares    [streamCount]uint64 // bytes of each stream, for turns
	sentBytes uint64
	readBytes uint64
	readAt    time.Time // when READ rose
	ends      []batchEnd
	answerAt  time.Time

	// as receiver
	parts        [streamCount]*assembly
	partAt       [streamCount]time.Time
	theirUsed    [streamCount]credit
	theirGranted [streamCount]credit
	freed        [streamCount]credit
	answers      []answer
	gotBytes     uint64
	reported     uint64
	gotAt        time.Time // the last byte of a batch
	unreportedAt time.Time // the first byte that no READ counts

	// health
	startedAt time.Time
	pings     uint64
	ping      []byte
	pingSent  stamp
	isPonged  bool
}

// batchEnd is where a batch ends among the bytes of batches that we sent.
type batchEnd struct {
	offset   uint64
	readAt   time.Time
	messages []*message
}

// begin sends HELLO (6).
func (l *link) begin() {
	p := l.peer
	l.startedAt = time.Now()
	l.theirGranted = l.grant()
	l.ours = hello{
		minVersion: 2, maxVersion: 2, maxPayload: maxPayload, maxBatch: maxBatchBytes,
		epochs: p.out.epochs, known: p.in.epochs, marks: p.in.marks, credit: l.theirGranted,
	}
	l.control = append(l.control, frame(typeHello, l.ours.encode()))
}

// grant is the credit that there is room for, without what other links may still use (11).
func (l *link) grant() [streamCount]credit {
	made := l.theirGranted
	for i := range made {
		room := credit{windowMessages, windowBytes}
		for other := range l.peer.links {
			if other != l && !other.isClosed {
				room.messages -= min(room.messages, other.theirGranted[i].messages-other.theirUsed[i].messages)
				room.bytes -= min(room.bytes, other.theirGranted[i].bytes-other.theirUsed[i].bytes)
			}
		}
		made[i].messages = max(made[i].messages, l.freed[i].messages+room.messages)
		made[i].bytes = max(made[i].bytes, l.freed[i].bytes+room.bytes)
	}
	return made
}

// read takes frames until the link ends.
func (l *link) read() error {
	header := make([]byte, 5)
	for {
		if _, err := io.ReadFull(l.conn, header[:1]); err != nil {
			return err
		}
		l.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.ReadFull(l.conn, header[1:4]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(header)
		if size < 1 || size > maxLength {
			return broken("a frame with the length %d", size)
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(l.conn, body); err != nil {
			return err
		}
		l.conn.SetReadDeadline(time.Time{})
		arrived := now()
		l.peer.mu.Lock()
		err := l.frame(body[0], body[1:], arrived)
		l.peer.changed.Broadcast()
		l.peer.mu.Unlock()
		if err != nil || l.ended != nil {
			return err
		}
	}
}

// frame handles one frame (4, and 12 from step 2).
func (l *link) frame(kind byte, body []byte, arrived stamp) error {
	isBefore := l.theirs == nil
	switch {
	case kind >= 0x80:
		return nil
	case kind == typeClose:
		code, text, err := decodeClose(body)
		if err == nil {
			l.ended = &fault{code, printable(text)}
		}
		return err
	case l.isClosed:
		return nil
	case isBefore != (kind == typeHello):
		return broken("a frame of type %d is not allowed", kind)
	}
	switch kind {
	case typeHello:
		return l.gotHello(body)
	case typeEnvelopes:
		return l.gotPart(body)
	case typeReceipt:
		return l.gotReceipt(body)
	case typeRead:
		return l.gotRead(body)
	case typeCredit:
		credits, err := decodeCredit(body)
		for i := range credits {
			if err == nil && (credits[i].messages < l.granted[i].messages || credits[i].bytes < l.granted[i].bytes) {
				err = broken("a credit that is less than before")
			}
		}
		l.granted = credits
		return err
	case typePing:
		if len(body) != 24 {
			return broken("a PING of %d bytes", len(body))
		}
		pong := append(bytes.Clone(body), arrived.encode()...)
		l.control = append(l.control, frame(typePong, append(pong, now().encode()...)))
		return nil
	case typePong:
		return l.gotPong(body, arrived)
	}
	return broken("a frame of the type %d", kind)
}

func (l *link) gotHello(body []byte) error {
	h, err := decodeHello(body)
	if err != nil {
		return err
	}
	if h.minVersion > 2 || h.maxVersion < 2 {
		return &fault{closeNoVersion, "only version 2 is known"}
	}
	p := l.peer
	if bytes.Equal(p.did, didOf(p.identity)) && h.epochs == p.out.epochs {
		return &fault{closeOtherLink, "a link to itself"}
	}
	if l.ours.epochs != p.out.epochs {
		return &fault{closeStaleEpoch, "a newer epoch has begun since the HELLO of this link"}
	}
	if err := p.in.learn(h); err != nil {
		return err
	}
	if err := p.out.learn(h); err != nil {
		return err
	}
	if other := p.current; other != nil && !other.isDone && !p.prefers(l, h, other) {
		return &fault{closeOtherLink, "another link is kept"}
	} else if other != nil && !other.isDone {
		other.fault = &fault{closeOtherLink, "another link is kept"}
	}
	p.current = l
	l.theirs, l.granted = h, h.credit
	l.todo = p.out.waitingCopy()
	l.answerAt, l.readAt = time.Now(), time.Now()
	for kind := range p.in.later {
		for _, later := range p.in.later[kind].all() {
			if later.kind == refused { // after its receipt
				l.answers = append(l.answers, answer{kind: accepted, hash: later.hash})
			}
			l.answers = append(l.answers, later)
		}
	}
	p.say("hello %d", h.epochs[0])
	l.sendPing()
	return nil
}

// prefers reports whether the second of two links is kept (15).
func (p *peer) prefers(second *link, h *hello, first *link) bool {
	if first.isDialed == second.isDialed || h.epochs != first.theirs.epochs {
		return true
	}
	return second.isDialed == (bytes.Compare(didOf(p.identity), p.did) < 0)
}

// gotPart handles ENVELOPES (5.2, 11, and 12 from step 4).
func (l *link) gotPart(body []byte) error {
	p, err := decodePart(body)
	if err != nil {
		return err
	}
	under := l.parts[p.stream]
	if p.isFirst() {
		if under != nil {
			return broken("a first part while a batch is under way")
		}
		one := maxPayload + 512
		if p.form == partCopies {
			one = maxPayload + 1474
		}
		if p.total > maxBatchBytes && (p.count > 1 || p.total > one) {
			return broken("a batch of %d bytes", p.total)
		}
		used := &l.theirUsed[p.stream]
		used.messages += uint64(p.count)
		used.bytes += uint64(p.total)
		limit := l.theirGranted[p.stream]
		if used.messages > limit.messages || used.bytes > limit.bytes {
			return broken("more than the credit of the stream %d", p.stream)
		}
		under = &assembly{part: p}
		l.parts[p.stream] = under
	}
	if under == nil {
		return broken("a part without a batch")
	}
	if p.flags == partAbort {
		l.free(p.stream, credit{uint64(under.count), uint64(under.total)})
		l.parts[p.stream] = nil
		return nil
	}
	l.partAt[p.stream] = time.Now()
	l.gotAt = time.Now()
	if l.gotBytes == l.reported {
		l.unreportedAt = time.Now()
	}
	l.gotBytes += uint64(len(p.data))
	b, err := under.add(p)
	if err != nil || b == nil {
		return err
	}
	l.parts[p.stream] = nil
	return l.gotBatch(b)
}

func (l *link) gotBatch(b *batch) error {
	p := l.peer
	if !b.isSigned(p.did, didOf(p.identity)) {
		for i, leaf := range b.leaves {
			frees := credit{1, uint64(len(b.bodies[i]))}
			l.answers = append(l.answers, answer{refused, reasonBadSignature, "", leaf, b.stream, frees})
		}
		return &fault{closeSignature, "a batch that is not signed by its sender"}
	}
	if b.receipt != nil { // before the batch (8.3)
		p.say("joint %d", b.receipt.kind)
		l.gotAnswers(b.receipt)
	}
	answers, fresh := p.in.take(b)
	l.answers = append(l.answers, answers...)
	for _, e := range fresh {
		p.deliver(l, e, b.stream)
	}
	return nil
}

func (l *link) gotReceipt(body []byte) error {
	r, err := decodeReceipt(body)
	if err != nil {
		return err
	}
	p := l.peer
	if !r.isSigned(p.did, didOf(p.identity)) {
		return &fault{closeSignature, "a receipt that is not signed by the recipient"}
	}
	l.gotAnswers(r)
	return nil
}

func (l *link) gotAnswers(r *receipt) {
	if len(l.peer.out.answered(r)) > 0 {
		l.answerAt = time.Now()
	}
}

func (l *link) gotRead(body []byte) error {
	s := scanner{rest: body}
	bytes, _, _ := s.u64(), s.u32(), s.u64()
	if !s.end() || bytes < l.readBytes || bytes > l.sentBytes {
		return broken("a READ of %d bytes", bytes)
	}
	if bytes > l.readBytes {
		l.readBytes, l.readAt = bytes, time.Now()
	}
	for i := range l.ends {
		if l.ends[i].readAt.IsZero() && l.ends[i].offset <= bytes {
			l.ends[i].readAt = time.Now()
		}
	}
	return nil
}

// sendPing puts the stamp into the frame when it is made, just before it is written.
func (l *link) sendPing() {
	l.pings++
	l.pingSent, l.isPonged = now(), false
	l.ping = encodePing(l.pings, l.pingSent)
	l.control = append(l.control, frame(typePing, l.ping))
}

// gotPong computes the offset of the other clock (13.1).
func (l *link) gotPong(body []byte, arrived stamp) error {
	if len(body) != 56 {
		return broken("a PONG of %d bytes", len(body))
	}
	if l.isPonged || !bytes.Equal(body[:24], l.ping) {
		return nil
	}
	l.isPonged = true
	s := scanner{rest: body[24:]}
	t0, t1, t2, t3 := l.pingSent, scanStamp(&s), scanStamp(&s), arrived
	there, here := int64(t2.monotonic-t1.monotonic), int64(t3.monotonic-t0.monotonic)
	if there >= 0 && there <= here {
		offset := (int64(t1.wall-t0.wall) + int64(t2.wall-t3.wall)) / 2
		l.peer.say("clock %d bound %d", offset, (here-there)/2)
	}
	return nil
}

// free counts credit that may be granted again, and grants it when there is enough (11).
func (l *link) free(stream uint8, freed credit) {
	l.freed[stream].messages += freed.messages
	l.freed[stream].bytes += freed.bytes
}

// write sends frames until the link ends.
func (l *link) write() {
	p := l.peer
	for {
		p.mu.Lock()
		made := l.next()
		for made == nil && !l.isDone {
			p.changed.Wait()
			made = l.next()
		}
		isLast := made != nil && made[4] == typeClose
		p.mu.Unlock()
		if made == nil {
			return
		}
		if _, err := l.conn.Write(made); err != nil {
			l.socket.Close()
			return
		}
		if isLast {
			l.endWriting()
			return
		}
	}
}

// endWriting closes our direction, and gives the other side 2 s to close its own (14).
func (l *link) endWriting() {
	l.conn.CloseWrite()
	if tcp, is := l.socket.Conn.(*net.TCPConn); is {
		tcp.CloseWrite()
	}
	time.AfterFunc(2*time.Second, func() { l.socket.Close() })
}

// next is the next frame to write, or nil (4).
func (l *link) next() []byte {
	if l.isDone || l.ended != nil {
		return nil
	}
	if len(l.control) > 0 {
		made := l.control[0]
		l.control = l.control[1:]
		return made
	}
	if unread := l.gotBytes - l.reported; l.theirs != nil && unread > 0 &&
		(unread >= readSize || time.Since(l.unreportedAt) >= readPause || len(l.answers) > 0) {
		l.reported = l.gotBytes
		age := min(time.Since(l.gotAt).Microseconds(), math.MaxUint32)
		readUs := uint64(l.gotAt.Sub(began).Microseconds())
		return frame(typeRead, encodeRead(l.gotBytes, uint32(age), readUs))
	}
	if len(l.answers) > 0 {
		return l.answerFrame(l.nextReceipt())
	}
	if l.fault != nil {
		l.isClosed = true
		l.peer.changed.Broadcast() // another link may use the credit
		return frame(typeClose, encodeClose(l.fault.code, l.fault.text))
	}
	if l.theirs == nil {
		return nil
	}
	if made := l.nextCredit(); made != nil {
		return made
	}
	return l.nextPart()
}

// answerFrame signs a receipt, together with a batch if one fits the same frame (8.3).
func (l *link) answerFrame(r *receipt) []byte {
	p := l.peer
	room := maxLength - 1 - 2 - 6 - 2 - len(r.statement()) - 64
	for _, stream := range []int{3, 7, 2, 6, 1, 5, 0, 4} {
		if l.fault != nil || l.underWay[stream] != nil {
			break
		}
		if l.nextBatch(stream, room) {
			l.underWay[stream].join(p.identity, p.did, r)
			return l.partOf(stream)
		}
	}
	r.signature = ed25519.Sign(p.identity, receiptText(didOf(p.identity), p.did, r.statement()))
	return frame(typeReceipt, r.encode())
}

// nextReceipt takes the answers of one kind, reason and text. Receipts come before later answers.
func (l *link) nextReceipt() *receipt {
	first := slices.MinFunc(l.answers, func(a, b answer) int { return int(a.kind) - int(b.kind) })
	r := &receipt{kind: first.kind, at: uint64(time.Now().UnixMicro())}
	if first.kind == refused {
		r.detail, r.text = first.reason, []byte(first.text)
	}
	l.answers = slices.DeleteFunc(l.answers, func(a answer) bool {
		isOther := a.kind != first.kind || a.reason != first.reason || a.text != first.text
		if isOther || len(r.hashes) == maxHashes {
			return false
		}
		l.free(a.stream, a.frees)
		r.hashes = append(r.hashes, a.hash)
		return true
	})
	return r
}

// nextCredit is a CREDIT if the other side needs one (11).
func (l *link) nextCredit() []byte {
	grant := l.grant()
	for i := range grant {
		more := credit{grant[i].messages - l.theirGranted[i].messages, grant[i].bytes - l.theirGranted[i].bytes}
		left := l.theirGranted[i].bytes - l.theirUsed[i].bytes
		isShort := l.theirGranted[i].messages == l.theirUsed[i].messages || left < largestBody
		isMuch := more.messages >= windowMessages/4 || more.bytes >= windowBytes/4
		if isMuch || (isShort && more != credit{}) {
			l.theirGranted = grant
			return frame(typeCredit, encodeCredit(grant))
		}
	}
	return nil
}

// nextPart is a part of the highest priority. The two streams of a priority take turns (5.2).
func (l *link) nextPart() []byte {
	for priority := 3; priority >= 0; priority-- {
		streams := []int{priority, priority + 4}
		slices.SortStableFunc(streams, func(a, b int) int { return int(l.shares[a]) - int(l.shares[b]) })
		for _, stream := range streams {
			if l.underWay[stream] == nil && !l.nextBatch(stream, math.MaxInt) {
				l.shares[stream] = max(l.shares[stream], l.shares[stream^4]) // it does not catch up
				continue
			}
			return l.partOf(stream)
		}
	}
	return nil
}

func (l *link) nextBatch(stream, limit int) bool {
	used, granted := &l.used[stream], l.granted[stream]
	room := credit{granted.messages - used.messages, granted.bytes - used.bytes}
	b, messages, rest := l.peer.out.next(l.todo[stream], room, l.theirs, limit)
	l.todo[stream] = rest
	if b == nil {
		return false
	}
	used.messages += uint64(len(messages))
	used.bytes += uint64(b.total())
	l.underWay[stream] = &outgoing{batch: b, messages: messages}
	return true
}

func (l *link) partOf(stream int) []byte {
	o := l.underWay[stream]
	p := part{stream: uint8(stream), count: len(o.bodies), total: o.total(), receipt: o.receipt}
	size := partSize
	if o.data == nil {
		o.data = o.encode()
		p.flags |= partFirst
	}
	if o.receipt != nil { // all in one frame
		p.form, size = partJoint, len(o.data)
	}
	p.data = o.data[o.written:min(o.written+size, len(o.data))]
	o.written += len(p.data)
	l.sentBytes += uint64(len(p.data))
	l.shares[stream] += uint64(len(p.data))
	if o.written == len(o.data) {
		p.flags |= partLast
		l.underWay[stream] = nil
		l.ends = append(l.ends, batchEnd{offset: l.sentBytes, messages: o.messages})
	}
	return frame(typeEnvelopes, p.encode())
}

// tick applies the limits of time (10, 13). It returns what closes the link.
func (l *link) tick() *fault {
	at := time.Now()
	slow := func(text string) *fault { return &fault{closeBroken, text} }
	silence := time.Since(began) - time.Duration(l.socket.lastRead.Load())
	if l.theirs == nil {
		if at.Sub(l.startedAt) > 10*time.Second {
			return slow("no HELLO came for 10 s")
		}
		return nil
	}
	isAnswered := func(m *message) bool { return m.isDone }
	for len(l.ends) > 0 && !slices.ContainsFunc(l.ends[0].messages, func(m *message) bool { return !isAnswered(m) }) {
		l.ends = l.ends[1:]
	}
	for i, under := range l.parts {
		if under != nil && at.Sub(l.partAt[i]) > 30*time.Second {
			return slow("a part did not come for 30 s")
		}
	}
	latest := func(a, b time.Time) time.Time {
		if a.After(b) {
			return a
		}
		return b
	}
	switch {
	case silence > 15*time.Second:
		return slow("silent for 15 s")
	case l.sentBytes > l.readBytes && at.Sub(latest(l.readAt, l.answerAt)) > 60*time.Second:
		return slow("nothing was read for 60 s")
	case len(l.ends) > 0 && !l.ends[0].readAt.IsZero() &&
		at.Sub(latest(l.ends[0].readAt, l.answerAt)) > 60*time.Second:
		return slow("an envelope has no answer for 60 s")
	}
	sinceping := now().monotonic - l.pingSent.monotonic
	if (silence > 5*time.Second && sinceping > 5_000_000) || (l.isPonged && sinceping > 60_000_000) {
		l.sendPing()
	}
	return nil
}
