"""`Node` for programs without asyncio: the same node in a background thread.

    with Node(identity, config, routing) as node:
        node.send(did, b"hello")
        for message in node.messages():
            ...

A node of this module runs a `signedwire.Node` in the event loop of its own thread. Each
method calls the method of the same name there, and has its arguments, results and errors.
Any thread may call.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Self, TypeVar, overload

from signedwire import node as aio
from signedwire.arguments import (
    BytesLike,
    Deadline,
    PayloadTypeName,
    PriorityName,
    Until,
    as_seconds,
)
from signedwire.config import TransportConfig
from signedwire.delivery.access import AccessList
from signedwire.delivery.message import Message
from signedwire.delivery.outcomes import as_completed_blocking as as_completed
from signedwire.delivery.policy import Policy
from signedwire.delivery.receipt import Receipt
from signedwire.errors import ClosedError, WrongContextError
from signedwire.events import Event
from signedwire.home import Bound
from signedwire.identity import Identity
from signedwire.messaging.outcomes import Outcomes
from signedwire.messaging.silence import Silence, SilenceCallback, SilenceWatch
from signedwire.metrics import Sample
from signedwire.portal import Portal
from signedwire.routing import RoutingTable
from signedwire.stats import EvidenceHead, Health, PeerMap, PoolStats, Probe, TransportStats
from signedwire.sync_parts import DeadLetters, Outbox, Subscription
from signedwire.transport.network import Network
from signedwire.types import Did, PayloadType, Priority, Reason, Target

__all__ = ["DeadLetters", "Node", "Outbox", "Subscription", "as_completed"]

T = TypeVar("T")
H = TypeVar("H", bound=Callable[[Message], BytesLike | None])


class Node(Bound, instead="pass the path of its key file, and make another there"):
    """A blocking `signedwire.Node`. Any thread may call its methods.

    The constructor starts the node. Use the node as a context manager, or call `close()`.
    Ctrl-C ends a waiting call and leaves the node usable. For the arguments see
    `signedwire.Node`.

    Raises:
        ListenError: the node cannot listen on its address.
        StoreOpenError: the store cannot be used; nothing in it was changed.
    """

    def __init__(
        self,
        identity: Identity,
        config: TransportConfig | None = None,
        routing: RoutingTable | None = None,
        *,
        store: str | os.PathLike[str] | None = None,
        evidence: str | os.PathLike[str] | None = None,
        network: Network | None = None,
        policy: Policy | None = None,
    ) -> None:
        self._node = aio.Node(
            identity,
            config,
            routing,
            store=store,
            evidence=evidence,
            network=network,
            policy=policy,
        )
        self._portal = Portal(f"signedwire-{identity.did.short}")
        try:
            self._portal.call(self._node.start)
        except BaseException:
            self._portal.close()
            raise

    def close(self) -> None:
        """See `signedwire.Node.close`; the thread ends too."""
        try:
            self._portal.call(self._node.close)
        except WrongContextError:
            raise  # this is a forked child: the node lives on in its parent
        except ClosedError:
            pass  # it was closed before
        finally:
            self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._node._core.runtime.home.is_forked:  # a forked child leaves the block too
            self.close()

    @property
    def did(self) -> Did:
        """See `signedwire.Node.did`."""
        return self._node.did

    @property
    def address(self) -> Target:
        """See `signedwire.Node.address`."""
        return self._node.address

    @property
    def is_listening(self) -> bool:
        """See `signedwire.Node.is_listening`."""
        return self._node.is_listening

    @property
    def routing(self) -> RoutingTable:
        """See `signedwire.Node.routing`."""
        return self._node.routing

    @property
    def config(self) -> TransportConfig:
        """See `signedwire.Node.config`."""
        return self._node.config

    def send(
        self,
        to: Did | str,
        payload: BytesLike,
        *,
        priority: Priority | PriorityName | None = None,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        subject: str = "",
        durable: bool | None = None,
        latest: str | bool | None = None,
        deadline: Deadline = None,
        until: Until | None = None,
    ) -> Receipt:
        """See `signedwire.Node.send`."""
        return self._portal.call(
            lambda: self._node.send(
                to,
                payload,
                priority=priority,
                payload_type=payload_type,
                subject=subject,
                durable=durable,
                latest=latest,
                deadline=deadline,
                until=until,
            )
        )

    def send_nowait(
        self,
        to: Did | str,
        payload: BytesLike,
        *,
        priority: Priority | PriorityName | None = None,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        subject: str = "",
        durable: bool | None = None,
        latest: str | bool | None = None,
        deadline: Deadline = None,
    ) -> Receipt:
        """See `signedwire.Node.send_nowait`; `receipt.result()` waits for the outcome."""
        return self._node.send_nowait(
            to,
            payload,
            priority=priority,
            payload_type=payload_type,
            subject=subject,
            durable=durable,
            latest=latest,
            deadline=deadline,
        )

    def send_many(
        self,
        to: Did | str,
        payloads: Iterable[BytesLike],
        *,
        priority: Priority | PriorityName | None = None,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        subject: str = "",
        durable: bool | None = None,
        deadline: Deadline = None,
        until: Until | None = None,
    ) -> list[Receipt]:
        """See `signedwire.Node.send_many`. The node's thread iterates over `payloads`."""
        return self._portal.call(
            lambda: self._node.send_many(
                to,
                payloads,
                priority=priority,
                payload_type=payload_type,
                subject=subject,
                durable=durable,
                deadline=deadline,
                until=until,
            )
        )

    def receive(self, timeout: float | None = None) -> Message:
        """See `signedwire.Node.receive`. Ctrl-C loses no message."""
        # Not through the portal: an interrupt could lose a message that the loop has just taken.
        return self._node._core.reader.wait(as_seconds(timeout))

    def receive_nowait(self) -> Message | None:
        """See `signedwire.Node.receive_nowait`."""
        return self._node.receive_nowait()

    def messages(self) -> Iterator[Message]:
        """See `signedwire.Node.messages`."""
        while True:
            try:
                message = self.receive()
            except WrongContextError:
                raise
            except ClosedError:
                return
            yield message

    # -- requests -------------------------------------------------------------------

    def request(
        self,
        to: Did | str,
        payload: BytesLike = b"",
        *,
        subject: str = "",
        timeout: float | None = None,
        priority: Priority | PriorityName | None = None,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        durable: bool | None = None,
    ) -> Message:
        """See `signedwire.Node.request`."""
        return self._portal.call(
            lambda: self._node.request(
                to,
                payload,
                subject=subject,
                timeout=timeout,
                priority=priority,
                payload_type=payload_type,
                durable=durable,
            )
        )

    @overload
    def serve(self, subject: str, *, limit: int = 16) -> Callable[[H], H]: ...

    @overload
    def serve(self, subject: str, handler: H, *, limit: int = 16) -> H: ...

    def serve(
        self, subject: str, handler: H | None = None, *, limit: int = 16
    ) -> H | Callable[[H], H]:
        """See `signedwire.Node.serve`. The handler is a plain function, called in a thread.

        A handler that is not done at the deadline goes on, and its result is not used.
        """

        def register(function: H) -> H:
            threads = self._portal.new_threads("handler", limit)

            async def handle(message: Message) -> BytesLike | None:
                return await threads.call(function, message)

            async def serve() -> None:
                self._node.serve(subject, handle, limit=limit)

            if not callable(function):
                raise TypeError(f"a handler is a function, not {type(function).__name__}")
            self._portal.call(serve)
            return function

        return register if handler is None else register(handler)

    # -- topics ---------------------------------------------------------------------

    def subscribe(
        self, did: Did | str, subject: str, *, latest: bool = False, timeout: float | None = None
    ) -> Subscription:
        """See `signedwire.Node.subscribe`; this waits until the publisher has accepted."""
        return Subscription(
            self._node.subscribe(did, subject, latest=latest, timeout=timeout), self._portal
        )

    def publish(
        self,
        subject: str,
        payload: BytesLike,
        *,
        priority: Priority | PriorityName | None = None,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        durable: bool | None = None,
        latest: str | bool | None = None,
        deadline: Deadline = None,
        until: Until | None = None,
        timeout: float | None = None,
        keep: bool = False,
    ) -> Outcomes:
        """See `signedwire.Node.publish`; `outcomes.result()` waits for the copies."""
        return self._portal.call(
            lambda: self._node.publish(
                subject,
                payload,
                priority=priority,
                payload_type=payload_type,
                durable=durable,
                latest=latest,
                deadline=deadline,
                until=until,
                timeout=timeout,
                keep=keep,
            )
        )

    def send_all(
        self,
        to: Iterable[Did | str],
        payload: BytesLike,
        *,
        priority: Priority | PriorityName | None = None,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        subject: str = "",
        durable: bool | None = None,
        latest: str | bool | None = None,
        deadline: Deadline = None,
        until: Until | None = None,
    ) -> Outcomes:
        """See `signedwire.Node.send_all`. The node's thread iterates over `to`."""
        return self._portal.call(
            lambda: self._node.send_all(
                to,
                payload,
                priority=priority,
                payload_type=payload_type,
                subject=subject,
                durable=durable,
                latest=latest,
                deadline=deadline,
                until=until,
            )
        )

    def mirror(
        self, message: Message, subject: str | None = None, *, durable: bool | None = None
    ) -> Outcomes:
        """See `signedwire.Node.mirror`."""
        return self._portal.call(lambda: self._node.mirror(message, subject, durable=durable))

    # -- silence --------------------------------------------------------------------

    @overload
    def on_silence(
        self, did: Did | str, after: float, callback: SilenceCallback
    ) -> SilenceWatch: ...

    @overload
    def on_silence(
        self, did: Did | str, after: float, callback: None = None
    ) -> Callable[[SilenceCallback], SilenceWatch]: ...

    def on_silence(
        self,
        did: Did | str,
        after: float,
        callback: SilenceCallback | None = None,
    ) -> SilenceWatch | Callable[[SilenceCallback], SilenceWatch]:
        """See `signedwire.Node.on_silence`. The callback runs in a thread for this watch."""
        if callback is None:
            return partial(self._watch, did, after)
        return self._watch(did, after, callback)

    def _watch(self, did: Did | str, after: float, callback: SilenceCallback) -> SilenceWatch:
        if not callable(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("the callback of a sync.Node is a plain function that takes a Silence")

        threads = self._portal.new_threads("silence", 1)

        async def call(silence: Silence) -> None:
            await threads.call(callback, silence)

        async def watch() -> SilenceWatch:
            return self._node.on_silence(did, after, call)

        return self._portal.call(watch)

    def age(self, message: Message) -> float | None:
        """See `signedwire.Node.age`."""
        return self._node.age(message)

    def check_within(self, message: Message, limit: float) -> Reason | None:
        """See `signedwire.Node.check_within`."""
        return self._node.check_within(message, limit)

    @property
    def outbox(self) -> Outbox:
        """See `signedwire.Node.outbox`."""
        return Outbox(self._node.outbox, self._portal)

    @property
    def dead(self) -> DeadLetters:
        """See `signedwire.Node.dead`."""
        return DeadLetters(self._node.dead, self._portal)

    def stats(self) -> TransportStats:
        """See `signedwire.Node.stats`."""
        return self._node.stats()

    def metrics(self) -> list[Sample]:
        """See `signedwire.Node.metrics`."""
        return self._node.metrics()

    def evidence_head(self) -> EvidenceHead:
        """See `signedwire.Node.evidence_head`."""
        return self._node.evidence_head()

    def rotate_evidence(self, archive: str | os.PathLike[str] | None = None) -> EvidenceHead:
        """See `signedwire.Node.rotate_evidence`."""
        return self._portal.call(lambda: self._node.rotate_evidence(archive))

    def health(self) -> Health:
        """See `signedwire.Node.health`."""
        return self._node.health()

    def pool_stats(self) -> PoolStats:
        """See `signedwire.Node.pool_stats`."""
        return self._node.pool_stats()

    def peers(self) -> PeerMap:
        """See `signedwire.Node.peers`."""
        return self._node.peers()

    def name_of(self, did: Did | str) -> str | None:
        """See `signedwire.Node.name_of`."""
        return self._node.name_of(did)

    def probe(
        self,
        to: Did | str,
        address: Target | str | None = None,
        *,
        timeout: float | None = None,
        as_stranger: bool = False,
    ) -> Probe:
        """See `signedwire.Node.probe`."""
        return self._portal.call(
            lambda: self._node.probe(to, address, timeout=timeout, as_stranger=as_stranger)
        )

    def probes(
        self,
        to: Did | str,
        address: Target | str | None = None,
        *,
        interval: float = 1.0,
        as_stranger: bool = False,
    ) -> Generator[Probe]:
        """See `signedwire.Node.probes`. Leaving the iteration closes the connection."""
        found = self._node.probes(to, address, interval=interval, as_stranger=as_stranger)
        try:
            while (probe := self._portal.call(lambda: _next(found))) is not None:
                yield probe
        finally:
            with contextlib.suppress(ClosedError):
                self._portal.call(lambda: _close(found))

    def events(self) -> Iterator[Event]:
        """See `signedwire.Node.events`."""
        return self._follow(self._node.events())

    def _follow(self, events: AsyncIterator[Event]) -> Iterator[Event]:
        while True:
            try:
                event = self._portal.call(lambda: _next(events))
            except WrongContextError:
                raise
            except ClosedError:
                return
            if event is None:
                return
            yield event

    @property
    def access(self) -> AccessList:
        """See `signedwire.Node.access`."""
        return self._node.access

    def __repr__(self) -> str:
        return repr(self._node)


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


async def _close(items: AsyncGenerator[T]) -> None:
    await items.aclose()
