package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"slices"
	"unicode"
	"unicode/utf8"
)

const (
	headerSize   = 126 // without subject and reply_to (7)
	batchLabel   = "signedwire/batch/1\x00"
	receiptLabel = "signedwire/receipt/1\x00"
	groupLabel   = "signedwire/group/1\x00"
	treeLabel    = "signedwire/tree/1\x00"
	jointLabel   = "signedwire/joint/1\x00"
	proofMagic   = "SWPROOF2"
)

var magic = []byte{0x49, 0x4E, 0x4D, 0x4F}

// Kinds of an envelope (7).
const (
	kindMessage     = 0
	kindReply       = 2
	kindPublication = 3
)

// envelope has the fields of a body (7).
type envelope struct {
	id                hash // its first 16 bytes
	sequence          uint64
	sender, recipient []byte
	timestamp         uint64
	priority          uint8
	payloadType       uint8
	epoch             uint64
	expires           uint64
	kind, control     uint8
	isDurable         bool
	subject           []byte
	replyTo           []byte
	payload           []byte
	leaf              hash // of an envelope that was read: its flags may have further bits
}

func (e *envelope) encode() []byte {
	body := le.AppendUint32(bytes.Clone(magic), 9)
	body = le.AppendUint64(append(body, e.id[:16]...), e.sequence)
	body = append(append(body, e.sender...), e.recipient...)
	body = append(le.AppendUint64(body, e.timestamp), e.priority, e.payloadType)
	body = le.AppendUint64(le.AppendUint64(body, e.epoch), e.expires)
	flags := byte(0)
	if e.isDurable {
		flags = 1
	}
	body = append(body, e.kind, e.control, flags, byte(len(e.subject)))
	return slices.Concat(body, e.subject, e.replyTo, e.payload)
}

// decodeEnvelope reads a body of at least 126 bytes. An error makes it malformed (7).
func decodeEnvelope(body []byte) (*envelope, error) {
	if len(body) < headerSize {
		return nil, errors.New("a body below 126 bytes")
	}
	s := scanner{rest: body}
	isOurs := bytes.Equal(s.take(4), magic)
	isOurs = s.u32() == 9 && isOurs
	e := &envelope{leaf: leafOf(body)}
	copy(e.id[:], s.take(16))
	e.sequence, e.sender, e.recipient = s.u64(), s.take(32), s.take(32)
	e.timestamp, e.priority, e.payloadType = s.u64(), s.u8(), s.u8()
	e.epoch, e.expires, e.kind, e.control = s.u64(), s.u64(), s.u8(), s.u8()
	e.isDurable = s.u8()&1 == 1
	e.subject = s.take(int(s.u8()))
	if e.kind == kindReply {
		e.replyTo = s.take(32)
	}
	e.payload = s.all()
	switch {
	case !isOurs:
		return e, errors.New("another magic or version")
	case s.isBad:
		return e, errors.New("too short for its subject or reply_to")
	case e.priority > 3 || e.payloadType > 4:
		return e, errors.New("an unknown priority or payload type")
	case e.kind > kindPublication || e.control != 0:
		return e, errors.New("a kind or control type that is not handled")
	case !isSubject(e.subject):
		return e, errors.New("a subject with a control character, or not in UTF-8")
	}
	return e, nil
}

// isSubject reports whether a text may be a subject (7).
func isSubject(text []byte) bool {
	isBad := func(r rune) bool { return unicode.IsControl(r) || r == 0x2028 || r == 0x2029 }
	return utf8.Valid(text) && bytes.IndexFunc(text, isBad) < 0
}

// streamOf is the stream of a body (1), or 255 if it has none.
func streamOf(body []byte) uint8 {
	priority, flags := body[104], body[124]
	switch {
	case priority > 3:
		return 255
	case flags&1 == 1:
		return priority
	}
	return priority + 4
}

func leafOf(body []byte) hash { return sha256.Sum256(body) }

func groupOf(leaves []hash) hash {
	text := append([]byte(groupLabel), byte(len(leaves)))
	for _, leaf := range leaves {
		text = append(text, leaf[:]...)
	}
	return sha256.Sum256(text)
}

func groupsOf(leaves []hash) (groups []hash) {
	for group := range slices.Chunk(leaves, 16) {
		groups = append(groups, groupOf(group))
	}
	return groups
}

func rootOfGroups(sender []byte, count int, groups []hash) hash {
	text := append([]byte(treeLabel), sender...)
	text = le.AppendUint16(text, uint16(count))
	for _, group := range groups {
		text = append(text, group[:]...)
	}
	return sha256.Sum256(text)
}

func rootOf(sender []byte, leaves []hash) hash {
	return rootOfGroups(sender, len(leaves), groupsOf(leaves))
}

// pathOf is the Merkle path of a leaf (8.1).
func pathOf(leaves []hash, index int) []hash {
	first := index / 16 * 16
	group := slices.Clone(leaves[first:min(first+16, len(leaves))])
	groups := groupsOf(leaves)
	return append(slices.Delete(group, index-first, index-first+1),
		slices.Delete(groups, index/16, index/16+1)...)
}

// pathSize is the number of hashes in a path, if there is such an index (8.1).
func pathSize(index, count int) (int, bool) {
	if index < 0 || index >= count || count > maxBatch {
		return 0, false
	}
	return min(16, count-index/16*16) - 1 + (count+15)/16 - 1, true
}

func rootFromPath(sender []byte, leaf hash, index, count int, path []hash) (hash, bool) {
	size, isIndex := pathSize(index, count)
	if !isIndex || size != len(path) {
		return hash{}, false
	}
	others := min(16, count-index/16*16) - 1
	leaves := slices.Insert(slices.Clone(path[:others]), index%16, leaf)
	groups := slices.Insert(slices.Clone(path[others:]), index/16, groupOf(leaves))
	return rootOfGroups(sender, count, groups), true
}

// batchText and receiptText are two of the texts that a DID signs (1.2).
func batchText(root hash) []byte { return append([]byte(batchLabel), root[:]...) }

func receiptText(recipient, sender, statement []byte) []byte {
	return slices.Concat([]byte(receiptLabel), recipient, sender, statement)
}

// jointText covers a batch and a receipt (8.3).
func jointText(root, receipt hash) []byte {
	return slices.Concat([]byte(jointLabel), root[:], receipt[:])
}

// batch is what one signature covers (8).
type batch struct {
	stream    uint8
	bodies    [][]byte
	leaves    []hash
	root      hash
	signature []byte
	isCopies  bool
	hasRoots  bool     // several, which copies must not have
	receipt   *receipt // under a joint signature

	receiptHash hash // of that receipt, in a batch that we send
}

// isSigned computes the root, and checks the signature in each form (8, 8.3, 8.4).
func (b *batch) isSigned(sender, recipient []byte) bool {
	if !b.isCopies {
		b.root = rootOf(sender, b.leaves)
	}
	if b.receipt != nil {
		b.receipt.joint, b.receipt.signature = &b.root, b.signature
		return b.receipt.isSigned(sender, recipient)
	}
	return !b.hasRoots && verify(sender, batchText(b.root), b.signature)
}

func signBatch(identity ed25519.PrivateKey, stream uint8, bodies [][]byte) *batch {
	b := &batch{stream: stream, bodies: bodies}
	for _, body := range bodies {
		b.leaves = append(b.leaves, leafOf(body))
	}
	b.root = rootOf(didOf(identity), b.leaves)
	b.signature = ed25519.Sign(identity, batchText(b.root))
	return b
}

func (b *batch) total() (total int) {
	for _, body := range b.bodies {
		total += len(body)
	}
	return total
}

// encode returns the bytes that the parts carry (5.2).
func (b *batch) encode() []byte {
	made := bytes.Clone(b.signature)
	for _, body := range b.bodies {
		made = append(le.AppendUint32(made, uint32(len(body))), body...)
	}
	return made
}

// assembly is a batch of which some parts have come (5.2).
type assembly struct {
	part // the first one
	data []byte
}

// add takes the bytes of a part. It returns the batch after the last one.
func (a *assembly) add(p part) (*batch, error) {
	whole := 64 + 4*a.count + a.total
	a.data = append(a.data, p.data...)
	if len(a.data) > whole || (len(a.data) == whole) != p.isLast() {
		return nil, broken("a batch that has not the bytes of its total")
	}
	if !p.isLast() {
		return nil, nil
	}
	s := scanner{rest: a.data}
	b := &batch{stream: p.stream, signature: s.take(64), isCopies: a.form == partCopies, receipt: a.receipt}
	items := copies{batch: b, last: -1}
	for range a.count {
		body := s.take(int(s.u32()))
		if b.isCopies && !s.isBad {
			var err error
			if body, err = items.next(body); err != nil {
				return nil, err
			}
		}
		if s.isBad || len(body) < headerSize {
			return nil, broken("a size that does not fit")
		}
		if streamOf(body) != p.stream {
			return nil, broken("a body of another stream")
		}
		b.bodies = append(b.bodies, body)
		b.leaves = append(b.leaves, leafOf(body))
	}
	if !s.end() {
		return nil, broken("sizes that do not add up to the total")
	}
	return b, nil
}

// copies reads the items of a batch to one of several recipients (8.4).
type copies struct {
	*batch
	leaves int
	last   int // index
}

// next returns the body of an item.
func (c *copies) next(item []byte) ([]byte, error) {
	s := scanner{rest: item}
	index, leaves := int(s.u8()), int(s.u8())+1
	size, isIndex := pathSize(index, leaves)
	if s.isBad || !isIndex || index <= c.last || (c.last >= 0 && leaves != c.leaves) {
		return nil, broken("an item with the index %d of %d", index, leaves)
	}
	var path []hash
	for one := range slices.Chunk(s.take(32*size), 32) {
		path = append(path, hash(one))
	}
	body := s.all()
	if s.isBad || len(body) < headerSize {
		return nil, broken("an item that is too short")
	}
	root, _ := rootFromPath(body[32:64], leafOf(body), index, leaves, path)
	c.hasRoots = c.hasRoots || (c.last >= 0 && root != c.root)
	c.root, c.last, c.leaves = root, index, leaves
	return body, nil
}

// join signs a batch again, together with a receipt to the same peer (8.3).
func (b *batch) join(identity ed25519.PrivateKey, them []byte, r *receipt) {
	b.receipt = r
	b.receiptHash = sha256.Sum256(receiptText(didOf(identity), them, r.statement()))
	b.signature = ed25519.Sign(identity, jointText(b.root, b.receiptHash))
}

// alone is an envelope of a batch that stands alone (8.2).
func alone(body []byte, b *batch) []byte {
	leaves := b.leaves
	index := slices.Index(leaves, leafOf(body))
	made := bytes.Clone(body)
	for _, one := range pathOf(leaves, index) {
		made = append(made, one[:]...)
	}
	form := byte(formPlain)
	if b.receipt != nil {
		form, made = formJoint, append(made, b.receiptHash[:]...)
	}
	made = le.AppendUint16(le.AppendUint16(made, uint16(index)), uint16(len(leaves)))
	return append(append(made, form), b.signature...)
}

// verifyAlone returns the envelope, its leaf and its root (8.2).
func verifyAlone(data []byte) (e *envelope, leaf, root hash, err error) {
	fail := func(text string) (*envelope, hash, hash, error) {
		return nil, hash{}, hash{}, errors.New(text)
	}
	if len(data) < headerSize+69 {
		return fail("too short for an envelope that stands alone")
	}
	tail := len(data) - 69
	index, count, form := int(le.Uint16(data[tail:])), int(le.Uint16(data[tail+2:])), data[tail+4]
	size, isIndex := pathSize(index, count)
	if !isIndex || form > formJoint || tail-32*size-32*int(form) < headerSize {
		return fail("its index, count or form does not fit")
	}
	end := tail - 32*int(form) // of the path
	body := data[:end-32*size]
	var path []hash
	for one := range slices.Chunk(data[len(body):end], 32) {
		path = append(path, hash(one))
	}
	if e, err = decodeEnvelope(body); err != nil {
		return fail(err.Error())
	}
	leaf = leafOf(body)
	root, _ = rootFromPath(e.sender, leaf, index, count, path)
	text := batchText(root)
	if form == formJoint {
		text = jointText(root, hash(data[end:tail]))
	}
	if !isDID(e.recipient) || !verify(e.sender, text, data[tail+5:]) {
		return fail("it is not signed by its sender")
	}
	return e, leaf, root, nil
}

// Forms of a signature, alone (8.2) and in a receipt proof (17).
const (
	formPlain = 0
	formJoint = 1
)

// makeProof joins the parts of a receipt proof (17).
func makeProof(alone []byte, r *receipt) []byte {
	made := append(le.AppendUint32([]byte(proofMagic), uint32(len(alone))), alone...)
	if r.joint == nil {
		made = append(made, formPlain)
	} else {
		made = append(append(made, formJoint), r.joint[:]...)
	}
	return append(made, r.encode()...)
}

// verifyProof makes the checks of 17. It does not know v1 envelopes: Go has no BLAKE3.
func verifyProof(data []byte) (*envelope, *receipt, error) {
	s := scanner{rest: data}
	isOurs := string(s.take(len(proofMagic))) == proofMagic
	raw := s.take(int(s.u32()))
	form := s.u8()
	var joint *hash
	if form == formJoint {
		joint = (*hash)(s.take(32))
	}
	if s.isBad || !isOurs || form > formJoint {
		return nil, nil, errors.New("not a receipt proof")
	}
	r, err := decodeReceipt(s.all())
	if err != nil {
		return nil, nil, err
	}
	r.joint = joint
	e, leaf, root, err := verifyAlone(raw)
	if err != nil {
		return nil, nil, err
	}
	named := leaf
	if r.kind == acceptedBatches {
		named = root
	}
	if !slices.Contains(r.hashes, named) {
		return nil, nil, errors.New("the receipt names other envelopes")
	}
	if !r.isSigned(e.recipient, e.sender) {
		return nil, nil, errors.New("the receipt is not signed by the recipient")
	}
	return e, r, nil
}
