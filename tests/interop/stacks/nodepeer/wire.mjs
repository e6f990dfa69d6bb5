// The bytes of frames, envelopes, batches and receipt proofs. Numbers in comments are sections of
// docs/protocol.md.
import { Fault, Fields, hex, join, sha256, u16, u32 } from './bytes.mjs'
import { isDid, verify } from './did.mjs'

// -- frames (4, 5) -----------------------------------------------------------------------

export const [HELLO, ENVELOPES, RECEIPT, READ, CREDIT, PING, PONG, CLOSE] = [1, 2, 3, 4, 5, 6, 7, 8]
export const [ACCEPTED_BATCHES, ACCEPTED, HANDLED, REFUSED] = [1, 2, 3, 4] // kinds of a RECEIPT
export const MAX_LENGTH = 16380

export function readHello(body) {
  const fields = new Fields(body)
  const [min, max] = [fields.u16(), fields.u16()]
  fields.u64() // features
  const [maxPayload, maxBatch] = [fields.u32(), fields.u32()]
  const [durable, volatile, ...known] = fields.many(4, fields.u64)
  fields.many(8, fields.u64) // marks: a new key has sent nothing yet
  const isEpoch = (value) => value >> 63n === 0n
  const epochs = [durable, volatile]
  if (min > max || maxBatch < 1024 || epochs.includes(0n) || ![...epochs, ...known].every(isEpoch))
    throw new Fault('a HELLO with a field out of its range')
  if (min > 2 || max < 2) throw new Fault('only version 2 is known', 6)
  return { maxPayload, epochs, known, credit: fields.many(16, fields.u64) }
}

export function readStatement(fields) {
  const all = fields.rest
  const [kind, at, detail] = [fields.u8(), fields.u64(), fields.u8()]
  const size = kind === REFUSED ? fields.u16() : 0
  const text = fields.bytes(size)
  const count = fields.u16()
  const hashes = fields.many(count, () => fields.bytes(32).toString('hex'))
  const isDetail = kind === REFUSED || detail <= 1
  if (kind < 1 || kind > 4 || !isDetail || size > 256 || count < 1 || count > 500)
    throw new Fault('a RECEIPT with a field out of its range')
  const statement = all.subarray(0, all.length - fields.rest.length)
  return { kind, at, detail, text, hashes, statement }
}

/** Replaces what should not be shown (4, 5.3). */
export const printable = (text) => text.toString().replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '\ufffd')

// -- envelopes and batches (7, 8) ----------------------------------------------------------

function isSubject(bytes) {
  const text = bytes.toString()
  const isUtf8 = Buffer.from(text).equals(bytes)
  return isUtf8 && !/[\p{Cc}\u2028\u2029]/u.test(text)
}

/** The fields of a body of at least 126 bytes, and whether they are well formed. */
function readEnvelope(body) {
  const subject = body.subarray(126, 126 + body[125])
  const start = 126 + body[125] + (body[122] === 2 ? 32 : 0)
  const isOurs = body.subarray(0, 8).equals(hex('494e4d4f09000000'))
  const areKnown = body[104] <= 3 && body[105] <= 4 && body[122] <= 3 && body[123] === 0
  return {
    isGood: isOurs && areKnown && start <= body.length && isSubject(subject),
    id: body.subarray(8, 24).toString('hex'),
    sequence: body.readBigUInt64LE(24),
    sender: body.subarray(32, 64),
    recipient: body.subarray(64, 96),
    priority: body[104],
    epoch: body.readBigUInt64LE(106),
    expires: body.readBigUInt64LE(114),
    isDurable: (body[124] & 1) === 1,
    subject: subject.toString(),
    payload: body.subarray(start),
  }
}

const streamOf = (body) => (body[104] > 3 ? -1 : body[104] + (body[124] & 1 ? 0 : 4))
const groupOf = (leaves) => sha256('signedwire/group/1\0', [leaves.length], ...leaves)
const rootOfGroups = (sender, count, groups) =>
  sha256('signedwire/tree/1\0', sender, u16(count), ...groups)

export function rootOf(sender, leaves) {
  const groups = []
  for (let at = 0; at < leaves.length; at += 16) groups.push(groupOf(leaves.slice(at, at + 16)))
  return rootOfGroups(sender, leaves.length, groups)
}

/** The number of other leaves in the group of an index, and of other groups (8.1). */
const pathSize = (i, count) => [Math.min(16, count - (i & ~15)) - 1, Math.ceil(count / 16) - 1]

function rootFromPath(sender, leaf, i, count, path) {
  const hashes = path.toString('hex').match(/.{64}/g)?.map(hex) ?? []
  const leaves = hashes.splice(0, pathSize(i, count)[0])
  leaves.splice(i % 16, 0, leaf)
  hashes.splice(i >> 4, 0, groupOf(leaves))
  return rootOfGroups(sender, count, hashes)
}

export const batchText = (root) => join('signedwire/batch/1\0', root)
export const receiptText = (recipient, sender, statement) =>
  join('signedwire/receipt/1\0', recipient, sender, statement)
export const jointText = (root, receiptHash) => join('signedwire/joint/1\0', root, receiptHash)

/** The envelopes of a batch that has come whole, and its root (5.2, 8, 8.4). */
export function readBatch({ count, total, stream, isCopies, data }, sender) {
  const fields = new Fields(join(...data))
  const signature = fields.bytes(64)
  const [envelopes, roots] = [[], []]
  let [last, tree, sum] = [-1, 0, 0]
  for (let i = 0; i < count; i++) {
    const size = fields.u32()
    const item = new Fields(fields.bytes(size))
    sum += size
    const [index, leaves] = isCopies ? [item.u8(), item.u8() + 1] : [0, 0]
    const isNext = index > last && index < leaves && (leaves === tree || i === 0)
    if (isCopies && !isNext) throw new Fault('an item with a wrong index')
    ;[last, tree] = [index, leaves]
    const [others, groups] = pathSize(index, leaves)
    const path = isCopies ? item.bytes(32 * (others + groups)) : undefined
    const body = item.rest
    if (body.length < 126) throw new Fault('a body below 126 bytes')
    if (streamOf(body) !== stream) throw new Fault('a body of another stream')
    const leaf = sha256(body)
    if (isCopies) roots.push(rootFromPath(sender, leaf, index, leaves, path))
    envelopes.push({ ...readEnvelope(body), leaf, size })
  }
  fields.end()
  if (sum !== total) throw new Fault('sizes that do not add up to the total')
  if (!isCopies) roots.push(rootOf(sender, envelopes.map(({ leaf }) => leaf)))
  return { signature, envelopes, root: roots[0], isOneTree: roots.every((r) => r.equals(roots[0])) }
}

// -- receipt proofs (8.2, 17) --------------------------------------------------------------

export function makeProof({ body, receiptHash, signature, answers }) {
  const { root, statement, signature: signed } = [4, 3, 2, 1].map((k) => answers[k]).find(Boolean)
  const form = receiptHash ? 1 : 0
  const alone = join(body, receiptHash ?? [], u16(0), u16(1), [form], signature)
  const receipt = join(root ? [1] : [0], root ?? [], statement, signed)
  return join('SWPROOF2', u32(alone.length), alone, receipt)
}

/** Verifies a proof with an envelope of version 9. Node.js has no BLAKE3, which v1 needs. */
export function verifyProof(data) {
  const require = (isTrue, text) => {
    if (!isTrue) throw new Error(text)
  }
  const fields = new Fields(data)
  require(fields.bytes(8).toString() === 'SWPROOF2', 'not a receipt proof')
  const alone = fields.bytes(fields.u32())
  const joint = fields.u8()
  require(joint <= 1, 'an unknown form of the receipt')
  const receiptRoot = fields.bytes(32 * joint)
  const receipt = readStatement(fields)
  const signed = fields.bytes(64)
  fields.end()

  require(alone.length >= 126 + 69, 'the envelope is too short')
  const tail = new Fields(alone.subarray(-69))
  const [index, count, form] = [tail.u16(), tail.u16(), tail.u8()]
  require(index < count && count <= 256 && form <= 1, 'its index, count or form does not fit')
  const pathEnd = alone.length - 69 - 32 * form
  const [others, groups] = pathSize(index, count)
  const body = alone.subarray(0, Math.max(0, pathEnd - 32 * (others + groups)))
  require(body.length >= 126, 'the envelope is too short')
  const envelope = readEnvelope(body)
  const { sender, recipient } = envelope
  require(envelope.isGood && isDid(sender) && isDid(recipient), 'the envelope is malformed')
  const leaf = sha256(body)
  const root = rootFromPath(sender, leaf, index, count, alone.subarray(body.length, pathEnd))
  const sent = form ? jointText(root, alone.subarray(pathEnd, pathEnd + 32)) : batchText(root)
  require(verify(sender, sent, tail.rest), 'the envelope is not signed by its sender')

  const named = receipt.kind === ACCEPTED_BATCHES ? root : leaf
  require(receipt.hashes.includes(named.toString('hex')), 'the receipt names other envelopes')
  const plain = receiptText(recipient, sender, receipt.statement)
  const text = joint ? jointText(receiptRoot, sha256(plain)) : plain
  require(verify(recipient, text, signed), 'the receipt is not signed by the recipient')
  return { envelope, receipt }
}
