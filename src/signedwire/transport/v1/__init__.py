"""The v1 wire, for live peers that speak nothing else.

    V1Sender    dials an address and writes envelopes over a `V1Link`, which asks the kernel which
                of them arrived
    V1Receiver  reads an accepted connection; `V1Validator` checks the envelopes
    V1Intake    the part that all receivers of a node share
    V1Wire      the interface of this package to the rest of the node

A node works without this package, as long as its configuration names no v1 peers.

On a v1 connection the accepting side never writes. So the dialer watches for the close by the
peer, and asks the kernel for it once more before each write.
"""

from signedwire.transport.v1.wire import V1Wire

__all__ = ["V1Wire"]
