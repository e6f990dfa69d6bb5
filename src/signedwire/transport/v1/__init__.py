"""The v1 wire, for live peers that speak nothing else.

    V1Sender    dials an address and writes envelopes; the kernel tells what arrived
    V1Receiver  reads an accepted connection; `V1Validator` checks what it brings
    V1Intake    what all receivers of a node share
    V1Wire      what the rest of the node needs of this package

A node works without this package, as long as its configuration names no v1 peers.

v1 connections carry one direction: the accepting side never writes. So their dialer
watches for the peer's close, which is the only thing that can arrive, and asks the
kernel once more right before each write.
"""

from signedwire.transport.v1.wire import V1Wire

__all__ = ["V1Wire"]
