"""`Node`: send signed messages to a key and receive them, in asyncio.

async with Node(identity, config, routing) as node:
    receipt = await node.send(did, b"hello")
    async for message in node.messages():
        ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import overload

from signedwire.arguments import (
    BytesLike,
    Deadline,
    PayloadTypeName,
    PriorityName,
    Until,
    as_did,
    as_seconds,
    check_payloads,
)
from signedwire.delivery.message import Message
from signedwire.delivery.receipt import Receipt
from signedwire.home import Phase
from signedwire.messaging.silence import SilenceCallback, SilenceWatch, limit_of
from signedwire.messaging.within import age, check_within
from signedwire.node_state import NodeState
from signedwire.types import DeliveryState, Did, PayloadType, Priority, Reason

__all__ = ["Deadline", "Node"]


class Node(NodeState):
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
            to: The DID of the peer, as a `Did` or its text.
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
            as_did(to),
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
            as_did(to),
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
            to: The DID of the peer, as a `Did` or its text.
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
        level, did = self._sending.level(until, is_durable=choice.is_durable), as_did(to)
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

    # -- topics ---------------------------------------------------------------------

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
        peer, limit = as_did(did, "peer"), limit_of(after)
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
