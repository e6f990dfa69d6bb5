"""How a node sends: messages made of what was passed, queued with patience, waited for."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from signedwire import clock
from signedwire.arguments import (
    BytesLike,
    PayloadTypeName,
    PriorityName,
    Until,
    as_bytes,
    next_chunk,
    payload_type_of,
    priority_of,
)
from signedwire.delivery.message import OutgoingMessage, SendOptions
from signedwire.delivery.peer_sender import PeerSender
from signedwire.delivery.receipt import Receipt, future_waker, state_to_wait_for
from signedwire.errors import (
    BackpressureError,
    DeliveryFailedError,
    SignedWireError,
    StoreFailedError,
    StoreFullError,
)
from signedwire.transport.core import NodeCore
from signedwire.types import DeliveryState, Did, PayloadType, Priority, Reason

__all__ = ["Sending", "wait_for_room"]

_LONGEST_PAUSE: Final = 1.0


class Sending:
    """Makes the messages of a node, queues them and waits for them. In its event loop.

    `messages()` may be called from any thread.
    """

    def __init__(self, core: NodeCore, *, has_store: bool) -> None:
        self._core = core
        self._endpoint = core.endpoint
        self._has_store = has_store
        self._sequence = itertools.count(1)

    async def send(
        self, message: OutgoingMessage, level: DeliveryState, replaces: Sequence[int] = ()
    ) -> Receipt:
        """Queue one message, and wait until it has come as far as `level`."""
        while True:
            try:
                self._endpoint.submit(
                    message, message.payload_size, is_patient=True, replaces=replaces
                )
                break
            except StoreFullError:
                raise
            except BackpressureError:
                await self._wait_for_room(message)
        if level is not DeliveryState.QUEUED:
            await self._wait(message, level)
        return message

    async def queue_many(
        self,
        did: Did,
        source: Iterator[BytesLike],
        make: Callable[[list[BytesLike]], list[OutgoingMessage]],
        receipts: list[Receipt],
    ) -> None:
        """Queue what `source` gives, a batch at a time; `receipts` grows by them."""
        while True:
            try:
                chunk = next_chunk(source)
            except TypeError as error:
                error.add_note(f"{len(receipts)} messages before it were queued and are sent")
                raise
            if not chunk:
                return
            messages = make(chunk)
            self._endpoint.check_size(did, max(map(len, chunk)))
            while messages:
                try:
                    count = self._endpoint.submit_many(messages)
                    receipts += messages[:count]
                    del messages[:count]
                except StoreFullError:
                    raise
                except BackpressureError:
                    await self._wait_for_room(messages[0])
            # Let the link take them while the next ones are made.
            await asyncio.sleep(0)

    async def wait_for_all(self, receipts: list[Receipt], level: DeliveryState) -> None:
        """Wait for each; then raise what the first that failed did."""
        first: SignedWireError | None = None
        for receipt in receipts:
            # Mostly it stands right there: what lies above or beside is asked for then.
            if receipt.state is not level and not receipt.has_reached(level):
                try:
                    await self._wait(receipt, level)
                except SignedWireError as error:
                    first = first or error
        if first is not None:
            raise first

    async def _wait(self, receipt: Receipt, level: DeliveryState) -> None:
        try:
            await receipt.wait(level)
        except DeliveryFailedError as error:
            if self._has_store and error.reason is Reason.QUEUE_FULL:
                raise StoreFullError(error.recipient, error.reason, error.fact) from error
            failure = self._endpoint.context.store.failure
            if error.reason is not Reason.STORE_FAILED or not isinstance(failure, StoreFailedError):
                raise
            # A new one: that of the store is one for all.
            fate = f"whether message #{receipt.message_number} to {receipt.recipient} is in it"
            raise StoreFailedError(
                failure.path, failure.cause, f"{fate} is not known", failure.hint
            ) from error

    def level(self, until: Until | None) -> DeliveryState:
        """How far to wait. Raises what `state_to_wait_for()` does."""
        return state_to_wait_for(until, has_store=self._has_store)

    def messages(
        self,
        did: Did,
        priority: Priority | PriorityName,
        payload_type: PayloadType | PayloadTypeName,
        expires_at: float | None,
        payloads: Iterable[BytesLike],
        *,
        is_bulk: bool = False,
    ) -> list[OutgoingMessage]:
        """A message of each payload. Raises TypeError or ValueError for what is none."""
        terms = SendOptions(
            did,
            priority_of(priority),
            expires_at,
            payload_type_of(payload_type),
            is_bulk=is_bulk,
        )
        terms.home, terms.has_store = self._core.runtime.home, self._has_store
        return [
            OutgoingMessage(terms, number, payload if type(payload) is bytes else as_bytes(payload))
            for payload, number in zip(payloads, self._sequence, strict=False)
        ]

    async def _wait_for_room(self, message: OutgoingMessage) -> None:
        """Until the queue has room; the deadline goes on meanwhile."""
        pause = None
        while True:
            if message.expires_at is not None:
                # Not longer: a clock may be set.
                pause = min(clock.left(message.expires_at), _LONGEST_PAUSE)
                if pause <= 0:
                    cause = "the queue to the peer was full"
                    self._sender(message).give_up(message, Reason.EXPIRED, cause)
                    message.raise_if_failed()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wait_for_room(self._core, message.recipient, message.priority)
                return

    def _sender(self, message: OutgoingMessage) -> PeerSender:
        return self._endpoint.peers.session(message.recipient).sender


async def wait_for_room(core: NodeCore, did: Did, priority: int) -> None:
    """Wait until a message of this priority can be queued for a peer, or the node is closed.

    In the loop of the node. Cancelling leaves nothing behind.
    """
    loop = asyncio.get_running_loop()
    store, sender = core.context.store, core.endpoint.peers.session(did).sender
    while core.runtime.is_open and not store.has_room(sender, priority):
        room = loop.create_future()
        wake = future_waker(loop, room)
        if not store.when_room(sender, wake):
            return
        try:
            await room
        finally:
            store.forget_room(sender, wake)
