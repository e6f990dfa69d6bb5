"""The v1 wire, for live peers that speak nothing else.

    V1Sender    dials an address and writes envelopes; the kernel tells what arrived
    V1Receiver  reads an accepted connection; `V1Validator` checks what it brings
    V1Intake    what all receivers of a node share

v1 connections carry one direction: the accepting side never writes. So their dialer
watches for the peer's close, which is the only thing that can arrive, and asks the
kernel once more right before each write.
"""

from signedwire.transport.v1.intake import V1Intake
from signedwire.transport.v1.receiver import V1Receiver
from signedwire.transport.v1.sender import V1Sender

__all__ = ["V1Intake", "V1Receiver", "V1Sender"]
