"""The events of the session of a link: what each means for the peer, the link and the node.

A peer that has broken a rule is disconnected. The batches that it sent before that are stored and
answered first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from signedwire.delivery.endpoint import Endpoint
from signedwire.transport.link_output import LinkOutput
from signedwire.transport.link_ports import EventPort
from signedwire.transport.link_state import LinkState
from signedwire.transport.runtime import Runtime
from signedwire.types import unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.session import (
    BatchFailed,
    BatchReceived,
    Closed,
    Event,
    HelloReceived,
    ReceiptsReceived,
    RoomReceived,
    Session,
    StallNoticed,
)

__all__ = ["LinkEvents"]

_MAX_SETTLING: Final = 1.0
"""Seconds that the end of a session waits for batches that are being stored."""


class LinkEvents:
    """Handles the events of one link, and counts received batches that are not answered yet.

    Args:
        runtime: The surroundings of all parts of the node.
        endpoint: The sessions of all peers.
        state: The state of the link.
        output: The sending side of the link.
        on_batch: Called for each batch that is received.
    """

    __slots__ = (
        "_closed",
        "_endpoint",
        "_on_batch",
        "_output",
        "_runtime",
        "_state",
        "_unsettled",
    )

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        state: LinkState,
        output: LinkOutput,
        on_batch: Callable[[], None] | None,
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._state = state
        self._output = output
        self._on_batch = on_batch
        self._unsettled = 0
        self._closed: Closed | None = None  # the end of the session, which waits for batches

    def handle(self, link: EventPort, session: Session, event: Event) -> None:
        """Handle one event of the session.

        Args:
            link: The link. It is no field, or the garbage collector alone could free it.
            session: The session.
            event: The event.
        """
        state, endpoint, output = self._state, self._endpoint, self._output
        peer_session = state.peer_session
        assert peer_session is not None
        match event:
            case BatchReceived():
                if self._on_batch is not None:
                    self._on_batch()
                if self._runtime.is_open:  # or the sender keeps it, and sends it again
                    self._unsettled += 1
                    output.gather()  # until `finish_turn()`
                    peer_session.receiver.receive(event, unix_time_us(), link)
            case ReceiptsReceived(receipts):
                state.has_progress |= endpoint.on_receipts(peer_session, receipts)
                output.pump_soon()
            case RoomReceived():
                output.pump_soon()
            case HelloReceived(hello):
                link.on_hello(peer_session, hello)
            case BatchFailed():
                # TLS has protected it, so the peer itself sent it: a second check of each
                # message, for 45 µs, would show nothing else.
                output.sign_receipts()
                session.send_refusals(peer_session.receiver.failed(event), unix_time_us())
                session.close(frames.CLOSE_BAD_SIGNATURE, "a batch that you did not sign")
            case StallNoticed(seconds):
                self._runtime.note_stall(seconds)
            case Closed():
                self._on_closed(link, event)

    def settle(self) -> Closed | None:
        """Count a batch as answered; return the end that waited for it, if it was the last."""
        self._unsettled -= 1
        return None if self._unsettled else self._closed

    def _on_closed(self, link: EventPort, closed: Closed) -> None:
        if closed.reason is not None:
            self._runtime.drop(closed.reason, self._state.did)
        if self._unsettled and closed.reason is not None and not closed.is_by_peer:
            self._closed = closed
            self._output.is_held = True
            asyncio.get_running_loop().call_later(_MAX_SETTLING, link.end_session, closed)
        else:
            link.end_session(closed)
