"""Whether a node can do its work now, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from signedwire.delivery.store import Backlog, Store
from signedwire.stats import Health, PeerStatus
from signedwire.transport.core import NodeCore
from signedwire.wire.header import MAX_V2_HEADER_SIZE

__all__ = ["health_of"]

_MAX_NAMED: Final = 10
"""Peers whose part of the outbox is full that are named."""


def health_of(core: NodeCore, peers: Iterable[PeerStatus]) -> Health:
    """The health of a node. Any thread; also in a forked child, where the node cannot work."""
    problems = []
    problem = core.runtime.home.problem()
    if problem is not None:
        problems.append(problem)
    elif core.runtime.config.listen is not None and core.acceptor.address is None:
        problems.append(f"the listener on {core.runtime.config.listen} is gone")
    if core.store is not None:
        store = core.store.store
        if store.failure is not None:
            problems.append(store.failure.fact)
        else:
            problems += _fullness(store, MAX_V2_HEADER_SIZE + core.runtime.config.max_payload_size)
    if core.evidence is not None and core.evidence.failure is not None:
        problems.append(core.evidence.failure.fact)
    problems += _overdue_answers(peers)
    return Health(problems=tuple(problems))


def _fullness(store: Store, largest: int) -> Iterator[str]:
    """Return a text for each limit of the store that a message of `largest` bytes would exceed."""
    limits, stats = store.limits, store.stats()
    held: Iterable[tuple[str, Backlog, int, int]] = (
        ("outbox", stats.outbox, limits.max_rows, limits.max_bytes),
        ("inbox", stats.inbox, limits.max_inbox_rows, limits.max_inbox_bytes),
    )
    for name, backlog, rows, bytes_ in held:
        if backlog.rows >= rows or backlog.bytes + largest > bytes_:
            yield f"the {name} is full: {backlog.rows:,} messages, {backlog.bytes:,} bytes"
    if stats.unmet.bytes + largest > limits.max_unmet_bytes:
        yield (
            f"the outbox is full for peers never met: {stats.unmet.rows:,} messages, "
            f"{stats.unmet.bytes:,} bytes"
        )
    full = store.unmet.full_peers(largest)
    for did in full[:_MAX_NAMED]:
        backlog = store.backlog(did)
        yield (f"the outbox to {did} is full: {backlog.rows:,} messages, {backlog.bytes:,} bytes")
    if len(full) > _MAX_NAMED:
        yield f"the outbox is full for {len(full) - _MAX_NAMED:,} more peers"


def _overdue_answers(statuses: Iterable[PeerStatus]) -> list[str]:
    """Return a text about each peer whose answer is overdue."""
    return [
        f"{status.did} has not answered for {status.overdue:.0f} s: "
        f"{status.in_flight} messages wait for its answer"
        for status in statuses
        if status.overdue is not None
    ]
