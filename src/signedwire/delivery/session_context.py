"""The parts that the sessions of all peers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from signedwire.delivery.access import AccessList
from signedwire.delivery.consumers import Consumers
from signedwire.delivery.denials import DenialFilter
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.inbox_budget import InboxBudget
from signedwire.delivery.known_senders import KnownSenders
from signedwire.delivery.log_limiter import LogLimiter
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.null_store import NullStore
from signedwire.delivery.open_requests import OpenRequests
from signedwire.delivery.policy import Policies
from signedwire.delivery.ports import EvidencePort, Host, InboxStore, OutboxStore
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.silence import WatchedPeers
from signedwire.types import Did, PayloadType

__all__ = ["LinkWatcher", "SessionContext"]


class LinkWatcher(Protocol):
    """A part of the node that acts when the link of a peer opens or ends. In the loop."""

    def linked(self, did: Did) -> None:
        """Note that the link of a peer is open; what is queued here leaves first over it."""

    def unlinked(self, did: Did) -> None:
        """Note that the link of a peer has ended, and that no other one replaces it."""


class SessionContext:
    """The parts of one endpoint that each `PeerSession` works with.

    Args:
        host: The node.
        us: The node's DID; `None`: the node accepts messages for any DID, over v1 alone.
        access: Which DIDs are denied.
        known: Which senders are no strangers.
        inbox: Received messages that wait for the application.
        store: The store of messages to peers.
        inbox_store: The store of marks, and of messages that are not handled. Both stores may
            be replaced before the node is open.
        policies: Decide about each received message, after the access list.
    """

    __slots__ = (
        "_memory",
        "access",
        "budget",
        "claims_log",
        "consumers",
        "denials",
        "evidence",
        "has_closed_links",
        "host",
        "inbox",
        "inbox_store",
        "known",
        "link_watchers",
        "more_inboxes",
        "on_progress",
        "policies",
        "reply",
        "requests",
        "store",
        "us",
        "watched",
    )

    def __init__(
        self,
        host: Host,
        us: Did | None,
        access: AccessList,
        known: KnownSenders,
        inbox: Inbox,
        store: OutboxStore,
        inbox_store: InboxStore,
        policies: Policies,
    ) -> None:
        self.host = host
        self.us = us
        self.access = access
        self.known = known
        self.inbox = inbox
        self.more_inboxes: list[Inbox] = []
        """Received messages that wait for one part of the application: a handler, a subscription.
        """
        self.consumers = Consumers()
        """Take received messages before the inbox, by kind."""
        self.requests = OpenRequests()
        """The requests of this node that wait for a reply."""
        self.reply: Callable[[IncomingMessage, bytes, PayloadType], Receipt] = _no_reply
        """Queues the reply to a request. Any thread."""
        self.link_watchers: list[LinkWatcher] = []
        """Are told when the link of a peer opens or ends."""
        self.watched = WatchedPeers()
        """The peers whose silence is watched."""
        self.store = store
        self.inbox_store = inbox_store
        self._memory = NullStore(host)
        self.evidence: EvidencePort | None = None
        """Records each message before it is delivered and receipted; `None`: no evidence log."""
        self.on_progress: Callable[[], None] = _nothing
        """Called when a message was answered or given up, as a connection may be idle then."""
        self.policies = policies
        """Decide about each received message, after the access list."""
        self.budget = InboxBudget(host.config)
        self.claims_log = LogLimiter()
        """Limits the lines about states that peers claim to know of this node, or of themselves."""
        self.denials = DenialFilter(host, access)
        self.has_closed_links = False
        """Whether all links were closed, so that answers of the application come too late."""

    def store_of(self, *, is_durable: bool) -> OutboxStore:
        """Return the store of messages to peers of this kind. Volatile ones are in memory alone."""
        return self.store if is_durable else self._memory

    def inbox_store_of(self, *, is_durable: bool) -> InboxStore:
        """Return the store of received messages of this kind."""
        return self.inbox_store if is_durable else self._memory

    def inboxes(self) -> list[Inbox]:
        """Return all queues of received messages that wait for the application."""
        return [self.inbox, *self.more_inboxes]

    def is_v1_allowed(self, did: Did) -> bool:
        """Whether the configuration lets this DID speak v1."""
        peers = self.host.config.v1_peers
        return peers == "all" or did in peers


def _no_reply(message: IncomingMessage, payload: bytes, payload_type: PayloadType) -> Receipt:
    raise NotImplementedError


def _nothing() -> None:
    """Do nothing."""
