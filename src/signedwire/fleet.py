"""`Fleet`: names, roles and typed values on top of a `Node`.

async with Fleet.from_env() as me:
    @me.on(Drive, allow="base", within=0.3)
    async def drive(command: Drive) -> None: ...

A fleet has no power of its own: `fleet.node` does all that is done here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from signedwire.arguments import Deadline, PriorityName, as_seconds, as_subject
from signedwire.config import TransportConfig
from signedwire.delivery.policy import Policy
from signedwire.delivery.receipt import Receipt
from signedwire.errors import ConfigError, StoreError
from signedwire.fleet_handlers import Call, Dispatcher, Gate, Who
from signedwire.fleet_peers import Group, Peer, Publisher, subject_for
from signedwire.home import Bound
from signedwire.identity import Identity
from signedwire.keysources import load_identity
from signedwire.messaging.silence import SilenceCallback, SilenceWatch
from signedwire.messaging.subjects import subject_of
from signedwire.messaging.values import codec_of, payload_of
from signedwire.node import Node
from signedwire.roles import Roles
from signedwire.routing import RoutingTable
from signedwire.settings import load_config
from signedwire.subject_options import SubjectOptions
from signedwire.transport.network import Network
from signedwire.types import Did, Priority

__all__ = ["Fleet"]

H = TypeVar("H", bound=Callable[..., Any])
T = TypeVar("T")


class Fleet(Bound, instead="pass the path of its configuration, and make another there"):
    """A node with names, roles and typed handlers. Use it as an async context manager.

    Register handlers before the start, or in the block before its first `await`: what comes for a
    subject without a handler is refused as "unknown subject". A fleet takes all messages of its
    node, so call neither `node.receive()` nor `node.messages()`.

    Args:
        identity, config, routing: see `Node`. The option `names` has the names of peers, and
            `ack` must be "manual", because a fleet acknowledges what a handler has handled.
        roles: The names or DIDs of the members of each role; by default the option `roles`.
        store, evidence, network, policy: see `Node`.

    Raises:
        ConfigError: a role has an unknown name; `roles` is in the configuration too; or an
            option contradicts.
        TypeError: an argument has the wrong type.
    """

    def __init__(
        self,
        identity: Identity,
        config: TransportConfig | None = None,
        routing: RoutingTable | None = None,
        *,
        roles: Mapping[str, Iterable[Did | str]] | None = None,
        store: str | os.PathLike[str] | None = None,
        evidence: str | os.PathLike[str] | None = None,
        network: Network | None = None,
        policy: Policy | None = None,
    ) -> None:
        if roles is not None:
            config = TransportConfig() if config is None else config
            if config.roles:
                raise ConfigError("roles are given twice", "Pass them in one of the two places")
            config = config.replace(roles=roles)
        self._node = Node(
            identity,
            config,
            routing,
            store=store,
            evidence=evidence,
            network=network,
            policy=policy,
        )
        if self._node.config.ack == "auto":
            raise ConfigError(
                "ack='auto' is not for a Fleet: it acknowledges a message when its handler returns",
                "Leave ack out",
            )
        self._dispatcher = Dispatcher(self._node)

    @classmethod
    def from_env(cls) -> Self:
        """Make a fleet from the environment and the file of SIGNEDWIRE_CONFIG, if it is set.

        These are the sources of the command line: `load_config()`, `load_identity()`, and for
        the addresses of peers the file of SIGNEDWIRE_PEERS. The call blocks.

        Raises:
            ConfigError, IdentityError: a file or a variable cannot be used.
        """
        return cls._from_file(None)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Make a fleet from a configuration file, and from the environment as `from_env()` does.

        Args:
            path: The TOML file. The environment wins over it. The call blocks.

        Raises:
            ConfigError, IdentityError: a file or a variable cannot be used.
        """
        return cls._from_file(path)

    @classmethod
    def _from_file(cls, path: str | os.PathLike[str] | None) -> Self:
        config = load_config(path)
        return cls(load_identity(path), config, RoutingTable.load(None, config.names))

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the node, and call handlers from the next turn of the event loop on.

        Raises:
            SignedWireError: the errors of `Node.start()`.
        """
        await self._node.start()
        self._dispatcher.begin()

    async def close(self) -> None:
        """Cancel the handlers that run, and close the node. Safe to repeat.

        Messages that were not handled stay without an answer. With a store, durable ones are
        delivered again by the next process.

        Raises:
            WrongContextError: see `Node.close()`.
        """
        await self._dispatcher.end()
        await self._node.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._dispatcher.end()
        await self._node.__aexit__(exc_type, exc, traceback)

    # -- who ----------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """The node."""
        return self._node

    @property
    def name(self) -> str:
        """The name of this node in its own configuration; its DID as text if it has none."""
        return self._node.name_of(self._node.did) or str(self._node.did)

    def peer(self, name: Did | str) -> Peer:
        """Return a peer by its name or DID.

        Raises:
            UnknownNameError, DidError: it is neither a known name nor a DID.
        """
        return Peer(self._node, self._node.config.names.did_of(name, "name"))

    def group(self, who: Who) -> Group:
        """Return the members of a role, or some peers, without this node.

        Args:
            who: A role, a name or a DID, or several of them.

        Raises:
            UnknownNameError, DidError: one of them is not known; the error has similar ones.
        """
        return Group(self._node, self._dispatcher, self._members_of(who))

    def _members_of(self, who: Who) -> tuple[Did, ...]:
        roles = self._node.config.roles
        known = roles if isinstance(roles, Roles) else Roles(roles)
        return known.members_of(who, self._node.config.names)

    # -- handlers -----------------------------------------------------------------------------

    def on(
        self,
        what: str | type[object],
        *,
        type: object = None,
        allow: Who | None = None,
        within: float | None = None,
    ) -> Callable[[H], H]:
        """Have a function called for the messages of a subject: `@me.on(Drive, allow="base")`.

        The function gets the value. If it takes a second argument, that is a `HandlerContext`.
        It may be a coroutine function; a plain one keeps the event loop while it runs. The
        message is acknowledged when the function has returned. If it raises, the message is
        refused as "refused", and the error is logged.

        Messages of one subject are handled one after the other, in order, and those of several
        subjects at the same time. 256, of 8 MiB, may wait for each; more are refused as
        "inbox full". One with another type is refused as "malformed", with a text.

        Args:
            what: The class of the values, whose subject is `subject_of()` of it; or a subject.
            type: The type of the values, if `what` is a subject. By default the annotation of
                the first parameter counts; without one, the function gets the `Message`.
            allow: Who may send: a role, a name or a DID, or several of them; by default
                everybody. Others are refused as "role".
            within: The greatest age of a message in seconds; see `Node.check_within()`. By
                default only the deadline of the message counts.

        Raises:
            UnknownNameError, DidError: `allow` has an unknown name.
            ValueError, TypeError: an argument cannot be used, or the subject has a handler.
            ImportError: the type needs the extra `msgspec`, which is not installed.
        """
        if not isinstance(what, str) and type is not None:
            raise TypeError("type=… is for a subject; this class is the type itself")
        subject = what if isinstance(what, str) else subject_of(what)
        as_subject(subject)
        chosen = type if isinstance(what, str) else what
        gate = self._gate(allow, within)

        def register(handler: H) -> H:
            self._dispatcher.add(subject, Call(self._node, handler, chosen), gate)
            return handler

        return register

    def serve(
        self,
        subject: str,
        *,
        allow: Who | None = None,
        within: float | None = None,
        limit: int = 16,
    ) -> Callable[[H], H]:
        """Have a function reply to the requests of a subject: `@me.serve("get_battery")`.

        The annotation of the first parameter is the type of the argument. Without an annotation,
        the function gets the `Message`; it may take nothing, too. A second argument is a
        `HandlerContext`. The annotation of the result is the type of the reply; without one, the
        type of the value counts. All else is as for `Node.serve()`.

        Args:
            subject: The subject, compared character by character.
            allow, within: see `on()`.
            limit: Maximum number of requests that are handled at a time; see `Node.serve()`.

        Raises:
            TypeError: the annotations of the function cannot be read.
            UnknownNameError, DidError, ValueError, ImportError: see `on()`.
            ClosedError, WrongContextError: see `Node.serve()`.
        """
        gate = self._gate(allow, within)

        def register(handler: H) -> H:
            call = Call(self._node, handler, None, returns=True)
            self._node.serve(subject, call.as_server(gate), limit=limit)
            return handler

        return register

    def _gate(self, allow: Who | None, within: float | None) -> Gate:
        allowed = None if allow is None else self._members_of(allow)
        return Gate(self._node, allowed, as_seconds(within, "within"))

    def lost(self, name: Did | str, *, after: float) -> Callable[[SilenceCallback], SilenceWatch]:
        """Call a function when nothing was heard from a peer: `@me.lost("base", after=0.5)`.

        This is `Node.on_silence()`; the function takes a `Silence`.

        Args:
            name: The name or the DID of the peer.
            after: The limit in seconds, from 0.1 to 86,400.

        Raises:
            UnknownNameError, DidError, TypeError, ValueError: an argument cannot be used.
            ClosedError, WrongContextError: see `Node.on_silence()`.
        """
        return self._node.on_silence(name, after)

    # -- publishing and queueing --------------------------------------------------------------

    def publisher(
        self,
        subject: str,
        type_: type[T],
        *,
        latest: str | bool | None = None,
        durable: bool | None = None,
        priority: Priority | PriorityName | None = None,
        deadline: Deadline = None,
        keep: bool = False,
    ) -> Publisher[T]:
        """Return a publisher of the values of a subject, for `await publisher.put(value)`.

        Args:
            subject: The subject.
            type_: The type of the values.
            latest, durable, priority, deadline, keep: see `Node.publish()`. By default those of
                the subject in the option `subjects` count.

        Raises:
            ConfigError: two of the options contradict each other.
            ValueError, TypeError: an argument cannot be used.
            ImportError: the type needs the extra `msgspec`, which is not installed.
        """
        as_subject(subject)
        # This refuses what contradicts itself before the first `put()`.
        SubjectOptions(durable=durable, latest=False if latest is None else latest)
        publish = partial(
            self._node.publish,
            subject,
            latest=latest,
            durable=durable,
            priority=priority,
            deadline=deadline,
            keep=keep,
        )
        return Publisher(subject, codec_of(type_), publish)

    async def queue(
        self,
        name: Did | str,
        value: object,
        *,
        subject: str | None = None,
        priority: Priority | PriorityName | None = None,
        deadline: Deadline = None,
    ) -> Receipt:
        """Store a value for a peer, which may be away or was never met; return when it is stored.

        It is sent when the peer is there, also by a later process of this node.

        Args:
            name: The name or the DID of the peer.
            value, subject: see `Peer.send()`.
            priority, deadline: see `Node.send()`.

        Raises:
            StoreError: this node has no store.
            SignedWireError, TypeError, ValueError, ImportError: see `Peer.send()`.
        """
        if self._node.config.store is None:
            raise StoreError(
                "queue() needs a store, and this node has none",
                'Set store = "node.db" in the configuration, or pass store="node.db"',
            )
        return await self._node.send(
            name,
            payload_of(value),
            subject=subject_for(value, subject),
            priority=priority,
            deadline=deadline,
            durable=True,
            until="persisted",
        )

    def __repr__(self) -> str:
        return f"<Fleet {self._node.config.names.label_of(self._node.did)}>"
