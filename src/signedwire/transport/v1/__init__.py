"""The v1 wire, for live peers that speak nothing else.

- `sender`: dials an address and writes envelopes. `connection`: its connection, which asks the
  kernel which envelopes arrived.
- `receiver`: reads an accepted connection. `frame_queue`: its frames that wait for their check.
  `frame_timer`: the deadline of a frame that is not complete. `validator`: checks the envelopes.
  `intake`: the part that all receivers of a node share.
- `wire`: the interface of this package to the rest of the node.

A node works without this package, as long as its configuration names no v1 peers.

On a v1 connection the accepting side never writes. So the dialer watches for the close by the
peer, and asks the kernel for it once more before each write.
"""

from signedwire.transport.v1.wire import V1Wire

__all__ = ["V1Wire"]
