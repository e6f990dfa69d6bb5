package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"slices"
	"sync"
	"time"
)

const (
	alpn         = "signedwire/2"
	proofLabel   = "signedwire/tls-leaf/1\x00"
	nullCADigest = "723dc3dd087c87d44459c8c7e096c34962a4d36b6a01124dc076f5c7ac50e0a2"
	nullCAKey    = "7369676e656477697265206e756c6c2043413a2070726f766573206e6f6e652f"
	nullCAValue  = `-----BEGIN CERTIFICATE-----
MIIBUDCB96ADAgECAgEBMAoGCCqGSM49BAMCMB0xGzAZBgNVBAMMEnNpZ25lZHdp
cmUgbnVsbCBDQTAgFw03MDAxMDEwMDAwMDBaGA85OTk5MTIzMTIzNTk1OVowHTEb
MBkGA1UEAwwSc2lnbmVkd2lyZSBudWxsIENBMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAELI+Iv3hgeeTRWTS4dvQ35KhyUHxzBKtyFXFvz2T02oD8OaqDeITev4VM
Kqf8+XF7g8bw2VGkmOi4C0G5gkCIFqMmMCQwEgYDVR0TAQH/BAgwBgEB/wIBADAO
BgNVHQ8BAf8EBAMCAgQwCgYIKoZIzj0EAwIDSAAwRQIhAOfxVjXyLUH2cZq5Ga5U
nJFVl78utgm7saZZhqOI2YTyAiAMsE5SlbpWSQzH5GpyCReW6WkHLWQDd4kHg+Rc
3zHP+A==
-----END CERTIFICATE-----
`
)

func didOf(identity ed25519.PrivateKey) []byte { return identity.Public().(ed25519.PublicKey) }

// verify is 1.2. crypto/ed25519 checks S and the equation for the exact bytes of R. With a key
// that is a DID, the only R of small order that can fit is the neutral element.
func verify(did, text, signature []byte) bool {
	isNeutral := signature[0] == 1 && bytes.Equal(signature[1:32], make([]byte, 31))
	return isDID(did) && !isNeutral && ed25519.Verify(did, text, signature)
}

// tlsConfig asks for a certificate and makes the checks of section 3, before a byte is read.
func tlsConfig(certificate tls.Certificate, check func(did []byte) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // the issuer proves nothing (2.3)
		VerifyConnection: func(state tls.ConnectionState) error {
			did, err := provenDID(state)
			if err != nil {
				return err
			}
			return check(did)
		},
	}
}

// makeCertificate returns a certificate (2.2) with a DID proof (3).
func makeCertificate(identity ed25519.PrivateKey) (tls.Certificate, error) {
	fail := func(err error) (tls.Certificate, error) { return tls.Certificate{}, err }
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fail(err)
	}
	proof := makeDIDProof(identity, uint64(time.Now().Add(7*24*time.Hour).UnixMicro()), spki)

	block, _ := pem.Decode([]byte(nullCAValue))
	issuer, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fail(err)
	}
	scalar, err := hex.DecodeString(nullCAKey)
	if err != nil {
		return fail(err)
	}
	issuerKey, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		return fail(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return fail(err)
	}
	uri := url.URL{Scheme: "signedwire", Opaque: base64.RawURLEncoding.EncodeToString(proof)}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "signedwire"},
		NotBefore:    issuer.NotBefore,
		NotAfter:     issuer.NotAfter,
		URIs:         []*url.URL{&uri},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func proofText(start, spki []byte) []byte { return slices.Concat([]byte(proofLabel), start, spki) }

// makeDIDProof returns the 104 bytes of section 3.
func makeDIDProof(identity ed25519.PrivateKey, expiry uint64, spki []byte) []byte {
	start := binary.LittleEndian.AppendUint64(bytes.Clone(didOf(identity)), expiry)
	return append(start, ed25519.Sign(identity, proofText(start, spki))...)
}

// provenDID makes the checks 1 to 6 of section 3.
func provenDID(state tls.ConnectionState) ([]byte, error) {
	if state.Version != tls.VersionTLS13 || state.DidResume || state.NegotiatedProtocol != alpn {
		return nil, errors.New("not a fresh TLS 1.3 connection of signedwire/2")
	}
	chain := state.PeerCertificates
	block, _ := pem.Decode([]byte(nullCAValue))
	if len(chain) == 2 && bytes.Equal(chain[1].Raw, block.Bytes) {
		chain = chain[:1]
	}
	if len(chain) != 1 || len(chain[0].Raw) > 2048 {
		return nil, errors.New("not one certificate of at most 2048 bytes")
	}
	proof, err := proofOf(chain[0])
	if err != nil {
		return nil, err
	}
	did, signature := proof[:32], proof[40:]
	if !isDID(did) {
		return nil, errors.New("the proof names no DID")
	}
	if !verify(did, proofText(proof[:40], chain[0].RawSubjectPublicKeyInfo), signature) {
		return nil, errors.New("the proof is not signed by its DID")
	}
	expiry := binary.LittleEndian.Uint64(proof[32:40])
	yesterday := max(0, time.Now().Add(-24*time.Hour).UnixMicro()) // clocks may begin in 1970
	if expiry < uint64(yesterday) {
		return nil, errors.New("the proof has expired")
	}
	return did, nil
}

// proofOf reads the URI from the DER: net/url would write the scheme in lower case.
func proofOf(certificate *x509.Certificate) ([]byte, error) {
	start := "\x30\x81\x99\x86\x81\x96signedwire:"
	for _, extension := range certificate.Extensions { // x509 refuses a second one
		if extension.Id.String() != "2.5.29.17" || len(extension.Value) != 156 {
			continue
		}
		text := extension.Value[len(start):]
		proof, err := base64.RawURLEncoding.DecodeString(string(text))
		if err == nil && start+base64.RawURLEncoding.EncodeToString(proof) == string(extension.Value) {
			return proof, nil
		}
	}
	return nil, errors.New("the certificate has no DID proof as its only name")
}

var knownDIDs sync.Map // those that isDID was asked for, because it takes a millisecond

func isDID(raw []byte) bool {
	known, isKnown := knownDIDs.Load(string(raw))
	if !isKnown {
		known = isPoint(raw)
		knownDIDs.Store(string(raw), known)
	}
	return known.(bool)
}

// isPoint reports whether the bytes are the canonical encoding of a point of prime order (1.1).
// crypto/ed25519 does not check that.
func isPoint(raw []byte) bool {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	order, _ := new(big.Int).SetString(
		"7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	mul := func(a, b *big.Int) *big.Int { c := new(big.Int).Mul(a, b); return c.Mod(c, p) }
	add := func(a, b *big.Int) *big.Int { return new(big.Int).Add(a, b) }
	sub := func(a, b *big.Int) *big.Int { return new(big.Int).Sub(a, b) }
	over := func(a, b *big.Int) *big.Int {
		b = new(big.Int).Mod(b, p)
		return mul(a, b.ModInverse(b, p))
	}
	one := big.NewInt(1)
	d := over(big.NewInt(-121665), big.NewInt(121666))

	bigEndian := make([]byte, 32)
	for i, b := range raw {
		bigEndian[31-i] = b
	}
	sign := uint(bigEndian[0] >> 7)
	bigEndian[0] &= 0x7f
	y := new(big.Int).SetBytes(bigEndian)
	if y.Cmp(p) >= 0 {
		return false
	}
	yy := mul(y, y)
	xx := over(sub(yy, one), add(mul(d, yy), one))
	x := new(big.Int).ModSqrt(xx, p)
	if x == nil || x.Sign() == 0 {
		return false
	}
	if x.Bit(0) != sign {
		x.Sub(p, x)
	}
	type point [3]*big.Int // x·z, y·z, z
	sum := func(s, t point) point {
		a, c, e := mul(s[2], t[2]), mul(s[0], t[0]), mul(s[1], t[1])
		b, f := mul(a, a), mul(d, mul(c, e))
		minus, plus := sub(b, f), add(b, f)
		cross := sub(sub(mul(add(s[0], s[1]), add(t[0], t[1])), c), e)
		return point{mul(mul(a, minus), cross), mul(mul(a, plus), add(e, c)), mul(minus, plus)}
	}
	product := point{new(big.Int), one, one}
	for i := order.BitLen() - 1; i >= 0; i-- {
		product = sum(product, product)
		if order.Bit(i) == 1 {
			product = sum(product, point{x, y, one})
		}
	}
	return product[0].Sign() == 0 && product[1].Cmp(product[2]) == 0
}
