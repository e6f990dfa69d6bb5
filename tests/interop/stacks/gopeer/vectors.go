package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
)

// hexBytes is a byte string of the file.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type vectorKey struct {
	Seed, DID hexBytes
	Text      string
}

type vectorFile struct {
	Alice, Bob vectorKey
	DIDProof   struct {
		SPKI, Proof, Certificate hexBytes
		ExpiresAt                uint64 `json:"expires_at_us"`
		URI                      string
	} `json:"did_proof"`
	Bodies         map[string]hexBytes
	VolatileBodies map[string]hexBytes `json:"volatile_bodies"`
	Fields         struct {
		Bodies          map[string]hexBytes
		Leaves          []hexBytes
		Root, Signature hexBytes
	}
	Batches []struct {
		Count           int
		Leaves          []hexBytes
		Root, Signature hexBytes
		Paths           map[string]hexBytes
	}
	Frames       map[string]hexBytes
	BatchInParts struct {
		Count  int
		Frames []hexBytes
	} `json:"batch_in_parts"`
	BadBatches  map[string]hexBytes `json:"bad_batches"`
	BadReceipts map[string]hexBytes `json:"bad_receipts"`
	Envelope    struct {
		Count, Index int
		Alone        hexBytes
	}
	Copies struct {
		Root, Signature hexBytes
		Frames          map[string]hexBytes
	}
	BadCopies        map[string]hexBytes            `json:"bad_copies"`
	BadJoint         map[string]map[string]hexBytes `json:"bad_joint"`
	JointProofs      map[string]hexBytes            `json:"joint_proofs"`
	BadJointProofs   map[string]hexBytes            `json:"bad_joint_proofs"`
	ReceiptProofs    map[string]hexBytes            `json:"receipt_proofs"`
	BadReceiptProofs map[string]hexBytes            `json:"bad_receipt_proofs"`
}

// vectors counts what was checked in the file (19).
type vectors struct {
	vectorFile
	alice, bob ed25519.PrivateKey
	checked    int
	wrong      []string
}

func checkVectors(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	v := &vectors{}
	if err := json.Unmarshal(data, &v.vectorFile); err != nil {
		return err
	}
	v.keys()
	v.didProof()
	v.bodies()
	v.fields()
	v.batches()
	for name, data := range v.Frames {
		v.frame(name, data)
	}
	v.parts()
	v.badFrames()
	v.copies()
	v.alone()
	v.proofs()
	if len(v.wrong) > 0 {
		return errors.New("not as the file says: " + strings.Join(v.wrong, ", "))
	}
	fmt.Printf("checked %d\n", v.checked)
	return nil
}

func (v *vectors) check(isRight bool, name string, values ...any) {
	v.checked++
	if !isRight {
		v.wrong = append(v.wrong, fmt.Sprintf(name, values...))
	}
}

func (v *vectors) keys() {
	for i, key := range []vectorKey{v.Alice, v.Bob} {
		identity := ed25519.NewKeyFromSeed(key.Seed)
		for j, one := range key.Seed {
			v.check(int(one) == i+j, "seed %d", i)
		}
		v.check(bytes.Equal(didOf(identity), key.DID) && isDID(key.DID), "did %d", i)
		v.check(didText(key.DID) == key.Text, "text of did %d", i)
	}
	v.alice = ed25519.NewKeyFromSeed(v.Alice.Seed)
	v.bob = ed25519.NewKeyFromSeed(v.Bob.Seed)
}

// didText is the text of a DID (1.1).
func didText(did []byte) string {
	const digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	number, base, digit := new(big.Int).SetBytes(append([]byte{0xED, 1}, did...)), big.NewInt(58), new(big.Int)
	var text []byte
	for number.Sign() > 0 {
		number.DivMod(number, base, digit)
		text = append(text, digits[digit.Int64()])
	}
	slices.Reverse(text)
	return "did:key:z" + string(text)
}

func (v *vectors) didProof() {
	given := v.DIDProof
	made := makeDIDProof(v.alice, given.ExpiresAt, given.SPKI)
	v.check(bytes.Equal(made, given.Proof), "the DID proof")
	uri := "signedwire:" + base64.RawURLEncoding.EncodeToString(made)
	v.check(uri == given.URI && len(uri) == 150, "the URI")
	certificate, err := x509.ParseCertificate(given.Certificate)
	if err != nil {
		v.check(false, "the certificate: %v", err)
		return
	}
	proof, err := proofOf(certificate)
	v.check(err == nil && bytes.Equal(proof, made), "the proof in the certificate")
	v.check(bytes.Equal(certificate.RawSubjectPublicKeyInfo, given.SPKI), "the SPKI")
	v.check(verify(proof[:32], proofText(proof[:40], given.SPKI), proof[40:]), "the signed proof")
	block, _ := pem.Decode([]byte(nullCAValue))
	digest := sha256.Sum256(block.Bytes)
	v.check(hex.EncodeToString(digest[:]) == nullCADigest, "the digest of the null CA")
	issuer, _ := x509.ParseCertificate(block.Bytes)
	v.check(bytes.Equal(issuer.RawSubjectPublicKeyInfo, given.SPKI), "the key of the null CA")
	v.check(bytes.Equal(certificate.RawIssuer, issuer.RawSubject), "the issuer")
	v.check(issuer.CheckSignature(certificate.SignatureAlgorithm, certificate.RawTBSCertificate,
		certificate.Signature) == nil, "the signature of the certificate")
}

// numbered is the body n of section 19.
func (v *vectors) numbered(n int, isDurable bool) []byte {
	e := &envelope{
		sequence: uint64(n), sender: v.Alice.DID, recipient: v.Bob.DID,
		timestamp: 1_700_000_000_000_000 + uint64(n), priority: uint8(n % 3),
		payloadType: uint8(n % 5), epoch: 1_600_000_000_000_000, isDurable: isDurable,
	}
	binary.LittleEndian.PutUint16(e.id[:], uint16(n))
	if n%2 == 0 {
		e.expires = e.timestamp + 60_000_000
	}
	for i := range n % 40 {
		e.payload = append(e.payload, byte(7*n+i))
	}
	return e.encode()
}

// numberedBatch is a batch of Alice of the bodies first, first + step and so on.
func (v *vectors) numberedBatch(stream uint8, first, step, count int) *batch {
	var bodies [][]byte
	for i := range count {
		bodies = append(bodies, v.numbered(first+i*step, stream < 4))
	}
	return signBatch(v.alice, stream, bodies)
}

func (v *vectors) bodies() {
	for isDurable, bodies := range map[bool]map[string]hexBytes{true: v.Bodies, false: v.VolatileBodies} {
		for text, body := range bodies {
			n, _ := strconv.Atoi(text)
			v.check(bytes.Equal(v.numbered(n, isDurable), body), "the body %d", n)
			_, err := decodeEnvelope(body)
			v.check(err == nil, "the body %d: %v", n, err)
		}
	}
}

func (v *vectors) fields() {
	names := []string{"subject", "request", "reply", "reply_with_subject", "publication", "durable"}
	kinds := []uint8{0, 1, 2, 2, 3, 0}
	subjects := []string{"arm/größe", "arm/größe", "", strings.Repeat("a", 255), "log", ""}
	var bodies [][]byte
	for i, name := range names {
		n := 300 + i
		e := &envelope{
			sequence: uint64(n), sender: v.Alice.DID, recipient: v.Bob.DID,
			timestamp: 1_700_000_000_000_000 + uint64(n), priority: 1,
			epoch: 1_600_000_000_000_000, kind: kinds[i], isDurable: name == "durable",
			subject: []byte(subjects[i]), payload: []byte("hello"),
		}
		binary.LittleEndian.PutUint16(e.id[:], uint16(n))
		if e.kind == kindReply {
			request := leafOf(bodies[1])
			e.replyTo = request[:]
		}
		bodies = append(bodies, e.encode())
		v.check(bytes.Equal(bodies[i], v.Fields.Bodies[name]), "the body %s", name)
		read, err := decodeEnvelope(bodies[i])
		v.check(err == nil && bytes.Equal(read.encode(), bodies[i]), "%s is read", name)
	}
	v.batch("fields", signBatch(v.alice, 1, bodies), v.Fields.Leaves, v.Fields.Root, v.Fields.Signature)
}

func (v *vectors) batch(name string, b *batch, leaves []hexBytes, root, signature []byte) {
	for i, leaf := range leaves {
		v.check(bytes.Equal(b.leaves[i][:], leaf), "leaf %d of %s", i, name)
	}
	v.check(len(leaves) == len(b.leaves) && bytes.Equal(b.root[:], root), "the root of %s", name)
	v.check(bytes.Equal(b.signature, signature), "the signature of %s", name)
	v.check(verify(v.Alice.DID, batchText(b.root), signature), "%s is signed", name)
}

func (v *vectors) batches() {
	for _, given := range v.Batches {
		name := fmt.Sprintf("the batch of %d", given.Count)
		b := v.numberedBatch(0, 1, 1, given.Count)
		v.batch(name, b, given.Leaves, given.Root, given.Signature)
		for text, joined := range given.Paths {
			index, _ := strconv.Atoi(text)
			var path []hash
			for one := range slices.Chunk(joined, 32) {
				path = append(path, hash(one))
			}
			v.check(slices.Equal(pathOf(b.leaves, index), path), "the path %d of %s", index, name)
			root, isRight := rootFromPath(v.Alice.DID, b.leaves[index], index, given.Count, path)
			v.check(isRight && root == b.root, "the root of the path %d of %s", index, name)
		}
	}
}

// bodyOf is the body of a frame of the file.
func (v *vectors) bodyOf(name string, data []byte) (byte, []byte) {
	isFrame := len(data) >= 5 && int(binary.BigEndian.Uint32(data)) == len(data)-4
	v.check(isFrame, "the length of %s", name)
	if !isFrame {
		return 0, nil
	}
	return data[4], data[5:]
}

// frame reads a frame, writes it again, and compares.
func (v *vectors) frame(name string, data []byte) {
	kind, body := v.bodyOf(name, data)
	var made []byte
	var err error
	s := scanner{rest: body}
	switch kind {
	case typeHello:
		var h *hello
		if h, err = decodeHello(body); err == nil {
			made = h.encode()
		}
		if err == nil && name == "hello_longer" {
			body = body[:helloSize]
		}
	case typeEnvelopes:
		p, _ := decodePart(body)
		made = p.encode()
		v.check(p.flags == partWhole, "%s is whole", name)
		switch {
		case p.form == partJoint:
			v.joint(name, data)
		case name == "envelopes_critical":
			stop := envelope{sequence: 400, sender: v.Alice.DID, recipient: v.Bob.DID,
				timestamp: 1_700_000_000_000_400, priority: 3, epoch: 1_600_000_000_000_000,
				isDurable: true, payload: []byte("stop")}
			binary.LittleEndian.PutUint16(stop.id[:], 400)
			batch := signBatch(v.alice, p.stream, [][]byte{stop.encode()})
			v.check(bytes.Equal(batch.encode(), p.data), "the batch of %s", name)
		default:
			v.isNumbered(name, p.stream, 3, 2, p.data)
		}
	case typeReceipt:
		var r *receipt
		if r, err = decodeReceipt(body); err == nil {
			made = v.receipt(name, r)
		}
	case typeRead:
		made = encodeRead(s.u64(), s.u32(), s.u64())
	case typeCredit:
		made = encodeCredit(scanCredit(&s))
	case typePing:
		made = encodePing(s.u64(), scanStamp(&s))
	case typePong:
		made = encodePing(s.u64(), scanStamp(&s))
		made = slices.Concat(made, scanStamp(&s).encode(), scanStamp(&s).encode())
	case typeClose:
		var code uint16
		var text []byte
		code, text, err = decodeClose(body)
		made = encodeClose(code, string(text))
	}
	v.check(err == nil && bytes.Equal(made, body), "the frame %s: %v", name, err)
}

// receipt signs a RECEIPT again.
func (v *vectors) receipt(name string, r *receipt) []byte {
	reasons := []string{"expired", "not_for_us", "too_large", "inbox_full", "not_allowed", "refused",
		"malformed", "bad_signature", "duplicate", "unknown_subject", "clock_unknown", "rate", "role",
		"size_rule", "subject_rule"}
	if end, is := strings.CutPrefix(name, "receipt_refused_"); is && r.kind == refused {
		number := slices.Index(reasons, end) + 1
		isUnknown := end == "unknown" && r.detail == 200 && r.reason() == reasonApplication
		v.check(isUnknown || int(r.detail) == number || end == "with_text", "the reason of %s", name)
	}
	text := receiptText(v.Bob.DID, v.Alice.DID, r.statement())
	v.check(verify(v.Bob.DID, text, r.signature), "the signature of %s", name)
	again := *r
	again.signature = ed25519.Sign(v.bob, text)
	return again.encode()
}

// isNumbered compares the bytes of a batch with those of the bodies 1, 4, 7 and so on.
func (v *vectors) isNumbered(name string, stream uint8, step, count int, data []byte) {
	v.check(bytes.Equal(v.numberedBatch(stream, 1, step, count).encode(), data), "the batch of %s", name)
}

// assemble reads frames as a receiver does. The batch is not nil if they were right.
func (v *vectors) assemble(name string, frames ...hexBytes) (b *batch, err error) {
	var under *assembly
	for _, data := range frames {
		_, body := v.bodyOf(name, data)
		p, err := decodePart(body)
		if err != nil {
			return nil, err
		}
		if p.isFirst() {
			under = &assembly{part: p}
		}
		if b, err = under.add(p); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (v *vectors) parts() {
	b, err := v.assemble("batch_in_parts", v.BatchInParts.Frames...)
	v.check(err == nil && b != nil && len(b.bodies) == v.BatchInParts.Count, "batch_in_parts: %v", err)
	if b == nil {
		return
	}
	b.root = rootOf(v.Alice.DID, b.leaves)
	v.check(verify(v.Alice.DID, batchText(b.root), b.signature), "batch_in_parts is signed")
	v.isNumbered("batch_in_parts", 1, 3, 40, b.encode())
	rest := b.encode()
	for i, data := range v.BatchInParts.Frames {
		p := part{flags: partMiddle, stream: 1, count: 40, total: b.total()}
		size := 2050
		if i == 0 {
			p.flags = partFirst
		} else if i == len(v.BatchInParts.Frames)-1 {
			p.flags, size = partLast, len(rest)
		}
		p.data, rest = rest[:size], rest[size:]
		v.check(bytes.Equal(frame(typeEnvelopes, p.encode()), data), "the part %d", i)
	}
}

func (v *vectors) badFrames() {
	code := func(err error) int {
		var broken *fault
		if errors.As(err, &broken) {
			return int(broken.code)
		}
		return -1
	}
	for name, data := range v.BadBatches {
		_, err := v.assemble(name, data)
		v.check(code(err) == closeBroken, "%s: %v", name, err)
	}
	for name, data := range v.BadReceipts {
		_, body := v.bodyOf(name, data)
		r, err := decodeReceipt(body)
		if name != "signed_by_alice" {
			v.check(code(err) == closeBroken, "%s: %v", name, err)
			continue
		}
		v.check(err == nil && !r.isSigned(v.Bob.DID, v.Alice.DID), "%s is refused", name)
	}
	for name, data := range v.BadCopies {
		want := closeBroken
		if name == "changed_path" || name == "two_trees" {
			want = closeSignature
		}
		v.closes(name, data, want)
	}
	for want, frames := range v.BadJoint {
		number, _ := strconv.Atoi(want)
		for name, data := range frames {
			v.closes(name, data, number)
		}
	}
}

// closes checks that a receiver with Bob's key closes the link for a frame of Alice.
func (v *vectors) closes(name string, data []byte, want int) {
	b, err := v.assemble(name, data)
	if want == closeSignature {
		v.check(err == nil && !b.isSigned(v.Alice.DID, v.Bob.DID), "%s: %v", name, err)
		return
	}
	var broken *fault
	v.check(errors.As(err, &broken) && int(broken.code) == want, "%s: %v", name, err)
}

// joint reads a frame with a joint signature of Alice, and signs it again (8.3).
func (v *vectors) joint(name string, data []byte) {
	b, err := v.assemble(name, data)
	v.check(err == nil && b.isSigned(v.Alice.DID, v.Bob.DID), "%s is signed: %v", name, err)
	r := &receipt{kind: accepted, at: 1_700_000_002_000_000, detail: 1, hashes: make([]hash, 2)}
	for i := range 64 {
		r.hashes[i/32][i%32] = byte(i)
	}
	v.check(bytes.Equal(r.statement(), b.receipt.statement()), "the statement of %s", name)
	plain := v.numberedBatch(1, 1, 3, 2)
	plain.join(v.alice, v.Bob.DID, r)
	v.check(bytes.Equal(plain.signature, b.signature), "the signature of %s", name)
}

// copies reads the frame for each recipient (8.4).
func (v *vectors) copies() {
	for name, data := range v.Copies.Frames {
		b, err := v.assemble(name, data)
		v.check(err == nil && b.isSigned(v.Alice.DID, v.Bob.DID), "the copies of %s: %v", name, err)
		v.check(bytes.Equal(b.root[:], v.Copies.Root), "the root of the copies of %s", name)
		v.check(bytes.Equal(b.signature, v.Copies.Signature), "the signature of %s", name)
		count := map[string]int{"bob": 2, "carol": 15}[name]
		v.check(len(b.bodies) == count, "%d copies of %s", len(b.bodies), name)
	}
}

func (v *vectors) alone() {
	_, leaf, _, err := verifyAlone(v.Envelope.Alone)
	v.check(err == nil, "the envelope: %v", err)
	b := v.numberedBatch(0, 1, 1, v.Envelope.Count)
	v.check(leaf == b.leaves[v.Envelope.Index], "the leaf of the envelope")
	made := alone(b.bodies[v.Envelope.Index], b)
	v.check(bytes.Equal(made, v.Envelope.Alone), "the envelope that stands alone")
}

func (v *vectors) proofs() {
	for name, data := range v.ReceiptProofs {
		e, r, err := verifyProof(data)
		v.check(err == nil, "the proof %s: %v", name, err)
		if err != nil {
			continue
		}
		kinds := map[string][]uint8{"accepted": {acceptedBatches, accepted}, "handled": {handled}, "refused": {refused}}
		v.check(slices.Contains(kinds[name], r.kind), "the kind of the proof %s", name)
		v.check(bytes.Equal(e.sender, v.Alice.DID), "the sender in the proof %s", name)
		v.receipt(name, r)
		v.check(bytes.Equal(makeProof(v.Envelope.Alone, r), data), "the proof %s", name)
		for at := range data { // a proof with any other byte proves nothing
			other := bytes.Clone(data)
			other[at] ^= 1
			_, _, err := verifyProof(other)
			v.check(err != nil, "the proof %s with another byte %d", name, at)
		}
	}
	for name, data := range v.JointProofs {
		_, r, err := verifyProof(data)
		v.check(err == nil && r.kind == acceptedBatches, "the joint proof %s: %v", name, err)
		for i := range 32 {
			isRoot := name == "envelope_joint" || (err == nil && r.joint[i] == byte(64+i))
			v.check(isRoot, "the root in the joint proof %s", name)
		}
	}
	for name, data := range v.BadJointProofs {
		_, _, err := verifyProof(data)
		v.check(err != nil, "the bad joint proof %s", name)
	}
	for name, data := range v.BadReceiptProofs {
		_, _, err := verifyProof(data)
		v.check(err != nil, "the bad proof %s", name)
	}
}
