"""The wire: bytes in, envelopes out, and back, without any I/O.

Nothing in this folder opens a socket, reads a clock, draws a random number or
starts a thread: bytes and instants are arguments, so that every case can be
tested by calling a function. (One convenience for users: an envelope that is
signed without a timestamp takes the present one.)

- `envelope`: `SignedEnvelope`, the signed, DID-addressed unit. Its 106-byte
  header, payload and signature are the v1 format, byte for byte.
- `frames`: the 4-byte length prefix. `FrameDecoder` is fed whatever the socket
  gave and returns whole frames; a frame is refused by its length, before its
  body is kept.
"""
