"""Sends messages to several peers with one signature, where links can take them now.

The messages wait in the queues of their peers, as all others do. Each link gives those that it
can take now: so order, credit and deadlines are as ever. What stays in a queue is signed alone
later, by `LinkOutput.pump`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.identity import Identity
from signedwire.transport.link import Link
from signedwire.types import Credit
from signedwire.wire.batch import MAX_BATCH
from signedwire.wire.copies import largest_overhead
from signedwire.wire.header import VOLATILE
from signedwire.wire.sent_batch import sign_copies

__all__ = ["send_copies"]

_MOST: Final = 16
"""Maximum number of messages for one link. More share a signature well enough alone."""


def send_copies(identity: Identity, links: Sequence[Link]) -> None:
    """Sign the next messages of the queues of several peers at once, and write them.

    Args:
        identity: The key of this node.
        links: The links of the peers, each once.
    """
    for start in range(0, len(links), MAX_BATCH):
        _send(identity, links[start : start + MAX_BATCH])


def _send(identity: Identity, links: Sequence[Link]) -> None:
    most = min(_MOST, MAX_BATCH // len(links))
    size = most * largest_overhead(most * len(links))
    taken = [(link.output, *share) for link in links if (share := _take(link, most, size))]
    if len(taken) == 1:
        ((output, stream, messages),) = taken
        output.send(stream, messages)
    elif taken:
        shares = [[message.body for message in messages] for _, _, messages in taken]
        signed = sign_copies(identity, shares)
        for (output, stream, messages), copies in zip(taken, signed, strict=True):
            output.send(stream, messages, copies)
    # Afterwards, because a write can end its link.
    for output, _, _ in taken:
        output.pump()


def _take(link: Link, most: int, size: int) -> tuple[int, list[OutgoingMessage]] | None:
    """Take at most `most` messages of one stream that the link can send, with `size` bytes more.

    Streams that are not above all batches under way are left alone.
    """
    state = link.state
    if not state.is_open or not link.output.writable_bytes:
        return None
    session, peer_session = state.session, state.peer_session
    assert session is not None
    assert peer_session is not None
    hello = session.their_hello
    assert hello is not None
    sender = peer_session.sender
    for stream in reversed(sender.lanes.waiting()):
        if stream % VOLATILE <= session.outgoing.top:
            break
        left = session.credit_left(stream)
        credit = Credit(min(left.messages, most), left.bytes - size)
        largest = hello.max_batch_bytes - size
        messages = sender.next_batch(stream, credit, hello.max_payload_size, largest)
        if messages:
            return stream, messages
    return None
