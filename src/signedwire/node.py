"""`Node`: send signed messages to a key and receive them, in asyncio.

async with Node(identity, config, routing) as node:
    receipt = await node.send(did, b"hello")
    async for message in node.messages():
        ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from functools import partial

from signedwire.arguments import (
    BytesLike,
    Deadline,
    PayloadTypeName,
    PriorityName,
    Until,
    as_did,
    as_seconds,
    check_payloads,
    due_at,
)
from signedwire.delivery.message import Message
from signedwire.delivery.receipt import Receipt
from signedwire.messaging.outcomes import Outcomes
from signedwire.messaging.subscription import Subscription
from signedwire.node_state import NodeState
from signedwire.types import DeliveryState, Did, Kind, PayloadType, Priority

__all__ = ["Deadline", "Node"]


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
        priority: Priority | PriorityName = Priority.NORMAL,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        subject: str = "",
        durable: bool = True,
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
                lane are sent first. By default NORMAL.
            payload_type: The type that the peer's application sees, as a `PayloadType` or its
                name in lower case, such as "robot_command"; by default RAW.
            subject: What the message is about, for the peer's application: printable text in
                NFC, at most 255 bytes in UTF-8; by default empty. A v1 peer does not see it.
            durable: Whether stores keep the message: that of this node until it is accepted,
                and that of the peer until it is handled; by default true. A volatile message
                waits for no disk on either side. It is lost if one of the two nodes ends first.
            deadline: When the message expires; by default never. An expired message is
                neither sent nor given to the peer's application, and this raises. A number of
                seconds or a `timedelta`, more than 0 and up to 30 years, does not depend on
                the wall clock and includes time in suspension. A `datetime` with a time zone
                follows the wall clock.
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
        level = self._sending.level(until, is_durable=durable)
        (message,) = self._sending.messages(
            as_did(to),
            priority,
            payload_type,
            due_at(deadline),
            (payload,),
            subject=subject,
            is_durable=durable,
        )
        return await self._sending.send(message, level)

    def send_nowait(
        self,
        to: Did | str,
        payload: BytesLike,
        *,
        priority: Priority | PriorityName = Priority.NORMAL,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        subject: str = "",
        durable: bool = True,
        deadline: Deadline = None,
    ) -> Receipt:
        """Queue a message and return at once; `receipt.wait()` waits for its states.

        Any thread may call this. The arguments are those of `send()`.

        Raises:
            BackpressureError: the queue to the peer is full; the message was not queued.
            UnknownPeerError, NotAllowedError, PayloadTooLargeError, StoreFullError,
                ClosedError, WrongContextError: see `send()`.
        """
        (message,) = self._sending.messages(
            as_did(to),
            priority,
            payload_type,
            due_at(deadline),
            (payload,),
            subject=subject,
            is_durable=durable,
        )
        self._core.endpoint.submitter.submit(message, message.payload_size)
        return message

    async def send_many(
        self,
        to: Did | str,
        payloads: Iterable[BytesLike],
        *,
        priority: Priority | PriorityName = Priority.NORMAL,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        subject: str = "",
        durable: bool = True,
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
                messages. The deadline counts from the call.

        Raises:
            The error of the first message that failed, as `send()` raises it, once every
                message has reached `until` or failed. If a message could not be queued, its
                error is raised at once; those before it are still sent. `receipts` of the error
                has the receipts of all queued messages, in order.
        """
        self._check_here()
        level, did = self._sending.level(until, is_durable=durable), as_did(to)
        check_payloads(payloads)
        # The deadline is read once, so queueing does not extend that of the later messages.
        options = (priority, payload_type, due_at(deadline))
        is_bulk = level is not DeliveryState.HANDLED
        make = partial(
            self._sending.messages,
            did,
            *options,
            subject=subject,
            is_bulk=is_bulk,
            is_durable=durable,
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
        priority: Priority | PriorityName = Priority.NORMAL,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        durable: bool = False,
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
            payload, priority, payload_type, deadline: as for `send()`.
            durable: As for `send()`, but by default false.
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
        content = self._topics.content(
            payload, priority, payload_type, subject, deadline, is_durable=durable
        )
        return await self._topics.publish(content, until, timeout, is_kept=keep)

    async def send_all(
        self,
        to: Iterable[Did | str],
        payload: BytesLike,
        *,
        priority: Priority | PriorityName = Priority.NORMAL,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        subject: str = "",
        durable: bool = True,
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
            payload, priority, payload_type, subject, durable, deadline, until: as for `send()`.

        Raises:
            DidError, ValueError, TypeError: an argument cannot be used.
            ClosedError: the node is not started, or is closed.
            WrongContextError: the node belongs to another event loop or to a parent process.
        """
        self._check_here()
        content = self._topics.content(
            payload,
            priority,
            payload_type,
            subject,
            deadline,
            is_durable=durable,
            kind=Kind.MESSAGE,
        )
        return await self._topics.send_all(to, content, until)

    async def mirror(
        self, message: Message, subject: str | None = None, *, durable: bool = False
    ) -> Outcomes:
        """Publish the envelope of a received message, with the signature of its first sender.

        The payload is `message.envelope.encode()`. A subscriber decodes it with
        `SignedEnvelope.decode()`, and `verify()` proves who made it. The priority is that of the
        message.

        Args:
            message: A message that this node has received.
            subject: The subject; by default that of the message.
            durable: As for `send()`, but by default false.

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
