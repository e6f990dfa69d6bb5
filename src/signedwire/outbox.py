"""What a node's store holds, to look at and to act on.

    Outbox        `node.outbox`  messages that have no answer yet
    DeadLetters   `node.dead`    messages that were refused or given up

`open_store()` makes a store as a configuration describes it. `copy_of()` and
`export()` need a store and no node: the command line uses them on a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Final, TypeAlias

from signedwire.arguments import as_did, whole_number
from signedwire.config import TransportConfig
from signedwire.delivery.message import OutgoingMessage, SendOptions
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.store import (
    DeadLetter,
    Dispatch,
    OutgoingRow,
    RowName,
    SqliteStore,
    Store,
    StoreLimits,
)
from signedwire.environment import expand_home
from signedwire.errors import EnvelopeError
from signedwire.folders import sync_folder
from signedwire.home import Bound
from signedwire.identity import Identity
from signedwire.transport.core import NodeCore
from signedwire.transport.outlast import open_in_thread
from signedwire.types import Did, Reason
from signedwire.wire.envelope import MerklePath, SignedEnvelope, sign_batch
from signedwire.wire.header import SENDER, V2_START

__all__ = [
    "DeadLetters",
    "Outbox",
    "copy_of",
    "export",
    "limits_of",
    "open_store",
]

_PAGE: Final = 500
_ANSWERED: Final = 1024
"""Leaves that a sender may repeat beyond its credit: those that were answered last."""

OutgoingRows: TypeAlias = list[OutgoingRow]
Letters: TypeAlias = list[DeadLetter]
Receipts: TypeAlias = list[Receipt]


class Outbox(Bound, instead="pass what its `list()` gave"):
    """The messages of a node that wait in its store: `node.outbox`.

    Methods raise ClosedError where the node is not open, WrongContextError where it
    belongs to another event loop or process, StoreFailedError where its store has failed.
    """

    def __init__(self, core: NodeCore) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<Outbox of {self._core.runtime.config.store}>"

    async def list(
        self, recipient: Did | str | None = None, *, after: int = 0, limit: int = 100
    ) -> OutgoingRows:
        """What waits, peer by peer and lane by lane in the order of sending.

        Args:
            recipient: For whom; by default for everybody.
            after: The `id` of the last that is known already.
            limit: How many at most.
        """
        store, did = _store(self._core), _did(recipient)
        after, limit = whole_number(after, "after"), whole_number(limit, "limit")
        rows: OutgoingRows = []
        while len(rows) < limit:
            page = await asyncio.wrap_future(
                store.outbox(did, after=after, limit=min(limit - len(rows), _PAGE))
            )
            if not page:
                break
            rows += page
            after = page[-1].id
        return rows

    async def show(self, id_: int) -> OutgoingRow | None:
        """One of them; `None` where there is none of this `id`."""
        (id_,) = _ids((id_,))
        return await asyncio.wrap_future(_store(self._core).show(id_))

    async def drop(self, *ids: int) -> int:
        """Take messages out; tells how many there were.

        Their receipts fail with reason "dropped". One that is in flight may still arrive.
        Cancelling stops the waiting; they are dropped all the same.
        """
        core = self._core
        dropped: Future[list[RowName]] = _store(core).drop(_ids(ids))
        dropped.add_done_callback(partial(core.runtime.call_soon, _on_dropped, core))
        # Shielded: cancelled, it would not say what it has dropped.
        names = await asyncio.shield(asyncio.wrap_future(dropped))
        return len(names)

    async def retry(self, recipient: Did | str | None = None) -> int:
        """Try now to reach whom messages wait for, without a pause; tells how many peers.

        Args:
            recipient: Whom; by default everybody.
        """
        store, did = _store(self._core), _did(recipient)
        waiting = [each for each in store.recipients() if did in (None, each)]
        for each in waiting:
            store.reached(each)
            self._core.dialers.hurry(self._core.endpoint.peers.session(each))
        return len(waiting)

    async def flush(self) -> None:
        """Wait until all that was said before is on the disk, each `message.ack()` too."""
        store = _store(self._core)
        await asyncio.sleep(0)  # each `ack()` of this turn of the loop comes to the store
        await asyncio.wrap_future(store.flush())

    async def export(self, path: str | os.PathLike[str]) -> int:
        """Write what waits, and what was accepted and is not done; tells how many.

        One envelope in hex digits per line, each with its signature, so that anyone can
        check it: `signedwire verify FILE`. Those that wait are signed as they would be
        to be sent; of those that were accepted it is their senders' signature. Cancelling
        removes the file.

        Raises:
            FileExistsError: the file is there already; it is not overwritten.
            OSError: it cannot be written, or the path has a null character.
        """
        core, file = self._core, expand_home(path)
        return await open_in_thread(
            partial(export, _store(core), core.runtime.identity, file),
            lambda _: os.unlink(file),
            core.runtime.config.close_timeout,
        )


class DeadLetters(Bound, instead="pass what its `list()` gave"):
    """The messages of a node that were refused or given up: `node.dead`.

    Methods raise ClosedError where the node is not open, WrongContextError where it
    belongs to another event loop or process, StoreFailedError where its store has failed.
    """

    def __init__(self, core: NodeCore, replace: Callable[[DeadLetter], Awaitable[Receipt]]) -> None:
        self._core = core
        self._replace = replace
        self._busy: set[int] = set()

    def __repr__(self) -> str:
        return f"<DeadLetters of {self._core.runtime.config.store}>"

    async def list(
        self, recipient: Did | str | None = None, *, after: int = 0, limit: int = 100
    ) -> Letters:
        """Dead letters, the oldest first; `after` is the `id` of the last that is known."""
        store = _store(self._core)
        did = _did(recipient)
        after, limit = whole_number(after, "after"), whole_number(limit, "limit")
        letters: Letters = []
        while len(letters) < limit:
            page = await asyncio.wrap_future(
                store.dead_letters(did, after=after, limit=min(limit - len(letters), _PAGE))
            )
            if not page:
                break
            letters += page
            after = page[-1].id
        return letters

    async def show(self, id_: int) -> DeadLetter | None:
        """One of them; `None` where there is none of this `id`."""
        (id_,) = _ids((id_,))
        return await asyncio.wrap_future(_store(self._core).show_dead(id_))

    async def drop(self, *ids: int) -> int:
        """Forget dead letters; tells how many there were."""
        return await asyncio.wrap_future(_store(self._core).drop_dead(_ids(ids)))

    async def retry(self, *ids: int) -> Receipts:
        """Send what is in them again, as new messages without a deadline.

        Returns when those are in the store, and the dead letters are gone: both in one
        transaction. An `id` of which there is none is passed over.

        Raises:
            What `Node.send()` does, for the first that cannot be queued.
        """
        receipts = []
        for id_ in dict.fromkeys(_ids(ids)):
            if id_ in self._busy:
                continue  # another task sends it
            self._busy.add(id_)
            try:
                letter = await self.show(id_)
                if letter is not None:
                    receipts.append(await self._replace(letter))
            finally:
                self._busy.discard(id_)
        return receipts


def _store(core: NodeCore) -> Store:
    core.runtime.home.check_here()
    core.runtime.home.check_open()
    assert core.store is not None  # else there is no Outbox
    return core.store.store


def _did(recipient: Did | str | None) -> Did | None:
    return None if recipient is None else as_did(recipient)


def _ids(ids: Iterable[int]) -> list[int]:
    # Whatever is below 0 is the id of nothing, as 0 is.
    return [max(0, whole_number(id_, "id", least=-(2**70))) for id_ in ids]


def _on_dropped(core: NodeCore, dropped: Future[list[RowName]]) -> None:
    if core.store is not None and not dropped.cancelled() and dropped.exception() is None:
        core.store.removed_rows.end(dropped.result(), Reason.DROPPED)


# -- without a node ---------------------------------------------------------------------


def limits_of(config: TransportConfig) -> StoreLimits:
    """How much a store holds by a configuration."""
    default = StoreLimits()
    # A sender may repeat after a crash all that it had in flight.
    leaves = config.credit_messages + config.critical_reserve + _ANSWERED
    leaves = max(leaves, default.max_sender_leaves)
    return StoreLimits(
        max_rows=config.outbox_limit,
        max_bytes=config.outbox_bytes,
        max_peer_rows=config.outbox_peer_limit,
        max_peer_bytes=config.outbox_peer_bytes,
        max_unmet_peer_rows=config.unmet_peer_limit,
        max_unmet_peer_bytes=config.unmet_peer_bytes,
        max_unmet_bytes=config.unmet_bytes,
        max_unmet_age=config.unmet_max_age,
        critical_reserve=config.critical_reserve,
        max_dead_rows=config.dead_letter_limit,
        max_dead_bytes=config.dead_letter_bytes,
        max_inbox_rows=config.max_unacked_messages,
        max_inbox_bytes=config.max_unacked_bytes,
        max_inbox_peer_rows=config.max_unacked_peer_messages,
        max_sender_leaves=leaves,
        max_leaves=max(leaves, default.max_leaves),
    )


def open_store(config: TransportConfig, owner: Did, dispatch: Dispatch) -> Store:
    """The store that a configuration names, in a thread of its own.

    See `SqliteStore` for what it raises.
    """
    assert config.store is not None
    return SqliteStore(config.store, owner, limits=limits_of(config), dispatch=dispatch)


def copy_of(letter: DeadLetter) -> OutgoingMessage:
    """A message of what is in a dead letter, to be stored in its place. It has no deadline."""
    terms = SendOptions(letter.recipient, letter.priority, payload_type=letter.payload_type)
    return OutgoingMessage(terms, letter.message_number, letter.payload)


def export(store: Store, identity: Identity, path: str | os.PathLike[str]) -> int:
    """See `Outbox.export()`. Blocks; not for a loop in which the store calls back."""
    count = 0
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "a path has no null character", os.fspath(path))
    with open(path, "x", encoding="ascii", opener=_open_private) as file:
        try:
            for envelope in _envelopes(store, identity):
                file.write(f"{envelope.encode().hex()}\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
            sync_folder(os.path.dirname(path))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
    return count


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _envelopes(store: Store, identity: Identity) -> Iterator[SignedEnvelope]:
    after = 0
    while waiting := store.outbox(after=after, limit=_PAGE).result():
        for row in waiting:
            yield _sealed(row, identity)
        after = waiting[-1].id
    after = 0
    while unacked := store.unacked(after=after, limit=_PAGE).result():
        yield from (row.envelope for row in unacked)
        after = unacked[-1].id


def _sealed(row: OutgoingRow, identity: Identity) -> SignedEnvelope:
    """A row with the signature that a batch of it alone would have."""
    # Only what a node of this key has made: the file may have been changed.
    if not row.body.startswith(V2_START) or row.body[SENDER] != bytes(identity.did):
        raise EnvelopeError(
            f"message {row.id} in the store is not from {identity.did}; it was not signed",
            "Somebody has changed the store: trust nothing in it",
        )
    _, signature, leaves = sign_batch(identity, [row.body])
    return SignedEnvelope(row.body, MerklePath(0, 1, signature, leaves=leaves))
