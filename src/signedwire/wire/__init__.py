"""The wire: bytes in, envelopes out, and back, without any I/O.

Nothing in this folder opens a socket, reads a clock, draws a random number or
starts a thread. Bytes and instants are arguments, so that a test of any case only
calls a function. (There is one exception: `SignedEnvelope.sign()` without a
timestamp takes the present time.)

- `envelope`: `SignedEnvelope`, the signed, DID-addressed unit: v1, byte for
  byte, or v2, from a signed batch.
- `header`: the layout of the header, and functions that read and write its fields.
- `frames`: v1's 4-byte length prefix. `FrameDecoder` takes the bytes of a socket
  and returns whole frames. It checks the length of a frame before it buffers the body.
- `batch`: one signature over up to 256 envelopes, and the Merkle path from an
  envelope to the signed root.
- `did_proof`: the name in a TLS certificate that proves a DID.
- `link_frames`: the frames of a v2 link. `parts`: how a batch is cut into them, and
  assembled again. `copies`: what stands there for envelopes to several recipients under one
  signature. `sent_batch`: what a sender keeps of a batch or of copies. `malformed`: the errors
  for malformed bytes of a peer.
- `session`: a v2 link as a state machine: bytes and instants in, events and
  bytes out. `session_events`: its events. `session_limits`: its timeouts. `idle`: its
  limit on frames that carry nothing new. `pings`: PING and PONG. `clock_offset`: how far
  the clock of the peer is from ours. `granted_credit`: what the peer may send.
  `read_reports`: when READ is sent. `send_window`: how many bytes of batches may be under way,
  by the rate and the round trip of the path. `receipt_signer`: makes RECEIPT frames.
  `batch_signer`: signs batches. `peer_signatures`: verifies what the peer has signed.
- `joint`: one signature for a receipt and a batch that leave together.
- `receipt_proof`: an envelope with its recipient's receipt, which anybody can check.
- `large`: envelopes and receipt proofs that are checked without being held in memory.

docs/protocol.md is the normative text of v2, docs/wire-v1.md of v1.
"""
