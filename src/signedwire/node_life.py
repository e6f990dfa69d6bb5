"""The life of a node: its parts, its start and its end."""

from __future__ import annotations

import os
from functools import partial
from types import TracebackType
from typing import Self

from signedwire.config import TransportConfig
from signedwire.contradictions import check_given_once
from signedwire.delivery.policy import Policy, check_policy
from signedwire.errors import ClosedError
from signedwire.home import Bound
from signedwire.identity import Identity
from signedwire.messaging.handlers import Handlers
from signedwire.messaging.requests import Requests
from signedwire.messaging.silence import Silences
from signedwire.messaging.topics import Topics
from signedwire.outbox import DeadLetters, Outbox, open_store
from signedwire.routing import RoutingTable
from signedwire.sending import Sending
from signedwire.transport.core import NodeCore
from signedwire.transport.network import Network
from signedwire.transport.networks import check_network, network_of
from signedwire.types import Did, Target

__all__ = ["NodeLife"]


class NodeLife(Bound):
    """The constructor, the start and the end of `Node`, and who and where it is.

    For the arguments see `Node`.
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
        # Not `or`: an empty table is false.
        routing = RoutingTable() if routing is None else routing
        config = TransportConfig() if config is None else config
        for name, value, kind, example in (
            ("identity", identity, Identity, "Identity.load(path), or Identity.generate()"),
            ("config", config, TransportConfig, 'TransportConfig(listen="127.0.0.1:9001")'),
            ("routing", routing, RoutingTable, 'RoutingTable({did: "host:port"})'),
        ):
            if not isinstance(value, kind):
                wanted = f"{'an' if kind is Identity else 'a'} {kind.__name__}"
                raise TypeError(f"{name} is {wanted}, not {type(value).__name__}: {example}")
        check_network(network)
        check_policy(policy)
        for name, argument in (("store", store), ("evidence", evidence)):
            check_given_once(name, argument, getattr(config, name))
        if store is not None:
            config = config.replace(store=store)
        if evidence is not None:
            config = config.replace(evidence=evidence)
        chosen = network or network_of(config)
        self._identity, self._config, self._routing = identity, config, routing
        self._has_store = config.store is not None
        open_ = partial(open_store, config, identity.did) if self._has_store else None
        self._core = NodeCore(config, routing, chosen, identity.did, identity, open_, policy)
        self._outbox = Outbox(self._core)
        self._sending = Sending(self._core, has_store=self._has_store)
        self._requests = Requests(self._core, self._sending)
        self._handlers = Handlers(self._core)
        self._topics = Topics(self._core, self._sending, identity)
        self._dead = DeadLetters(self._core, self._sending.replace)
        self._silences = Silences(self._core.runtime, self._core.endpoint)
        self._core.at_open(self._silences.begin)
        self._core.at_end("ending the watches of silence", self._silences.end)
        self._has_started = False
        self._did_of = config.names.did_of

    # -- life -------------------------------------------------------------------

    async def start(self) -> None:
        """Open the files and start to listen. `async with` calls this. Cancelling undoes it.

        Raises:
            ListenError: the node cannot listen on its address.
            StoreOpenError: the store cannot be used; nothing in it was changed.
            EvidenceLogError: the evidence log cannot be used; its content is unchanged.
            ConfigError: the access file cannot be read, or has a wrong line.
            ClosedError: the node was started before; a node can be started only once. Or
                `close()` was called during the start.
            WrongContextError: no asyncio event loop runs in this thread.
        """
        if self._has_started:
            self._core.runtime.home.check_here()
            hint = "Make a new Node: each can be started once"
            raise ClosedError("this node was started before", hint)
        self._has_started = True
        await self._core.start()

    async def close(self) -> None:
        """Stop listening, send what is queued for up to `close_timeout`, then end the node.

        A message that is still not sent fails with reason "closed"; with a store, it waits
        there for the next node that opens the file. A start that is under way is called off;
        `start()` then raises ClosedError. The call returns within `close_timeout` plus some
        milliseconds, whatever a peer does, and leaves no task, thread or socket. It may take
        longer for a slow disk: the last commit of the store, and of the evidence log, has at
        least one second. If a disk or a network backend does not answer in that time, its thread
        or task ends when it does. The call is safe to repeat, and does nothing before the start.
        Cancelling ends the node at once; `asyncio.CancelledError` is raised after that.

        Raises:
            WrongContextError: the node belongs to another event loop or to the parent of this
                process, and continues there. If its loop is closed, this call frees the
                address and the files.
        """
        await self._core.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._core.runtime.home.is_forked:  # a forked child leaves the block, too
            await self.close()

    # -- who and where ------------------------------------------------------------

    @property
    def did(self) -> Did:
        """The DID of this node, to which peers send."""
        return self._identity.did

    @property
    def address(self) -> Target:
        """The address on which the node listens, with the real port. Kept after `close()`.

        Raises:
            ClosedError: the node is not started.
            TransportError: the node does not listen, because of `listen=None`.
        """
        return self._core.acceptor.listening_at()

    @property
    def is_listening(self) -> bool:
        """Whether the node accepts connections now, at `address`."""
        return self._core.runtime.is_open and self._core.acceptor.address is not None

    @property
    def routing(self) -> RoutingTable:
        """The addresses of peers. Change the table at any time, from any thread."""
        return self._routing

    @property
    def config(self) -> TransportConfig:
        """The options of this node."""
        return self._config

    def _check_here(self, *, is_open: bool = True) -> None:
        """Raise unless a coroutine of this node can do its work in the running event loop."""
        self._core.runtime.home.check_here()
        (self._core.runtime.home.check_open if is_open else self._core.runtime.home.check_begun)()
