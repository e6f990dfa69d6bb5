"""The wire: bytes in, envelopes out, and back, without any I/O.

Nothing in this folder opens a socket, reads a clock, draws a random number or
starts a thread: bytes and instants are arguments, so that every case can be
tested by calling a function. (One convenience for users: an envelope that is
signed without a timestamp takes the present one.)

- `envelope`: `SignedEnvelope`, the signed, DID-addressed unit: v1, byte for
  byte, or v2, out of a signed batch.
- `frames`: v1's 4-byte length prefix. `FrameDecoder` is fed whatever the socket
  gave and returns whole frames; a frame is refused by its length, before its
  body is kept.
- `batch`: one signature over up to 256 envelopes, and the way from one to it.
- `leaf`: the proof of a DID inside a TLS certificate.
- `link_frames`: the frames of a v2 link.
- `session`: a v2 link as a state machine: bytes and instants in, events and
  bytes out.
- `evidence`: proofs of delivery, which anybody can check.
- `evidence_log`: accepted envelopes in a file in which each record holds the one before.

docs/protocol.md is the normative text of v2, docs/wire-v1.md of v1, docs/evidence.md of
the evidence log.
"""
