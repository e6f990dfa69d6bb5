"""Requests: a message that waits for its reply, with an error that tells why there is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from signedwire.arguments import BytesLike, as_bytes
from signedwire.clock import WallInstant
from signedwire.delivery.message import IncomingMessage, Message
from signedwire.delivery.open_requests import OpenRequests
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import Receipt, future_waker
from signedwire.errors import (
    ClosedError,
    DeliveryFailedError,
    MessageExpiredError,
    NoReplyError,
)
from signedwire.sending import Sending
from signedwire.transport.core import NodeCore
from signedwire.types import DeliveryState, Kind, PayloadType, Reason

__all__ = ["Requests"]

_IN_TIME: Final = 0.9
"""Part of the timeout before which a request has not expired by our own clock."""
_NOBODY_WAITS: Final = "no request of this node waits for this reply"


class Requests:
    """Sends the requests of one node and returns their replies, and sends the replies of this node.

    Args:
        core: The parts of the node.
        sending: Queues the messages.
    """

    def __init__(self, core: NodeCore, sending: Sending) -> None:
        self._core = core
        self._sending = sending
        self._open: OpenRequests = core.context.requests
        core.context.consumers.set(Kind.REPLY, self._on_reply)
        core.context.reply = self.reply

    # -- asking ---------------------------------------------------------------------------

    async def ask(self, message: OutgoingMessage, timeout: float) -> Message:
        """Send a request, and return its reply. In the node's loop. Cancelling stops the wait.

        Args:
            message: The request, whose deadline is that of the reply.
            timeout: Seconds to wait.

        Raises:
            NoReplyError: `timeout` seconds passed first.
            MessageRefusedError, DeliveryFailedError, UnknownPeerError, NotAllowedError,
                PayloadTooLargeError, BackpressureError, ClosedError: there will be no reply.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        wake = future_waker(loop, ended)
        request = self._open.open(message, wake)
        look = _waker_at_end(message, wake)
        message.add_callback(look)
        timer = loop.call_later(timeout, wake)
        began = loop.time()
        try:
            with contextlib.suppress(MessageExpiredError):  # there was no room in the queue
                await self._sending.send(message, DeliveryState.QUEUED)
            look()
            await ended
        finally:
            timer.cancel()
            message.remove_callback(look)
            self._open.close(request)
        if request.reply is not None:
            return request.reply
        _raise_if_over(message)
        raise _no_reply(message, timeout, loop.time() - began)

    def _on_reply(self, message: IncomingMessage) -> bool:
        """Consume a reply. One that nobody waits for is refused."""
        if not self._core.reader.hand_out(message):
            return True
        if self._open.answer(message.sender, message.reply_to, message):
            if message.durable:
                message.ack()
        else:
            self._core.runtime.drop(Reason.NO_REQUEST, message.sender)
            message.nack(Reason.REFUSED, _NOBODY_WAITS)
        return True

    # -- replying -------------------------------------------------------------------------

    def new_reply(
        self, request: IncomingMessage, payload: BytesLike, payload_type: PayloadType
    ) -> OutgoingMessage:
        """Make the reply to a request, with the same deadline. Any thread.

        A reply to a stranger is volatile: strangers must not fill the disk.
        """
        due_us = request.expires_at_us
        (message,) = self._sending.messages(
            request.sender,
            request.priority,
            payload_type,
            None if due_us is None else WallInstant(due_us / 1e6),
            (as_bytes(payload),),
            subject=request.subject,
            kind=Kind.REPLY,
            reply_to=request.leaf,
            is_durable=request.durable and request.sender in self._core.context.known,
        )
        return message

    def reply(
        self, request: IncomingMessage, payload: BytesLike, payload_type: PayloadType
    ) -> Receipt:
        """Queue the reply to a request. Any thread; see `Message.reply()`."""
        message = self.new_reply(request, payload, payload_type)
        is_in_loop = self._core.runtime.is_in_loop
        self._core.endpoint.submitter.check_stranger(message.recipient, message.payload_size)
        submit = self._core.endpoint.submitter.submit
        submit(message, message.payload_size, is_in_loop=is_in_loop)
        return message


def _waker_at_end(message: OutgoingMessage, wake: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls `wake` if the message will get no reply any more."""

    def look() -> None:
        if message.state is DeliveryState.HANDLED:
            return  # this answer may overtake the reply, or the reply comes later
        is_v1 = message.is_unconfirmed
        if is_v1 or message.is_final or message.is_detached or message.reason is not None:
            wake()

    return look


def _raise_if_over(message: OutgoingMessage) -> None:
    """Raise if the request ended before its time, and not only because v1 has no replies."""
    if message.is_unconfirmed or message.reason in (Reason.EXPIRED, Reason.ATTEMPTS_EXHAUSTED):
        return
    message.raise_if_failed()
    if message.reason is Reason.CLOSED:
        raise ClosedError(f"the node was closed before {message.recipient} replied")
    if message.reason is not None:
        raise DeliveryFailedError(
            message,
            Reason.UNKNOWN_OUTCOME,
            f"{message.recipient} accepted request {message.message_id[:8]}, but {message.detail}",
            "It may have been handled: find out, or ask again if that does no harm",
        )


def _no_reply(message: OutgoingMessage, timeout: float, waited: float) -> NoReplyError:
    """Return the error of a request without a reply, with how far the request has come."""
    did, name = message.recipient, f"request {message.message_id[:8]}"
    in_time = f"within {timeout:g} s"
    if message.reason is Reason.ATTEMPTS_EXHAUSTED:
        in_time = "after several attempts"
    if message.state is DeliveryState.EXPIRED and waited < _IN_TIME * timeout:
        state = DeliveryState.WRITTEN
        fact = f"{did} refused {name} as too late"
        fact += f" ({message.detail})" if message.detail else ""
        hint = "Look at the clocks of both machines: node.peers() has their difference"
    elif message.is_unconfirmed:
        state = DeliveryState.WRITTEN
        fact = f"{did} speaks v1, which has no replies; {name} was written as a plain message"
        hint = "Use send(), or have the peer speak v2"
    elif message.has_reached(DeliveryState.HANDLED):
        state = DeliveryState.HANDLED
        fact = f"{did} handled {name}, and sent no reply {in_time}"
        hint = "Its application called ack() on the request, not reply()"
    elif message.has_reached(DeliveryState.ACCEPTED):
        state = DeliveryState.ACCEPTED
        fact = f"{did} accepted {name}, and did not reply {in_time}"
        hint = "It may still work on it: give it more time with timeout=…"
    elif message.was_written:
        state = DeliveryState.WRITTEN
        fact = f"{name} was written to {did}, and no answer came {in_time}"
        hint = "The peer may have it. Look at node.peers(): the link may be dead"
    else:
        state = DeliveryState.QUEUED
        cause = f" ({message.detail})" if message.detail else ""
        fact = f"{did} was not reached {in_time}{cause}; {name} was not sent"
        hint = "Is the peer running, and is its address right? Look at node.peers()"
    return NoReplyError(message, state, fact, hint)
