// A peer of a signedwire node, with Go's standard library alone. It has no store.
//
//	peer dial HOST PORT DID    link to a node, and again when the link breaks
//	peer accept                wait for links; commands are for the first node
//	peer probe HOST PORT DID   break each rule on a link of its own, and see what the node does
//	peer verify FILE           verify a receipt proof
//	peer vectors FILE          check docs/vectors/v2.json
//
// A peer that links reads commands from stdin, until its end:
//
//	send LABEL durable|volatile PRIORITY SUBJECT TEXT     SUBJECT - is none
//	fill LABEL durable|volatile PRIORITY SUBJECT SIZE     a payload of that size
//	many LABEL durable|volatile PRIORITY SUBJECT COUNT SIZE
//	proof LABEL FILE           write the receipt proof of a message
//	cut read|write BYTES       cut the link after as many further bytes
//	hold, release              dial no more, and dial again
//	dial HOST PORT             make one more link
//
// It prints what becomes of each message that it sends, and what it receives. It handles each
// message that it receives. With the subject `refuse`, it refuses the message after its receipt,
// and with `rule` before. With `echo` it sends the payload back.
//
// Numbers in comments are sections of docs/protocol.md.
package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "vectors":
		return checkVectors(args[1])
	case len(args) == 2 && args[0] == "verify":
		return verifyFile(args[1])
	case len(args) == 4 && args[0] == "probe":
		return probeNode(net.JoinHostPort(args[1], args[2]), args[3])
	case len(args) == 4 && args[0] == "dial":
		return serve(net.JoinHostPort(args[1], args[2]), args[3])
	case len(args) == 1 && args[0] == "accept":
		return serve("", "")
	}
	return errors.New("usage: peer dial HOST PORT DID | accept | probe HOST PORT DID | verify FILE | vectors FILE")
}

func verifyFile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	e, r, err := verifyProof(data)
	if err != nil {
		return err
	}
	fmt.Printf("sender %x\nrecipient %x\nid %x\n", e.sender, e.recipient, e.id[:16])
	fmt.Printf("kind %d\ndetail %d\ntext %s\nsubject %s\npayload %x\n",
		r.kind, r.detail, printable(r.text), e.subject, sha256.Sum256(e.payload))
	return nil
}

// printable replaces what should not be shown (4, 5.3).
func printable(text []byte) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, string(text))
}

// peer is all that we keep about the other side, over its links. Its lock guards everything.
type peer struct {
	mu       sync.Mutex
	changed  *sync.Cond
	identity ed25519.PrivateKey
	did      []byte // of the other side, nil until it is known
	in       *inbox
	out      *outbox
	links    map[*link]bool
	current  *link
	opened   chan struct{}    // closed with the first handshake
	others   map[string]*peer // by DID
	isHeld   bool
	isEnding bool
	last     *fault // what the last link ended with
}

func newPeer(identity ed25519.PrivateKey) *peer {
	p := &peer{identity: identity, links: map[*link]bool{}, opened: make(chan struct{})}
	p.others = map[string]*peer{}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// say prints one line.
func (p *peer) say(format string, values ...any) { fmt.Printf(format+"\n", values...) }

// meet takes the DID of the other side.
func (p *peer) meet(did []byte) {
	p.did = did
	p.in = newInbox(didOf(p.identity), did)
	p.out = newOutbox(p.identity, did, p.say)
}

// other is a peer that commands do not reach. It is served all the same.
func (p *peer) other(did []byte) *peer {
	made, isKnown := p.others[string(did)]
	if !isKnown {
		made = newPeer(p.identity)
		made.meet(did)
		p.others[string(did)] = made
		go made.watch()
	}
	return made
}

// deliver gives a message to the application, which is this function.
func (p *peer) deliver(l *link, e *envelope, stream uint8) {
	durable := map[bool]string{true: "durable", false: "volatile"}[e.isDurable]
	subject := string(e.subject)
	if subject == "" {
		subject = "-"
	}
	p.say("received %x %s %d %s %d %x", e.id[:16], durable, e.priority, subject,
		len(e.payload), sha256.Sum256(e.payload))
	a := answer{kind: handled, hash: e.leaf, stream: stream}
	if subject == "refuse" {
		a.kind, a.reason, a.text = refused, reasonApplication, "not today"
	}
	p.in.later[kindOf(stream)].put(a.hash, a)
	l.answers = append(l.answers, a)
	if subject == "echo" {
		p.send("echo-"+hex.EncodeToString(e.id[:16]), e.isDurable, e.priority, e.subject, e.payload)
	}
}

func (p *peer) send(label string, isDurable bool, priority uint8, subject, payload []byte) {
	m := p.out.add(label, isDurable, priority, subject, payload)
	if l := p.current; l != nil {
		l.todo[m.stream] = append(l.todo[m.stream], m)
	}
}

func (out *outbox) waitingCopy() (copies [streamCount][]*message) {
	for i, messages := range out.waiting {
		copies[i] = append([]*message(nil), messages...)
	}
	return copies
}

// serve dials an address, or listens if there is none, until stdin ends.
func serve(address, claim string) error {
	_, identity, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	p := newPeer(identity)
	if claim != "" {
		did, err := hex.DecodeString(claim)
		if err != nil || len(did) != 32 {
			return errors.New("not a DID in hex")
		}
		p.meet(did)
	}
	fmt.Printf("us %x\n", didOf(identity))
	failed := make(chan error, 1)
	if address != "" {
		go func() { failed <- p.dial(address) }()
	} else if err := p.listen(); err != nil {
		return err
	}
	go p.watch()
	ended := make(chan error, 1)
	go func() { ended <- p.commands() }()
	select {
	case err := <-failed:
		return err
	case err = <-ended:
	}
	if address != "" {
		select {
		case err := <-failed:
			return err
		case <-p.opened:
		}
	}
	p.end()
	return err
}

// watch applies the limits of time to the links.
func (p *peer) watch() {
	for range time.Tick(readPause / 2) {
		p.mu.Lock()
		for l := range p.links {
			if fault := l.tick(); fault != nil && l.fault == nil {
				l.fault = fault
				time.AfterFunc(2*time.Second, func() { l.socket.Close() })
			}
		}
		p.changed.Broadcast()
		p.mu.Unlock()
	}
}

// dial keeps a link. Only a first link that fails is an error.
func (p *peer) dial(address string) error {
	pause := 20 * time.Millisecond
	for isFirst := true; ; isFirst = false {
		plain, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err == nil {
			err = p.link(plain, true)
		}
		if err != nil && isFirst {
			return err
		}
		pause = min(2*pause, 2*time.Second)
		if err == nil {
			pause = 20 * time.Millisecond
		}
		time.Sleep(pause)
		p.mu.Lock()
		for p.isEnding || p.isHeld || p.mustWait() {
			p.changed.Wait()
		}
		p.mu.Unlock()
	}
}

// mustWait reports whether there is a reason not to dial (14).
func (p *peer) mustWait() bool {
	if p.last == nil {
		return false
	}
	switch p.last.code {
	case 2, 4, 5, 8:
		for _, messages := range p.out.waiting {
			if len(messages) > 0 {
				return false
			}
		}
		return true
	}
	return false
}

func (p *peer) listen() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.say("port %d", listener.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			plain, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				if err := p.link(plain, false); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
			}()
		}
	}()
	return nil
}

// link carries one connection to its end. An error says why the handshake failed.
func (p *peer) link(plain net.Conn, isDialed bool) error {
	defer plain.Close()
	certificate, err := makeCertificate(p.identity)
	if err != nil {
		return err
	}
	var did []byte
	config := tlsConfig(certificate, func(proven []byte) error {
		if isDialed && !bytes.Equal(proven, p.did) {
			return errors.New("another DID answered")
		}
		did = proven
		return nil
	})
	l := &link{peer: p, socket: newSocket(plain), isDialed: isDialed}
	l.conn = tls.Server(l.socket, config)
	if isDialed {
		l.conn = tls.Client(l.socket, config)
	}
	plain.SetDeadline(time.Now().Add(10 * time.Second))
	if err := l.conn.Handshake(); err != nil {
		return err
	}
	plain.SetDeadline(time.Time{})
	p.mu.Lock()
	if p.did == nil {
		p.meet(did)
	}
	select {
	case <-p.opened:
	default:
		close(p.opened)
	}
	if !bytes.Equal(p.did, did) {
		l.peer = p.other(did)
		p.mu.Unlock()
		p = l.peer
		p.mu.Lock()
	}
	p.links[l] = true
	p.say("peer %x", did)
	l.begin()
	p.mu.Unlock()
	go l.write()
	l.finish(l.read())
	return nil
}

// finish ends a link after a fault, a CLOSE or the end of the connection.
func (l *link) finish(err error) {
	p := l.peer
	var fault *fault
	if errors.As(err, &fault) {
		p.mu.Lock()
		if l.fault == nil {
			l.fault = fault
		}
		p.changed.Broadcast()
		p.mu.Unlock()
		// Until the other side has read our CLOSE and closed, or 2 s have passed.
		time.AfterFunc(2*time.Second, func() { l.socket.Close() })
		for buffer := make([]byte, 4096); ; {
			if _, err := l.socket.Read(buffer); err != nil {
				break
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	whose := map[bool]string{true: "dialed", false: "accepted"}[l.isDialed]
	switch {
	case l.ended != nil:
		p.say("closed %s by it %d %s", whose, l.ended.code, l.ended.text)
	case l.fault != nil:
		p.say("closed %s by us %d %s", whose, l.fault.code, l.fault.text)
	default:
		p.say("broken %s", err)
	}
	p.last = l.ended
	if p.last == nil {
		p.last = l.fault
	}
	l.isDone = true
	delete(p.links, l)
	if p.current == l {
		p.current = nil
	}
	p.changed.Broadcast()
}

// end sends CLOSE 0 on every link, and waits for at most 3 s.
func (p *peer) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isEnding = true
	for l := range p.links {
		if l.fault == nil {
			l.fault = &fault{closeDone, "done"}
		}
	}
	p.changed.Broadcast()
	for limit := time.Now().Add(3 * time.Second); len(p.links) > 0 && time.Now().Before(limit); {
		p.changed.Wait() // watch() wakes us
	}
}

// commands reads stdin to its end.
func (p *peer) commands() error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		p.mu.Lock()
		err := p.command(strings.SplitN(lines.Text(), " ", 6))
		p.changed.Broadcast()
		p.mu.Unlock()
		if err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}

func (p *peer) command(words []string) error {
	switch {
	case p.out == nil:
		return errors.New("no peer yet")
	case words[0] == "cut" && len(words) == 3 && p.current != nil:
		count, err := strconv.Atoi(words[2])
		if words[1] == "read" {
			p.current.socket.canRead.Store(int64(count))
		} else {
			p.current.socket.canWrite.Store(int64(count))
		}
		return err
	case words[0] == "dial" && len(words) == 3:
		plain, err := net.Dial("tcp", net.JoinHostPort(words[1], words[2]))
		if err == nil {
			go p.link(plain, true)
		}
		return err
	case words[0] == "hold" || words[0] == "release":
		p.isHeld = words[0] == "hold"
		return nil
	case words[0] == "proof" && len(words) == 3 && p.out.labels[words[1]] != nil:
		err := os.WriteFile(words[2], p.out.proof(p.out.labels[words[1]]), 0o600)
		p.say("proof %s", words[1])
		return err
	case len(words) == 6:
		return p.commandToSend(words[0], words[1], words[2] == "durable", words[3:])
	}
	return errors.New("an unknown command")
}

func (p *peer) commandToSend(verb, label string, isDurable bool, words []string) error {
	priority, err := strconv.ParseUint(words[0], 10, 2)
	if err != nil {
		return err
	}
	subject := []byte(strings.TrimPrefix(words[1], "-"))
	numbers := strings.Fields(words[2])
	switch verb {
	case "send":
		p.send(label, isDurable, uint8(priority), subject, []byte(words[2]))
	case "fill":
		size, err := strconv.Atoi(words[2])
		if err != nil {
			return err
		}
		p.send(label, isDurable, uint8(priority), subject, filled(size))
	case "many":
		if len(numbers) != 2 {
			return errors.New("many needs a count and a size")
		}
		count, _ := strconv.Atoi(numbers[0])
		size, _ := strconv.Atoi(numbers[1])
		for i := range count {
			payload := append(fmt.Appendf(nil, "%08d", i), filled(size)...)
			p.send(fmt.Sprintf("%s-%d", label, i), isDurable, uint8(priority), subject, payload)
		}
	default:
		return errors.New("an unknown command")
	}
	return nil
}

// filled is a payload of which the byte i is 7·i mod 251.
func filled(size int) []byte {
	made := make([]byte, size)
	for i := range made {
		made[i] = byte(7 * i % 251)
	}
	return made
}
