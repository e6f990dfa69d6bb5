// A peer of a signedwire node, up to HELLO, with Go's standard library alone.
//
//	peer dial HOST PORT DID    connect to a node
//	peer accept                wait for one connection of a node
//
// Numbers in comments are sections of docs/protocol.md.
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
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"time"
)

const (
	alpn        = "signedwire/2"
	proofLabel  = "signedwire/tls-leaf/1\x00"
	nullCAKey   = "7369676e656477697265206e756c6c2043413a2070726f766573206e6f6e652f"
	nullCAValue = `-----BEGIN CERTIFICATE-----
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

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	_, identity, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	fmt.Printf("us %x\n", identity.Public())
	certificate, err := makeCertificate(identity)
	if err != nil {
		return err
	}
	var did []byte // of the other side
	config := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // the issuer proves nothing (2.3)
		VerifyConnection: func(state tls.ConnectionState) error {
			did, err = provenDID(state)
			if err == nil && args[0] == "dial" && hex.EncodeToString(did) != args[3] {
				err = errors.New("another DID answered")
			}
			return err
		},
	}
	conn, err := connect(args, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err := conn.Handshake(); err != nil {
		return err
	}
	fmt.Printf("peer %x\n", did)
	return exchangeHello(conn)
}

func connect(args []string, config *tls.Config) (*tls.Conn, error) {
	if args[0] == "dial" {
		plain, err := net.DialTimeout("tcp", net.JoinHostPort(args[1], args[2]), 10*time.Second)
		if err != nil {
			return nil, err
		}
		return tls.Client(plain, config), nil
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	fmt.Printf("port %d\n", listener.Addr().(*net.TCPAddr).Port)
	plain, err := listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(plain, config), nil
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
	proof := bytes.Clone(identity.Public().(ed25519.PublicKey))
	expiry := time.Now().Add(7 * 24 * time.Hour)
	proof = binary.LittleEndian.AppendUint64(proof, uint64(expiry.UnixMicro()))
	text := append(append([]byte(proofLabel), proof...), spki...)
	proof = append(proof, ed25519.Sign(identity, text)...)

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
	text := append([]byte(proofLabel), proof[:40]...)
	text = append(text, chain[0].RawSubjectPublicKeyInfo...)
	isNeutral := signature[0] == 1 && bytes.Equal(signature[1:32], make([]byte, 31))
	if isNeutral || !ed25519.Verify(did, text, signature) {
		return nil, errors.New("the proof is not signed by its DID")
	}
	expiry := binary.LittleEndian.Uint64(proof[32:40])
	if day := uint64(24 * time.Hour / time.Microsecond); expiry < uint64(time.Now().UnixMicro())-day {
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

// isDID reports whether the bytes are the canonical encoding of a point of prime order (1.1).
// crypto/ed25519 does not check that.
func isDID(raw []byte) bool {
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

// exchangeHello sends our HELLO, reads the other one (4, 5.1), and waits for the end of stdin.
func exchangeHello(conn *tls.Conn) error {
	order := binary.LittleEndian
	hello := []byte{0, 0, 0, 101, 1}
	hello = order.AppendUint16(hello, 2)
	hello = order.AppendUint16(hello, 2)
	hello = order.AppendUint64(hello, uint64(time.Now().UnixMicro())) // epoch
	hello = order.AppendUint64(hello, 0)
	hello = order.AppendUint32(hello, 1<<16)
	hello = order.AppendUint32(hello, 1<<20)
	for _, number := range [...]uint64{4096, 1 << 23, 64, 1 << 21, 0, 0, 0, 0, 0} {
		hello = order.AppendUint64(hello, number)
	}
	if _, err := conn.Write(hello); err != nil {
		return err
	}
	header := make([]byte, 5)
	if _, err := io.ReadFull(conn, header); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(header)
	if size < 101 || size > 16384 || header[4] != 1 {
		return errors.New("the first frame is not a HELLO")
	}
	body := make([]byte, size-1)
	if _, err := io.ReadFull(conn, body); err != nil {
		return err
	}
	fmt.Printf("hello %d\n", order.Uint64(body[4:]))
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
