// Numbers, fields, hashes and clocks. Numbers in comments are sections of docs/protocol.md.
import crypto from 'node:crypto'

const began = process.hrtime.bigint()
export const nowUs = () => BigInt(Date.now()) * 1000n
export const monotonicUs = () => (process.hrtime.bigint() - began) / 1000n
export const hex = (text) => Buffer.from(text, 'hex')
export const join = (...parts) => Buffer.concat(parts.map((part) => Buffer.from(part)))
export const sha256 = (...parts) => crypto.createHash('sha256').update(join(...parts)).digest()

function number(size, value) {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes.subarray(0, size)
}
export const [u16, u32, u64] = [2, 4, 8].map((size) => (value) => number(size, value))

/** What ends a link with CLOSE. */
export class Fault extends Error {
  constructor(text, code = 1) {
    super(text)
    this.code = code
  }
}

/** Takes fields from the beginning of bytes. */
export class Fields {
  constructor(bytes) {
    this.rest = bytes
  }
  bytes(size) {
    if (size > this.rest.length) throw new Fault('a body that is too short')
    const taken = this.rest.subarray(0, size)
    this.rest = this.rest.subarray(size)
    return taken
  }
  u8 = () => this.bytes(1)[0]
  u16 = () => this.bytes(2).readUInt16LE()
  u32 = () => this.bytes(4).readUInt32LE()
  u64 = () => this.bytes(8).readBigUInt64LE()
  many = (count, one) => Array.from({ length: count }, one)
  end() {
    if (this.rest.length) throw new Fault('a body that is too long')
  }
}

/** One instant by two clocks (5.5). */
export const stamp = () => join(u64(nowUs()), u64(monotonicUs()))
