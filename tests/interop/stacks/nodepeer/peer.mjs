// A peer of a signedwire node, with Node.js and no package. It has no store, and keeps nothing from
// one link to the next, as if it had restarted between them.
//
//   node peer.mjs dial HOST PORT DID    connect to a node
//   node peer.mjs accept                wait for links; commands are for the first one
//   node peer.mjs verify FILE           verify a receipt proof
//
// A peer that links reads commands from stdin, until its end:
//
//   send LABEL durable|volatile PRIORITY SUBJECT TEXT     SUBJECT - is none
//   fill LABEL durable|volatile PRIORITY SUBJECT SIZE     a payload of that size
//   proof LABEL FILE                                      write the receipt proof of a message
//
// It prints what becomes of each message that it sends, and what it receives. It handles each
// message that it receives. With the subject `refuse`, it refuses the message after its receipt,
// and with `rule` before. With `echo` it sends the payload back.
//
// Numbers in comments are sections of docs/protocol.md.
import crypto from 'node:crypto'
import fs from 'node:fs'
import readline from 'node:readline'
import tls from 'node:tls'
import { Fault, Fields, hex, join, monotonicUs, nowUs, sha256 } from './bytes.mjs'
import { stamp, u16, u32, u64 } from './bytes.mjs'
import { ALPN, makeCertificate, provenDid, verify } from './did.mjs'
import { CLOSE, CREDIT, ENVELOPES, HELLO, MAX_LENGTH, PING, PONG, READ, RECEIPT } from './wire.mjs'
import { ACCEPTED, ACCEPTED_BATCHES, HANDLED, REFUSED } from './wire.mjs'
import { batchText, jointText, makeProof, printable, readBatch, readHello } from './wire.mjs'
import { readStatement, receiptText, rootOf, verifyProof } from './wire.mjs'

const MAX_PAYLOAD = 1 << 20
const MAX_BATCH = 1 << 16
const PART = 12288 // bytes of a batch: so few that higher priorities do not wait
const WINDOW = [1024n, BigInt(2 * (MAX_PAYLOAD + 1474))] // messages, bytes: granted at once (11)

// -- a link (4 to 14) ----------------------------------------------------------------------

class Link {
  theirs = null // their HELLO
  received = Buffer.alloc(0)
  heardAt = Date.now()
  isClosing = false
  // as sender
  epoch = nowUs()
  numbers = Array(8).fill(0n)
  todo = Array.from({ length: 8 }, () => [])
  used = Array(16).fill(0n) // as in CREDIT: messages and bytes of each stream
  sent = 0n // bytes of batches
  readByThem = 0n
  turn = 0
  messages = { labels: new Map(), leaves: new Map(), roots: new Map() }
  // as receiver
  granted = Array.from({ length: 16 }, (_, i) => WINDOW[i % 2])
  theirUsed = Array(16).fill(0n)
  freed = Array(16).fill(0n)
  underWay = Array(8).fill(null)
  marks = Array(8).fill(0n)
  remembered = new Map() // our answer to each leaf
  answers = []
  read = 0
  reported = 0

  constructor(us, socket, dialed, opened) {
    Object.assign(this, { us, socket, opened, them: provenDid(socket) })
    if (dialed && this.them.toString('hex') !== dialed) throw new Error('another DID answered')
    console.log('peer', this.them.toString('hex'))
    const limits = [u32(MAX_PAYLOAD), u32(MAX_BATCH)]
    const epochs = [this.epoch, this.epoch, ...Array(2 + 8).fill(0n)].map(u64)
    this.write(HELLO, u16(2), u16(2), u64(0), ...limits, ...epochs, ...this.granted.map(u64))
    socket.on('data', (data) => this.take(data))
    socket.on('drain', () => this.sendParts())
    const clock = setInterval(() => this.tick(), 1000)
    socket.on('close', () => clearInterval(clock))
  }

  write(type, ...parts) {
    const body = join([type], ...parts)
    const length = Buffer.alloc(4)
    length.writeUInt32BE(body.length)
    this.socket.write(join(length, body))
  }

  take(data) {
    this.heardAt = Date.now()
    this.received = join(this.received, data)
    try {
      while (!this.isClosing && this.received.length >= 4) {
        const size = this.received.readUInt32BE(0)
        if (size < 1 || size > MAX_LENGTH) throw new Fault(`a frame with the length ${size}`)
        if (this.received.length < 4 + size) break
        const body = this.received.subarray(5, 4 + size)
        const type = this.received[4]
        this.received = this.received.subarray(4 + size)
        this.frame(type, body)
      }
      if (!this.isClosing) this.answer()
    } catch (error) {
      if (!(error instanceof Fault)) throw error
      this.close(error.code, error.message)
    }
  }

  frame(type, body) {
    const fields = new Fields(body)
    if (type >= 0x80) return
    if (type === CLOSE) return this.gotClose(fields)
    if ((type === HELLO) !== !this.theirs) throw new Fault(`the frame ${type} is not allowed`)
    if (type === ENVELOPES) return this.gotPart(body)
    if (type === HELLO) {
      this.theirs = readHello(body)
      const known = this.theirs.known.reduce((a, b) => (a > b ? a : b))
      if (known === 2n ** 63n - 1n) throw new Fault('no epoch is left for this key')
      if (known > this.epoch) throw new Fault('our epoch is older than the one known', 3)
      console.log('hello', this.theirs.epochs[0].toString())
      this.ping()
      this.opened(this)
    } else if (type === RECEIPT) {
      const receipt = readStatement(fields)
      const signature = fields.bytes(64)
      fields.end()
      if (!verify(this.them, receiptText(this.them, this.us.did, receipt.statement), signature))
        throw new Fault('a receipt that is not signed by the recipient', 7)
      this.gotReceipt({ ...receipt, signature })
    } else if (type === READ) {
      const [read] = [fields.u64(), fields.u32(), fields.u64()]
      fields.end()
      if (read < this.readByThem || read > this.sent) throw new Fault(`a READ of ${read} bytes`)
      this.readByThem = read
    } else if (type === CREDIT) {
      const credit = fields.many(16, fields.u64)
      fields.end()
      if (credit.some((value, i) => value < this.theirs.credit[i]))
        throw new Fault('a credit that is less than before')
      this.theirs.credit = credit
    } else if (type === PING) {
      const arrived = stamp()
      if (body.length !== 24) throw new Fault(`a PING of ${body.length} bytes`)
      this.write(PONG, body, arrived, stamp())
    } else if (type === PONG) {
      if (body.length !== 56) throw new Fault(`a PONG of ${body.length} bytes`)
    } else throw new Fault(`a frame of the type ${type}`)
  }

  // -- receiving

  gotPart(body) {
    const fields = new Fields(body)
    const [flags, stream] = [fields.u8(), fields.u8()]
    if (![0, 1, 2, 3, 4, 9, 11, 19].includes(flags) || stream > 7)
      throw new Fault(`a part with the flags ${flags} of the stream ${stream}`)
    const [isFirst, isLast, isAbort] = [1, 2, 4].map((bit) => (flags & bit) > 0)
    if (!isLast && !isAbort && body.length < 2048) throw new Fault('a part that is too small')
    if (isFirst === (this.underWay[stream] !== null))
      throw new Fault('a part that does not follow the one before')
    if (isFirst) this.underWay[stream] = this.beginBatch(fields, flags, stream)
    const batch = this.underWay[stream]
    if (isAbort) {
      fields.end()
      this.underWay[stream] = null
      return this.free(stream, batch.count, batch.total)
    }
    batch.data.push(fields.rest)
    batch.left -= fields.rest.length
    this.gotBytes(fields.rest.length)
    if (batch.left < 0 || (batch.left === 0) !== isLast)
      throw new Fault('a batch that has not the bytes of its total')
    if (!isLast) return
    this.underWay[stream] = null
    this.gotBatch(batch, readBatch(batch, this.them))
  }

  beginBatch(fields, flags, stream) {
    const [count, total] = [fields.u16(), fields.u32()]
    let receipt = null
    if (flags & 16) {
      const statement = new Fields(fields.bytes(fields.u16()))
      receipt = readStatement(statement)
      statement.end()
    }
    const isCopies = (flags & 8) > 0
    const one = MAX_PAYLOAD + (isCopies ? 1474 : 512)
    if (count < 1 || count > 256 || total > (count > 1 ? MAX_BATCH : Math.max(one, MAX_BATCH)))
      throw new Fault(`a batch of ${count} envelopes and ${total} bytes`)
    if (!spend(this.theirUsed, this.granted, stream, count, total))
      throw new Fault(`more than the credit of the stream ${stream}`)
    return { stream, count, total, isCopies, receipt, left: 64 + 4 * count + total, data: [] }
  }

  gotBytes(count) {
    this.read += count
    this.readAt = monotonicUs()
    if (this.read - this.reported >= 32768) this.report()
    else this.timer ??= setTimeout(() => this.report(), 10)
  }

  report() {
    clearTimeout(this.timer)
    this.timer = undefined
    if (this.read === this.reported || this.isClosing) return
    this.reported = this.read
    this.write(READ, u64(this.read), u32(monotonicUs() - this.readAt), u64(this.readAt))
  }

  gotBatch({ stream, count, total, isCopies, receipt }, batch) {
    const { signature, envelopes, root, isOneTree } = batch
    const text = receipt
      ? jointText(root, sha256(receiptText(this.them, this.us.did, receipt.statement)))
      : batchText(root)
    const refuse = (one, detail, text = '') => ({ kind: REFUSED, hash: one.leaf, detail, text })
    const freed = (one) => ({ stream, count: 1, total: one.size })
    if (!isOneTree || !verify(this.them, text, signature)) {
      this.answers.push(...envelopes.map((one) => ({ ...refuse(one, 8), ...freed(one) })))
      throw new Fault('a batch that is not signed by its sender', 7)
    }
    if (receipt) {
      console.log('joint', receipt.kind)
      this.gotReceipt({ ...receipt, root, signature })
    }
    const answers = []
    for (const one of envelopes) {
      const [isNew, reason, text] = this.check(one, stream)
      const answer = reason ? refuse(one, reason, text) : { kind: ACCEPTED, hash: one.leaf }
      if (isNew) this.remembered.set(one.leaf.toString('hex'), [false, reason, text])
      if (isNew && !reason) this.deliver(one)
      answers.push({ ...answer, ...freed(one) })
    }
    const isWhole = !isCopies && answers.every(({ kind }) => kind === ACCEPTED)
    const whole = { kind: ACCEPTED_BATCHES, hash: root, stream, count, total }
    this.answers.push(...(isWhole ? [whole] : answers))
  }

  /** Steps 7 to 12 of section 12: whether it is new, the reason of a refusal, and its text. */
  check(one, stream) {
    if (one.payload.length > MAX_PAYLOAD) return [false, 3]
    if (!one.recipient.equals(this.us.did)) return [false, 2]
    const isTheirs = one.sender.equals(this.them) && one.epoch === this.theirs.epochs[stream >> 2]
    if (!one.isGood || !isTheirs || one.sequence === 0n) return [false, 7]
    if (one.sequence <= this.marks[stream])
      return this.remembered.get(one.leaf.toString('hex')) ?? [false, 9]
    this.marks[stream] = one.sequence
    if (one.subject === 'rule') return [true, 15, 'the rule of this peer']
    return [true, one.expires !== 0n && one.expires <= nowUs() ? 1 : undefined]
  }

  deliver({ id, isDurable, priority, subject, payload, leaf }) {
    const kind = isDurable ? 'durable' : 'volatile'
    const digest = sha256(payload).toString('hex')
    console.log('received', id, kind, priority, subject || '-', payload.length, digest)
    const isRefused = subject === 'refuse'
    const [detail, text] = isRefused ? [6, 'not today'] : []
    this.answers.push({ kind: isRefused ? REFUSED : HANDLED, hash: leaf, detail, text })
    if (subject === 'echo') this.add(`echo-${id}`, isDurable, priority, subject, payload)
  }

  /** Signs what waits: receipts first, and one for each reason and text (10). */
  answer() {
    if (this.answers.length) this.report()
    while (this.answers.length) {
      const first = this.answers.reduce((a, b) => (b.kind < a.kind ? b : a))
      const { kind, detail = 0, text = '' } = first
      const isSame = (a) => a.kind === kind && a.detail === first.detail && a.text === first.text
      const named = this.answers.filter(isSame).slice(0, 500)
      this.answers = this.answers.filter((one) => !named.includes(one))
      const texts = kind === REFUSED ? [u16(Buffer.byteLength(text)), text] : []
      const hashes = [u16(named.length), ...named.map(({ hash }) => hash)]
      this.sendReceipt(join([kind], u64(nowUs()), [detail], ...texts, ...hashes))
      for (const { stream, count, total } of named) if (count) this.free(stream, count, total)
    }
    if (this.theirs && !this.isClosing) this.sendParts()
  }

  /** Sends a statement, together with a message if one fits the same frame (8.3). */
  sendReceipt(statement) {
    const text = receiptText(this.us.did, this.them, statement)
    const message = this.isClosing ? null : this.nextMessage(MAX_LENGTH - 11 - statement.length)
    if (!message) return this.write(RECEIPT, statement, this.us.sign(text))
    message.receiptHash = sha256(text)
    this.sendPart(message, statement)
  }

  /** Counts credit that may be granted again, and grants it when it is a quarter (11). */
  free(stream, count, total) {
    this.freed[2 * stream] += BigInt(count)
    this.freed[2 * stream + 1] += BigInt(total)
    const grant = this.freed.map((freed, i) => freed + WINDOW[i % 2])
    if (this.isClosing || !grant.some((to, i) => to - this.granted[i] >= WINDOW[i % 2] / 4n)) return
    this.granted = grant
    this.write(CREDIT, ...grant.map(u64))
  }

  // -- sending

  command([verb, label, ...words]) {
    const { labels } = this.messages
    if (verb === 'proof') {
      fs.writeFileSync(words[0], makeProof(labels.get(label)))
      return console.log('proof', label)
    }
    const [kind, priority, subject, ...rest] = words
    const filled = (length) => Uint8Array.from({ length }, (_, i) => (7 * i) % 251)
    const payload = verb === 'fill' ? filled(Number(rest[0])) : Buffer.from(rest.join(' '))
    this.add(label, kind === 'durable', Number(priority), subject === '-' ? '' : subject, payload)
    this.sendParts()
  }

  add(label, isDurable, priority, subject, payload) {
    if (payload.length > this.theirs.maxPayload) return console.log('failed', label, 'too large')
    const stream = priority + (isDurable ? 0 : 4)
    const body = join(
      ...[hex('494e4d4f09000000'), crypto.randomBytes(16), u64(++this.numbers[stream])],
      ...[this.us.did, this.them, u64(nowUs()), [priority, 0], u64(this.epoch), u64(0)],
      ...[[0, 0, isDurable ? 1 : 0, Buffer.byteLength(subject)], subject, payload],
    )
    const leaf = sha256(body)
    const root = rootOf(this.us.did, [leaf])
    const message = { label, stream, body, root, written: 0, answers: {} }
    this.messages.labels.set(label, message)
    this.messages.leaves.set(leaf.toString('hex'), message)
    this.messages.roots.set(root.toString('hex'), message)
    this.todo[stream].push(message)
  }

  /** The message of the next part; with `room`, one that is new and fits it whole. */
  nextMessage(room) {
    for (const priority of [3, 2, 1, 0])
      for (const stream of [priority + this.turn, priority + 4 - this.turn]) {
        const message = this.todo[stream][0]
        if (!message) continue
        if (message.written && !room) return message
        const fits = !message.written && 64 + 4 + message.body.length <= (room ?? Infinity)
        if (fits && spend(this.used, this.theirs.credit, stream, 1, message.body.length))
          return message
      }
    return null
  }

  /** Writes parts as long as little waits, so that other frames do not wait behind them (4). */
  sendParts() {
    while (!this.isClosing && this.socket.writableLength < 65536) {
      const message = this.nextMessage()
      if (!message) return
      this.sendPart(message)
    }
  }

  /** Each batch has one message. */
  sendPart(message, statement) {
    const { stream, body, root, receiptHash } = message
    const isFirst = message.written === 0
    if (isFirst) {
      message.signature = this.us.sign(receiptHash ? jointText(root, receiptHash) : batchText(root))
      message.data = join(message.signature, u32(body.length), body)
    }
    const size = statement ? message.data.length : PART
    const bytes = message.data.subarray(message.written, message.written + size)
    message.written += bytes.length
    this.sent += BigInt(bytes.length)
    this.turn = 4 - this.turn
    const isLast = message.written === message.data.length
    if (isLast) this.todo[stream].shift()
    const flags = (isFirst ? 1 : 0) | (isLast ? 2 : 0) | (statement ? 16 : 0)
    const start = isFirst ? [u16(1), u32(body.length)] : []
    const receipt = statement ? [u16(statement.length), statement] : []
    this.write(ENVELOPES, [flags, stream], ...start, ...receipt, bytes)
  }

  /** A RECEIPT, or the receipt of a joint frame, whose signature was verified (10). */
  gotReceipt(receipt) {
    const { kind, detail, text, hashes } = receipt
    for (const hash of hashes) {
      const { leaves, roots } = this.messages
      const message = (kind === ACCEPTED_BATCHES ? roots : leaves).get(hash)
      if (!message || message.isClosed) continue // of two later answers the first counts
      const isFirst = !message.isAnswered
      message.isAnswered = true
      message.isClosed = kind >= HANDLED
      if (isFirst || message.isClosed) message.answers[kind] = receipt
      const { label } = message
      if (kind === REFUSED) {
        console.log('refused', label, detail >= 1 && detail <= 15 ? detail : 6, printable(text))
        continue
      }
      if (isFirst) console.log('accepted', label, `kind=${kind}`, `committed=${detail}`)
      if (kind === HANDLED) console.log('handled', label)
    }
  }

  // -- health and the end (13, 14)

  ping() {
    this.pingedAt = Date.now()
    this.write(PING, u64(this.pingedAt), stamp())
  }

  tick() {
    const silence = Date.now() - this.heardAt
    if (!this.theirs && silence > 10_000) this.close(1, 'no HELLO came for 10 s')
    else if (silence > 15_000) this.close(1, 'silent for 15 s')
    else if (this.theirs && silence > 5000 && Date.now() - this.pingedAt > 5000) this.ping()
  }

  gotClose(fields) {
    const code = fields.u16()
    const text = fields.bytes(fields.u16())
    fields.end()
    if (text.length > 256) throw new Fault('a CLOSE with a long text')
    console.log('closed by it', code, printable(text))
    this.finish(code)
  }

  close(code, text) {
    if (this.isClosing) return
    this.report()
    this.isClosing = true
    this.answer()
    this.write(CLOSE, u16(code), u16(Buffer.byteLength(text)), text)
    console.log('closed by us', code, text)
    this.finish(code)
  }

  /** Ends our direction, and reads on for at most 2 s until the other side has closed. */
  finish(code) {
    this.isClosing = true
    this.code = code
    this.socket.end()
    setTimeout(() => this.socket.destroy(), 2000).unref()
  }
}

/** Adds a batch to the counters of its stream, if the credit suffices (11). */
function spend(used, granted, stream, count, total) {
  const at = 2 * stream
  const [messages, bytes] = [used[at] + BigInt(count), used[at + 1] + BigInt(total)]
  if (messages > granted[at] || bytes > granted[at + 1]) return false
  used.splice(at, 2, messages, bytes)
  return true
}

// -- the program ---------------------------------------------------------------------------

function fail(error) {
  console.error(error.message)
  process.exit(1)
}

function verifyFile(path) {
  const { envelope, receipt } = verifyProof(fs.readFileSync(path))
  const { sender, recipient, id, subject, payload } = envelope
  console.log(`sender ${sender.toString('hex')}\nrecipient ${recipient.toString('hex')}\nid ${id}`)
  console.log(`kind ${receipt.kind}\ndetail ${receipt.detail}\ntext ${printable(receipt.text)}`)
  console.log(`subject ${subject}\npayload ${sha256(payload).toString('hex')}`)
}

/** Links to an address, or listens if there is none, until stdin ends. */
function serve(host, port, dialed) {
  const { publicKey, privateKey } = crypto.generateKeyPairSync('ed25519')
  const us = {
    did: Buffer.from(publicKey.export({ format: 'jwk' }).x, 'base64url'),
    sign: (text) => crypto.sign(null, text, privateKey),
  }
  console.log('us', us.did.toString('hex'))
  const options = {
    ...makeCertificate(us),
    ALPNProtocols: [ALPN],
    minVersion: 'TLSv1.3',
    requestCert: true,
    rejectUnauthorized: false, // the issuer proves nothing (2.3)
  }
  const links = []
  const failed = host ? fail : (error) => console.error(error.message)
  let commands = null // read when the first link is open

  function opened(link) {
    for (const other of links)
      if (other !== link && other.them.equals(link.them)) other.close(2, 'another link is kept')
    commands ??= readline
      .createInterface({ input: process.stdin })
      .on('line', (line) => links[0].command(line.split(' ')))
      .on('close', end)
  }
  function end() {
    commands.isEnded = true
    for (const link of links) link.close(0, 'done')
    if (!links.length) process.exit(0)
  }
  function start(socket) {
    const link = new Link(us, socket, dialed, opened)
    links.push(link)
    socket.on('close', () => {
      links.splice(links.indexOf(link), 1)
      if (!link.isClosing) failed(new Error('the connection ended'))
      if (host) process.exit(link.code === 0 ? 0 : 1)
      if (commands?.isEnded && !links.length) process.exit(0)
    })
  }
  if (host) {
    const socket = tls.connect({ ...options, host, port: Number(port) }, () => start(socket))
    socket.on('error', (error) => links[0]?.isClosing || fail(error))
    return
  }
  const server = tls.createServer(options, (socket) => {
    socket.on('error', failed)
    try {
      start(socket)
    } catch (error) {
      socket.destroy(error)
    }
  })
  server.on('tlsClientError', failed)
  server.listen(0, '127.0.0.1', () => console.log('port', server.address().port))
}

process.on('uncaughtException', fail)
const [mode, ...words] = process.argv.slice(2)
if (mode === 'verify') verifyFile(words[0])
else serve(...words)
