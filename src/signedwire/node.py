"""`Node`: send signed messages to a key and receive them, in asyncio.

async with Node(identity, config, routing) as node:
    receipt = await node.send(did, b"hello")
    async for message in node.messages():
        ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Final, TypeVar, overload

from signedwire.arguments import (
    BytesLike,
    Deadline,
    PayloadTypeName,
    PriorityName,
    Until,
    as_count,
    as_seconds,
    as_subject,
    as_timeout,
    check_payloads,
)
from signedwire.delivery.message import Message
from signedwire.delivery.receipt import Receipt
from signedwire.home import Phase
from signedwire.messaging.handlers import Handler
from signedwire.messaging.outcomes import Outcomes
from signedwire.messaging.silence import SilenceCallback, SilenceWatch, limit_of
from signedwire.messaging.subscription import Subscription
from signedwire.messaging.within import age, check_within
from signedwire.node_state import NodeState
from signedwire.types import DeliveryState, Did, Kind, PayloadType, Priority, Reason

__all__ = ["Deadline", "Node"]

H = TypeVar("H", bound=Handler)
_REQUEST_TIMEOUT: Final = 10.0
"""Seconds that a request waits for its reply by default."""


class Node(NodeState, instead="pass the path of its key file, and make another there"):
    """A key that sends and receives messages. Use it as an async context manager.

    A node belongs to the event loop in which it was started: await its coroutines there. Any
    thread may call the other methods and properties. `signedwire.sync.Node` is the same for
    programs without asyncio.

    Args:
        identity: The key. It signs what the node sends, and the node accepts only messages
            that are addressed to its DID.
        config: The options; by default `TransportConfig()`, which listens on a free port of
            loopback and requires signatures.
        routing: The addresses of peers; by default an empty table. Several nodes may share a
            table, and it may change at any time.
        store: The file in which messages wait, so that a crash loses none. It is created if
            absent. By default the option `store` of `config`; without either, messages wait in
            memory.
        evidence: The file that keeps every accepted envelope with its signature. It is created if
            absent. By default the option `evidence` of `config`; without either, nothing is kept.
        network: The backend that carries the bytes: `TcpNetwork`, `UnixNetwork`,
            `MemoryNetwork`, or any object with the methods of `Network`. By default the option
            `network` of `config` selects one.
        policy: A rule about each received message, asked after the access list: see `Policy`.
            By default every message of an allowed sender is admitted.

    Raises:
        TypeError: an argument has the wrong type.
        ConfigError: `store` or `evidence` differs from the one in `config`.
    """

    # -- sending ------------------------------------------------------------------

    async def send(
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
        """Sign a message, send it, wait until it reaches the state `until`; return its receipt.

        If the queue to the peer is full, the call waits for room. Cancelling stops the waiting;
        a message that was queued is still sent. v1 peers never answer: with one of them, this
        returns when the message is written, and `receipt.is_confirmed` is false.

        Args:
            to: The peer: a `Did`, its text, or a name of the option `names`.
            payload: At most `max_payload_size` bytes; to a v1 peer, `max_v1_payload_size`.
            priority: The lane, as a `Priority` or its name in lower case; messages of a higher
                lane are sent first. By default that of the subject, else NORMAL.
            payload_type: The type that the peer's application sees, as a `PayloadType` or its
                name in lower case, such as "robot_command"; by default RAW.
            subject: What the message is about, for the peer's application: printable text in
                NFC, at most 255 bytes in UTF-8; by default empty. A v1 peer does not see it.
            durable: Whether stores keep the message: that of this node until it is accepted,
                and that of the peer until it is handled. By default that of the subject, else
                true, but false if `latest` is given. A volatile message waits for no disk on
                either side. It is lost if one of the two nodes ends first.
            latest: A key of 1 to 255 bytes in UTF-8; True means the empty key. The message takes
                the place of one that waits in the queue with the same recipient, subject,
                priority and key. The older message fails with `Reason.REPLACED`. A message that
                was written is not replaced. By default that of the subject, else none; False
                means none. `latest` needs a volatile message.
            deadline: When the message expires; by default that of the subject, else never. An
                expired message is neither sent nor given to the peer's application, and this
                raises. A number of seconds or a `timedelta`, more than 0 and up to 30 years,
                does not depend on the wall clock and includes time in suspension. A `datetime`
                with a time zone follows the wall clock.
            until: The state to wait for; by default "persisted" for a durable message of a node
                with a store, else "accepted".
                In "queued", the message waits in memory; in "persisted", it is on the disk. In
                "written", the operating system has it. In "accepted", the peer has verified it
                and signed a receipt. In "handled", the peer's application has called
                `message.ack()`.

        Raises:
            UnknownPeerError: no address is known; the message was not queued. With a store
                this is not raised: the message waits until an address is known.
            UnknownNameError, DidError: `to` is neither a known name nor a DID.
            NotAllowedError, PayloadTooLargeError: the message was not queued.
            MessageExpiredError: the deadline passed first.
            MessageRefusedError: the peer refused the message; `reason` has the cause.
            DeliveryFailedError: the message was given up; `reason` has the cause.
            StoreFullError: a limit of the store is reached; the message was not stored.
            StoreFailedError: the disk failed; whether the message was stored is unknown.
            ClosedError: the node is not started, or is closed.
            WrongContextError: the node belongs to another event loop or to a parent process.
        """
        self._check_here()
        choice = self._sending.choose(subject, priority, durable, deadline, latest)
        level = self._sending.level(until, is_durable=choice.is_durable)
        (message,) = self._sending.messages(
            self._did_of(to),
            choice.priority,
            payload_type,
            choice.expires_at,
            (payload,),
            subject=subject,
            is_durable=choice.is_durable,
            latest=choice.latest,
        )
        return await self._sending.send(message, level)

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
        """Queue a message and return at once; `receipt.wait()` waits for its states.

        Any thread may call this. The arguments are those of `send()`.

        Raises:
            BackpressureError: the queue to the peer is full; the message was not queued.
            UnknownPeerError, NotAllowedError, PayloadTooLargeError, StoreFullError,
                ClosedError, WrongContextError: see `send()`.
        """
        choice = self._sending.choose(subject, priority, durable, deadline, latest)
        (message,) = self._sending.messages(
            self._did_of(to),
            choice.priority,
            payload_type,
            choice.expires_at,
            (payload,),
            subject=subject,
            is_durable=choice.is_durable,
            latest=choice.latest,
        )
        self._core.endpoint.submitter.submit(message, message.payload_size)
        return message

    async def send_many(
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
        """Send many messages to one peer, and wait until all reach the state `until`.

        This is cheaper than as many calls of `send()`, because no receipt is followed beyond
        `until`. The call waits for room in the queue. Cancelling stops between two messages;
        messages that were queued are still sent. Returns the receipts, in the order of
        `payloads`.

        The peer accepts only `credit_messages` and `credit_bytes` (2 MiB) until its application
        takes some. Without a deadline, the call waits for that without limit.

        Args:
            to: The peer: a `Did`, its text, or a name of the option `names`.
            payloads: Any iterable; the node reads on as the queue gets room.
            priority, payload_type, subject, durable, deadline, until: as for `send()`, for all
                messages. The deadline counts from the call. The messages do not replace each
                other, whatever `latest` of the subject is.

        Raises:
            The error of the first message that failed, as `send()` raises it, once every
                message has reached `until` or failed. If a message could not be queued, its
                error is raised at once; those before it are still sent. `receipts` of the error
                has the receipts of all queued messages, in order.
        """
        self._check_here()
        # The deadline is read once, so queueing does not extend that of the later messages.
        choice = self._sending.choose(subject, priority, durable, deadline, False)
        level, did = self._sending.level(until, is_durable=choice.is_durable), self._did_of(to)
        check_payloads(payloads)
        options = (choice.priority, payload_type, choice.expires_at)
        is_bulk = level is not DeliveryState.HANDLED
        make = partial(
            self._sending.messages,
            did,
            *options,
            subject=subject,
            is_bulk=is_bulk,
            is_durable=choice.is_durable,
        )
        return await self._sending.send_many(did, payloads, make, level)

    # -- receiving ----------------------------------------------------------------

    async def receive(self, timeout: float | None = None) -> Message:
        """Wait for the next message. Higher priorities come first; senders take turns.

        Cancelling loses no message.

        Args:
            timeout: Seconds to wait, 0 or more; by default `None`, without limit.

        Raises:
            TimeoutError: no message came within `timeout` seconds.
            ValueError, TypeError: `timeout` is not a number of seconds, 0 or more.
            ClosedError: the node is not started, is closed, or was closed meanwhile.
            WrongContextError: the node belongs to another event loop or to a parent process.
        """
        self._check_here(is_open=False)
        return await self._core.reader.arrive(as_seconds(timeout))

    def receive_nowait(self) -> Message | None:
        """Return the next message if there is one, else `None`. Any thread may call this.

        Raises:
            ClosedError, WrongContextError: see `receive()`.
        """
        return self._core.reader.receive(0)

    def messages(self) -> AsyncIterator[Message]:
        """Yield each message as it comes, in the order of `receive()`, until `close()`.

        Cancelling loses no message. While messages wait, the event loop gets a turn after each
        2 ms that the caller has taken, so that the node goes on reading and answering.

        Raises:
            ClosedError: the node is not started.
            WrongContextError: see `receive()`.
        """
        return self._core.reader.messages()

    # -- requests -------------------------------------------------------------------

    async def request(
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
        """Send a request, wait for the reply, and return it.

        The peer answers with `message.reply()` or a handler of `serve()`. The reply names the
        request under its signature, and only one from the peer that was asked counts.
        Cancelling stops the wait; a request that was queued is still sent, and its reply is
        refused.

        Args:
            to: The DID of the peer, as a `Did` or its text.
            payload: At most `max_payload_size` bytes; by default empty.
            subject: What is asked, which selects the handler of the peer. See `send()`.
            timeout: Seconds for the request, its handler and the reply; more than 0, by
                default 10. The peer drops a request that comes later than that to its handler.
            priority, payload_type: See `send()`. The reply has the same priority.
            durable: Whether stores keep the request, and its reply if the peer has a route to this
                node; by default that of the subject, else no. See `send()`.
                If this process ends, no call waits for the reply any more.

        Raises:
            NoReplyError: no reply came within `timeout`; `state` tells how far the request came.
            MessageRefusedError: the peer or its handler refused the request; `reason` has the
                cause, "unknown subject" if nothing serves it.
            DeliveryFailedError: there will be no reply; `reason` has the cause. It is "unknown
                outcome" if the peer has restarted since the request was written.
            BackpressureError: 1,024 requests to this peer wait for their replies already.
            UnknownPeerError, NotAllowedError, PayloadTooLargeError, StoreFullError,
                StoreFailedError, ClosedError, WrongContextError: see `send()`.
        """
        self._check_here()
        seconds = _REQUEST_TIMEOUT if timeout is None else as_timeout(timeout)
        choice = self._sending.choose(
            subject, priority, durable, seconds, latest=False, is_durable=False
        )
        (message,) = self._sending.messages(
            self._did_of(to),
            choice.priority,
            payload_type,
            choice.expires_at,
            (payload,),
            subject=subject,
            kind=Kind.REQUEST,
            is_durable=choice.is_durable,
        )
        return await self._requests.ask(message, seconds)

    @overload
    def serve(self, subject: str, *, limit: int = 16) -> Callable[[H], H]: ...

    @overload
    def serve(self, subject: str, handler: H, *, limit: int = 16) -> H: ...

    def serve(
        self, subject: str, handler: H | None = None, *, limit: int = 16
    ) -> H | Callable[[H], H]:
        """Have a function reply to the requests of a subject: `@node.serve("get_battery")`.

        The handler gets the request as a `Message`, and returns the payload of the reply as
        bytes; `None` is an empty one. It may call `message.reply()` or `message.nack()` instead.
        A handler that raises refuses the request as "refused", and the error is logged. One that
        is not done at the request's deadline is cancelled. Requests that no handler serves are
        refused as "unknown subject". As long as a node has no handler, `receive()` and
        `messages()` return requests as other messages.

        Call this before the start, or in the node's event loop.

        Args:
            subject: The subject, compared character by character; may be empty.
            handler: A function or coroutine function. A plain function keeps the event loop
                while it runs. Without one, this returns a decorator.
            limit: Maximum number of requests that are handled at a time; 1 or more, by
                default 16. Further ones wait, and slow down the peers that send them.

        Raises:
            ValueError, TypeError: an argument cannot be used, or the subject has a handler.
            ClosedError, WrongContextError: see `receive()`.
        """
        if self._core.runtime.home.phase is not Phase.NEW:
            self._check_here()
        as_subject(subject)
        most = as_count(limit, "limit")

        def register(function: H) -> H:
            if not callable(function):
                raise TypeError(f"a handler is a function, not {type(function).__name__}")
            self._handlers.serve(subject, function, most)
            return function

        return register if handler is None else register(handler)

    # -- topics ---------------------------------------------------------------------

    def subscribe(
        self, did: Did | str, subject: str, *, latest: bool = False, timeout: float | None = None
    ) -> Subscription:
        """Return a subscription to a subject of a peer. Await it, or use it with `async with`.

        Both wait until the publisher has accepted. While it is away, they try again with pauses.
        If no address is known for it, they wait until it links to this node. Publications of the
        subject that wait in the inbox, which a store has kept, come first.

        Args:
            did: The DID of the publisher, as a `Did` or its text.
            subject: The subject: printable text in NFC, 1 to 255 bytes in UTF-8.
            latest: Whether only the newest unread publication is kept, by default no. The others
                are acknowledged without being read, and counted as `publications_replaced`.
            timeout: Seconds to wait for the acceptance, 0 or more; by default no limit.

        Raises:
            ValueError, TypeError: an argument cannot be used. What awaiting it raises is at
                `Subscription.open()`.
        """
        return self._topics.subscribe(did, subject, timeout, is_latest=latest)

    async def publish(
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
        """Send a payload to each peer that is subscribed to a subject of this node.

        All copies that can leave now have one signature. The others wait in the queues of their
        peers, so a subscriber that reads slowly delays nobody. Nothing is raised for one
        subscriber: `outcomes.failed` has those without a copy. Cancelling withdraws no copy.

        Args:
            subject: The subject: printable text in NFC, 1 to 255 bytes in UTF-8.
            payload, priority, payload_type, latest, deadline: as for `send()`.
            durable: As for `send()`, but by default that of the subject, else false.
            until: The state to wait for, as for `send()`; by default none, so that the call
                returns when the copies are in their queues.
            timeout: Seconds to wait for it, 0 or more; by default no limit.
            keep: Whether the node keeps the payload as the last value of the subject, by default
                no. Then each new subscriber gets it first, until a later call for this subject.

        Raises:
            ValueError, TypeError: an argument cannot be used.
            ClosedError: the node is not started, or is closed.
            WrongContextError: the node belongs to another event loop or to a parent process.
        """
        self._check_here()
        choice = self._sending.choose(
            subject, priority, durable, deadline, latest, is_durable=False
        )
        content = self._topics.content(payload, payload_type, subject, choice)
        return await self._topics.publish(content, until, timeout, is_kept=keep)

    async def send_all(
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
        """Send a payload to several peers; wait until each copy reaches `until` or has failed.

        All copies that can leave now have one signature. Nothing is raised for one peer, and no
        peer is waited for to get room in its queue: `outcomes.failed` has those without a copy.
        Without a deadline, a peer that is away is waited for until its copy is given up.
        Cancelling stops the waiting and withdraws no copy.

        Args:
            to: The DIDs of the peers. One that is named twice gets one copy.
            payload, priority, payload_type, subject, durable, latest, deadline, until: as for
                `send()`.

        Raises:
            DidError, ValueError, TypeError: an argument cannot be used.
            ClosedError: the node is not started, or is closed.
            WrongContextError: the node belongs to another event loop or to a parent process.
        """
        self._check_here()
        choice = self._sending.choose(subject, priority, durable, deadline, latest)
        content = self._topics.content(payload, payload_type, subject, choice, Kind.MESSAGE)
        return await self._topics.send_all(to, content, until)

    async def mirror(
        self, message: Message, subject: str | None = None, *, durable: bool | None = None
    ) -> Outcomes:
        """Publish the envelope of a received message, with the signature of its first sender.

        The payload is `message.envelope.encode()`. A subscriber decodes it with
        `SignedEnvelope.decode()`, and `verify()` proves who made it. The priority is that of the
        message.

        Args:
            message: A message that this node has received.
            subject: The subject; by default that of the message.
            durable: As for `publish()`.

        Raises:
            ValueError: neither `subject` nor the message has a subject.
            TypeError, ClosedError, WrongContextError: see `publish()`.
        """
        self._check_here()
        return await self.publish(
            message.subject if subject is None else subject,
            message.envelope.encode(),
            priority=message.priority,
            durable=durable,
        )

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
        self, did: Did | str, after: float, callback: SilenceCallback | None = None
    ) -> SilenceWatch | Callable[[SilenceCallback], SilenceWatch]:
        """Call a function when nothing was heard from a peer for so long.

        The function is called once for each silence, at the limit or up to 100 ms later, and
        again for the next silence after the peer was heard. Every valid frame over a link with
        the proven DID counts as heard. The node sends PINGs to a quiet peer, so a peer that
        lives is not reported. A peer that was never heard counts from this call, or from the
        start of the node. This call dials nobody: only a link brings a peer to be heard.

        Call this in the event loop of the node, or before its start. Without `callback` it is
        a decorator: `@node.on_silence(did, 0.5)`. The watch ends with `watch.cancel()`, or with
        the node.

        Args:
            did: The DID of the peer, as a `Did` or its text.
            after: The limit in seconds, from 0.1 to 86,400. It should be at least three times
                the round trip to the peer.
            callback: A function or coroutine function that takes a `Silence`. It runs in the
                event loop of the node. An exception in it is logged, and the watch goes on.

        Raises:
            TypeError, ValueError: an argument cannot be used.
            ClosedError: the node is closed.
            WrongContextError: the node belongs to another event loop or to a parent process.
        """
        home = self._core.runtime.home
        if home.phase is not Phase.NEW:
            self._check_here()
        peer, limit = self._did_of(did, "peer"), limit_of(after)
        if callback is None:
            return partial(self._silences.add, peer, limit)
        return self._silences.add(peer, limit, callback)

    def age(self, message: Message) -> float | None:
        """Return the seconds since the sender called `send()`, by our clock. Any thread may call.

        The difference of the two clocks, as PINGs have measured it, is taken into account.

        Args:
            message: A message that this node has received.

        Returns:
            The age, 0 or more. `None`: it is not known, because no link to the sender is open,
            its clock is not measured yet, or a clock was set.
        """
        return age(self._core.endpoint, message)

    def check_within(self, message: Message, limit: float) -> Reason | None:
        """Return why a message is too old to act on; `None`: it is in time. Any thread may call.

        The limit holds for the age since the sender called `send()`, whatever deadline the
        sender has given; a deadline that has passed counts too. The clock offset of the link
        is used if it is exact enough: its bound must be at most 50 ms, or a quarter of the
        limit. The bound always counts as age. Right after a link has opened, the offset is not
        known for one round trip.

        Args:
            message: A message that this node has received.
            limit: The greatest age in seconds, 0 or more.

        Returns:
            `None`, `Reason.EXPIRED`, or `Reason.CLOCK_UNKNOWN` if the age is not known well
            enough. `message.nack()` takes the reason.

        Raises:
            TypeError, ValueError: `limit` is not a number of seconds, 0 or more.
        """
        return check_within(self._core.endpoint, message, limit)
