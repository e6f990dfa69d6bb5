"""`Sending`: makes messages of arguments, queues them, and waits for their receipts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from signedwire import clock
from signedwire.arguments import (
    BytesLike,
    Deadline,
    PayloadTypeName,
    PriorityName,
    Until,
    as_bytes,
    as_flag,
    as_latest,
    as_subject,
    due_at,
    next_chunk,
    payload_type_of,
    priority_of,
    shown,
)
from signedwire.delivery.message_restorer import copy_of
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.peer_sender import PeerSender
from signedwire.delivery.receipt import Receipt, future_waker, state_to_wait_for
from signedwire.delivery.send_options import SendOptions, new_ids
from signedwire.delivery.store import DeadLetter
from signedwire.errors import (
    BackpressureError,
    DeliveryFailedError,
    SignedWireError,
    StoreFailedError,
    StoreFullError,
)
from signedwire.subject_options import SubjectOptions
from signedwire.transport.core import NodeCore
from signedwire.types import DeliveryState, Did, Kind, PayloadType, Priority, Reason

__all__ = ["Choice", "Sending", "wait_for_room"]

Maker: TypeAlias = Callable[[list[BytesLike]], list[OutgoingMessage]]
"""Function that makes a message of each payload."""
_LONGEST_PAUSE: Final = 1.0
"""Longest wait in seconds before the deadline is compared with the clock again."""


_NO_DEFAULTS: Final = SubjectOptions()


class Choice(NamedTuple):
    """The options of a message that its subject may set."""

    priority: Priority
    is_durable: bool
    expires_at: float | None
    """The deadline, by the clock that it follows; `None`: none."""
    latest: bytes | None
    """The key of the messages that replace each other; `None`: it has none."""


class Sending:
    """Make the messages of a node, queue them, and wait for them. Call it in the node's loop.

    Any thread may call `messages()`.
    """

    def __init__(self, core: NodeCore, *, has_store: bool) -> None:
        self._core = core
        self._endpoint = core.endpoint
        self._has_store = has_store
        self._subjects = core.runtime.config.subjects

    async def send(
        self, message: OutgoingMessage, level: DeliveryState, replaces: Sequence[int] = ()
    ) -> Receipt:
        """Queue one message, waiting for room if necessary, and wait until it reaches `level`."""
        while True:
            try:
                self._endpoint.submitter.submit(
                    message,
                    message.payload_size,
                    is_patient=True,
                    replaces=replaces,
                    is_in_loop=True,
                )
                break
            except StoreFullError:
                raise
            except BackpressureError:
                await self._wait_for_room(message)
        if level is not DeliveryState.QUEUED:
            await self._wait(message, level)
        return message

    async def replace(self, letter: DeadLetter) -> Receipt:
        """Send the content of a dead letter, which is removed once the message is stored.

        Raises:
            StoreError: nobody waits for the letter any more; see `copy_of()`.
        """
        message = copy_of(letter)
        message.options.home = self._core.runtime.home
        return await self.send(message, DeliveryState.PERSISTED, replaces=(letter.id,))

    async def send_many(
        self, did: Did, payloads: Iterable[BytesLike], make: Maker, level: DeliveryState
    ) -> list[Receipt]:
        """Queue the messages that `make` returns for the payloads; wait until all reach `level`.

        Returns the receipts in the order of `payloads`. The error of the first message that
        failed is raised, with the receipts of all queued messages in `receipts`.
        """
        receipts: list[Receipt] = []
        try:
            await self._queue_many(did, iter(payloads), make, receipts)
            await self._wait_for_all(receipts, level)
        except SignedWireError as error:
            own = error
            if isinstance(error, StoreFailedError):  # one object is raised to all callers
                fate = f"{len(receipts)} messages were queued before"
                own = StoreFailedError(error.path, error.cause, fate, error.hint)
            own.receipts = tuple(receipts)
            raise own from error.__cause__
        return receipts

    async def _queue_many(
        self,
        did: Did,
        source: Iterator[BytesLike],
        make: Maker,
        receipts: list[Receipt],
    ) -> None:
        """Queue the payloads of `source` in batches; add the receipts to `receipts`."""
        while True:
            try:
                chunk = next_chunk(source)
            except TypeError as error:
                error.add_note(f"{len(receipts)} messages before it were queued and are sent")
                raise
            if not chunk:
                return
            messages = make(chunk)
            self._endpoint.submitter.check_size(did, max(map(len, chunk)))
            while messages:
                try:
                    count = self._endpoint.submitter.submit_many(messages)
                    receipts += messages[:count]
                    del messages[:count]
                except StoreFullError:
                    raise
                except BackpressureError:
                    await self._wait_for_room(messages[0])
            # The link sends these while the next ones are made.
            await asyncio.sleep(0)

    async def _wait_for_all(self, receipts: list[Receipt], level: DeliveryState) -> None:
        """Wait for each receipt; then raise the error of the first message that failed."""
        first: SignedWireError | None = None
        for receipt in receipts:
            # Most receipts are at `level` itself: that comparison is cheaper than a call.
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
            # A new error, because the one of the store is raised to all callers.
            fate = f"whether message {receipt.message_id[:8]} to {receipt.recipient} is in it"
            raise StoreFailedError(
                failure.path, failure.cause, f"{fate} is not known", failure.hint
            ) from error

    def level(self, until: Until | None, *, is_durable: bool = True) -> DeliveryState:
        """Return the state to wait for. Errors are those of `state_to_wait_for()`."""
        return state_to_wait_for(until, has_store=self._has_store and is_durable)

    def choose(
        self,
        subject: str,
        priority: Priority | PriorityName | None,
        durable: bool | None,
        deadline: Deadline,
        latest: str | bool | None = None,
        *,
        is_durable: bool = True,
    ) -> Choice:
        """Return the options of a message: the arguments of the call, else those of its subject.

        `is_durable` counts if neither of them says whether stores keep it.

        Raises:
            TypeError, ValueError: an argument cannot be used, or two contradict each other.
        """
        defaults = self._subjects.get(subject, _NO_DEFAULTS) if self._subjects else _NO_DEFAULTS
        if priority is None:
            priority = Priority.NORMAL if defaults.priority is None else defaults.priority
        if latest is None and durable is not True:
            latest = defaults.latest
        key = as_latest(latest)
        if durable is None:
            durable = defaults.durable
        if durable is None:
            durable = is_durable and key is None
        if key is not None and durable:
            raise ValueError(
                f"latest={shown(latest)} contradicts durable=True, because a stored message is "
                "never replaced; write durable=False too, or leave latest out"
            )
        return Choice(
            priority_of(priority),
            durable,
            due_at(defaults.deadline if deadline is None else deadline),
            key,
        )

    def messages(
        self,
        did: Did,
        priority: Priority | PriorityName,
        payload_type: PayloadType | PayloadTypeName,
        expires_at: float | None,
        payloads: Sequence[BytesLike],
        *,
        subject: str = "",
        kind: Kind = Kind.MESSAGE,
        reply_to: bytes = b"",
        is_bulk: bool = False,
        is_durable: bool = True,
        latest: bytes | None = None,
        queued_at_us: int | None = None,
    ) -> list[OutgoingMessage]:
        """Return a message for each payload.

        Raises:
            TypeError, ValueError: an argument cannot be used.
        """
        options = SendOptions(
            did,
            priority_of(priority),
            expires_at,
            payload_type_of(payload_type),
            subject=as_subject(subject),
            kind=kind,
            reply_to=reply_to,
            is_bulk=is_bulk,
            is_durable=as_flag(is_durable, "durable"),
            latest=latest,
            queued_at_us=queued_at_us,
        )
        options.home = self._core.runtime.home
        options.has_store = self._has_store and is_durable
        return [
            OutgoingMessage(
                options, message_id, payload if type(payload) is bytes else as_bytes(payload)
            )
            for payload, message_id in zip(payloads, new_ids(len(payloads)), strict=True)
        ]

    async def _wait_for_room(self, message: OutgoingMessage) -> None:
        """Wait until the queue to the peer has room, or fail the message at its deadline."""
        pause = None
        while True:
            if message.expires_at is not None:
                # In short pauses, because the wall clock may be set meanwhile.
                pause = min(clock.left(message.expires_at), _LONGEST_PAUSE)
                if pause <= 0:
                    cause = "the queue to the peer was full"
                    self._sender(message).give_up(message, Reason.EXPIRED, cause)
                    message.raise_if_failed()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wait_for_room(self._core, message.options)
                return

    def _sender(self, message: OutgoingMessage) -> PeerSender:
        return self._endpoint.sessions.session(message.recipient).sender


async def wait_for_room(core: NodeCore, options: SendOptions) -> None:
    """Wait until a message with these options can be queued, or the node is closed.

    Call it in the node's event loop. It may be cancelled.
    """
    loop = asyncio.get_running_loop()
    sender = core.endpoint.sessions.session(options.recipient).sender
    store = core.context.store_of(is_durable=options.is_durable)
    while core.runtime.is_open and not store.has_room(sender, options.stream):
        room = loop.create_future()
        wake = future_waker(loop, room)
        if not store.when_room(sender, wake, is_durable=options.is_durable):
            return
        try:
            await room
        finally:
            store.forget_room(sender, wake)
