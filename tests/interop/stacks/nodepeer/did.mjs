// Our certificate, and the DID proof of the other side. Numbers in comments are sections of
// docs/protocol.md.
import crypto from 'node:crypto'
import { hex, join, nowUs } from './bytes.mjs'

export const ALPN = 'signedwire/2'
const PROOF_LABEL = 'signedwire/tls-leaf/1\0'
const NULL_CA_KEY = '7369676e656477697265206e756c6c2043413a2070726f766573206e6f6e652f'
const SAN_START = hex('308199868196')
const DAY_US = 24n * 3600n * 1_000_000n

// -- DER ---------------------------------------------------------------------------------

function der(tag, ...parts) {
  const body = Buffer.concat(parts)
  const size = body.length
  const length = size < 128 ? [size] : size < 256 ? [0x81, size] : [0x82, size >> 8, size & 255]
  return Buffer.concat([Buffer.from([tag, ...length]), body])
}

/** The elements that follow each other in `bytes`: tag, body, and both with the length. */
function elements(bytes) {
  const found = []
  for (let at = 0; at < bytes.length; ) {
    let [start, size] = [at + 2, bytes[at + 1]]
    if (size & 0x80) {
      const count = size & 0x7f
      size = bytes.readUIntBE(start, count)
      start += count
    }
    if (start + size > bytes.length) throw new Error('DER is cut off')
    const end = start + size
    found.push({ tag: bytes[at], body: bytes.subarray(start, end), all: bytes.subarray(at, end) })
    at = end
  }
  return found
}

// -- our certificate (2.2) with our DID proof (3) ------------------------------------------

export function makeCertificate(us) {
  const { privateKey, publicKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const spki = publicKey.export({ type: 'spki', format: 'der' })
  const start = Buffer.alloc(40)
  us.did.copy(start)
  start.writeBigUInt64LE(nowUs() + 7n * DAY_US, 32)
  const signature = us.sign(join(PROOF_LABEL, start, spki))
  const uri = 'signedwire:' + Buffer.concat([start, signature]).toString('base64url')

  const algorithm = hex('300a06082a8648ce3d040302') // ecdsa-with-SHA256
  const name = (text) =>
    der(0x30, der(0x31, der(0x30, hex('0603550403'), der(0x0c, Buffer.from(text)))))
  const serial = crypto.randomBytes(16)
  serial[0] = (serial[0] & 0x7f) | 0x40
  const validity = [
    der(0x17, Buffer.from('700101000000Z')),
    der(0x18, Buffer.from('99991231235959Z')),
  ]
  const san = der(0x30, hex('0603551d11'), der(0x04, SAN_START, Buffer.from(uri)))
  const tbs = der(
    0x30,
    hex('a003020102'), // version 3
    der(0x02, serial),
    algorithm,
    name('signedwire null CA'),
    der(0x30, ...validity),
    name('signedwire'),
    spki,
    der(0xa3, der(0x30, san)),
  )
  const issuerKey = crypto.createPrivateKey({
    key: der(0x30, hex('0201010420' + NULL_CA_KEY + 'a00a06082a8648ce3d030107')),
    format: 'der',
    type: 'sec1',
  })
  const signed = crypto.sign('sha256', tbs, issuerKey)
  const certificate = der(0x30, tbs, algorithm, der(0x03, Buffer.from([0]), signed))
  const pem = certificate.toString('base64').match(/.{1,64}/g).join('\n')
  return {
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }),
    cert: `-----BEGIN CERTIFICATE-----\n${pem}\n-----END CERTIFICATE-----\n`,
  }
}

// -- the DID proof of the other side -------------------------------------------------------

/** Checks 1 to 6 of section 3. Node does not show the chain as it came: see step 2. */
export function provenDid(socket) {
  if (socket.getProtocol() !== 'TLSv1.3' || socket.isSessionReused())
    throw new Error('not a fresh connection of TLS 1.3')
  if (socket.alpnProtocol !== ALPN) throw new Error(`the other side does not speak ${ALPN}`)
  const certificate = socket.getPeerX509Certificate()?.raw
  if (!certificate || certificate.length > 2048)
    throw new Error('no certificate of at most 2048 bytes')
  const { proof, spki } = readCertificate(certificate)
  const [did, signature] = [proof.subarray(0, 32), proof.subarray(40)]
  if (!isDid(did)) throw new Error('the proof names no DID')
  if (!verify(did, join(PROOF_LABEL, proof.subarray(0, 40), spki), signature))
    throw new Error('the proof is not signed by its DID')
  if (proof.readBigUInt64LE(32) + DAY_US < nowUs()) throw new Error('the proof has expired')
  return did
}

/** The proof in a certificate, and its key in the same bytes. */
function readCertificate(certificate) {
  const [tbs] = elements(elements(certificate)[0].body)
  const fields = elements(tbs.body)
  const list = fields.find((field) => field.tag === 0xa3)
  const names = (list ? elements(elements(list.body)[0].body) : [])
    .map((extension) => elements(extension.body))
    .filter(([oid]) => oid.body.equals(hex('551d11')))
  if (names.length !== 1) throw new Error('the certificate has not one subjectAltName')
  const value = names[0].at(-1).body
  const uri = value.subarray(SAN_START.length).toString('latin1')
  const proof = Buffer.from(uri.slice('signedwire:'.length), 'base64url')
  const again = Buffer.from('signedwire:' + proof.toString('base64url'))
  if (proof.length !== 104 || !value.equals(Buffer.concat([SAN_START, again])))
    throw new Error('the certificate has no DID proof as its only name')
  return { proof, spki: fields[6].all }
}

/** Whether a signature is that of a DID, which isDid() has found to be one (1.2). */
export function verify(did, text, signature) {
  const key = { kty: 'OKP', crv: 'Ed25519', x: did.toString('base64url') }
  const isNeutral = signature.subarray(0, 32).equals(hex('01'.padEnd(64, '0')))
  return !isNeutral && crypto.verify(null, text, { key, format: 'jwk' }, signature)
}

/** Whether the bytes are the canonical encoding of a point of prime order (1.1). */
export function isDid(raw) {
  const p = 2n ** 255n - 19n
  const order = 2n ** 252n + 27742317777372353535851937790883648493n
  const mod = (a) => ((a % p) + p) % p
  const power = (a, e) => {
    let result = 1n
    for (; e; e >>= 1n, a = mod(a * a)) if (e & 1n) result = mod(result * a)
    return result
  }
  const over = (a, b) => mod(a * power(mod(b), p - 2n))
  const d = over(-121665n, 121666n)
  const encoded = BigInt('0x' + Buffer.from(raw).reverse().toString('hex'))
  const [sign, y] = [encoded >> 255n, encoded & (2n ** 255n - 1n)]
  if (y >= p) return false
  const xx = over(y * y - 1n, d * y * y + 1n)
  let x = power(xx, (p + 3n) / 8n)
  if (mod(x * x) !== xx) x = mod(x * power(2n, (p - 1n) / 4n))
  if (mod(x * x) !== xx || x === 0n) return false
  if ((x & 1n) !== sign) x = p - x
  const sum = ([x1, y1, z1], [x2, y2, z2]) => {
    const [a, c, e] = [mod(z1 * z2), mod(x1 * x2), mod(y1 * y2)]
    const [b, f] = [mod(a * a), mod(d * mod(c * e))]
    const cross = mod((x1 + y1) * (x2 + y2) - c - e)
    return [mod(a * mod(b - f) * cross), mod(a * mod(b + f) * (e + c)), mod((b - f) * (b + f))]
  }
  let product = [0n, 1n, 1n]
  for (let bit = 252n; bit >= 0n; bit--) {
    product = sum(product, product)
    if ((order >> bit) & 1n) product = sum(product, [x, y, 1n])
  }
  return product[0] === 0n && product[1] === product[2]
}
