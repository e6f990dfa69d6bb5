"""The messages in the store of a node: they can be listed, dropped, sent again and exported.

    Outbox        `node.outbox`  outgoing messages that have no answer yet
    DeadLetters   `node.dead`    outgoing messages that were refused or given up

The blocking classes of the same names are in `signedwire.sync`. `open_store()` opens the
store that a configuration names. `export()` needs a store but no node: the command line uses it on
the file of a node that does not run.
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

from signedwire.arguments import whole_number
from signedwire.config import TransportConfig
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
from signedwire.transport.own_thread import FileOpener
from signedwire.types import Did, Reason
from signedwire.wire.envelope import MerklePath, SignedEnvelope, sign_batch
from signedwire.wire.header import V2_START, sender_of

__all__ = [
    "DeadLetters",
    "Outbox",
    "export",
    "limits_of",
    "open_store",
]

_PAGE: Final = 500
"""Number of rows that are read at a time."""
_ANSWERED: Final = 1024
"""Number of remembered leaves of a sender beyond its credit. A sender may repeat answered
messages if their receipts were lost."""

OutgoingRows: TypeAlias = list[OutgoingRow]
Letters: TypeAlias = list[DeadLetter]
Receipts: TypeAlias = list[Receipt]


class Outbox(Bound, instead="pass what its `list()` gave"):
    """The outgoing messages in a node's store that have no answer yet, as `node.outbox`.

    Every method must be called in the event loop of the node.

    Raises:
        ClosedError: the node is not open.
        WrongContextError: the node belongs to another event loop or process.
        StoreFailedError: the store has failed.
    """

    def __init__(self, core: NodeCore) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<Outbox of {self._core.runtime.config.store}>"

    async def list(
        self, recipient: Did | str | None = None, *, after: int = 0, limit: int = 100
    ) -> OutgoingRows:
        """Return messages, peer by peer, and lane by lane in the order of sending.

        Args:
            recipient: The DID of one recipient; by default all recipients.
            after: The `id` of the last row of the previous page; 0: begin with the first row.
            limit: Maximum number of rows.
        """
        store, did = _store(self._core), _did(self._core, recipient)
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
        """Return the message with this `id`; `None` if there is none."""
        (id_,) = _ids((id_,))
        return await asyncio.wrap_future(_store(self._core).show(id_))

    async def drop(self, *ids: int) -> int:
        """Remove messages, and return how many existed.

        Their receipts fail with reason "dropped". A message in flight may still arrive.
        Cancelling ends the wait; the messages are removed nevertheless.

        Args:
            ids: The `id` of each message, as in `list()`.
        """
        core = self._core
        dropped: Future[list[RowName]] = _store(core).drop(_ids(ids))
        dropped.add_done_callback(partial(core.runtime.call_soon, _on_dropped, core))
        # Shielded, because a cancelled future has no result for `_on_dropped`.
        names = await asyncio.shield(asyncio.wrap_future(dropped))
        return len(names)

    async def retry(self, recipient: Did | str | None = None) -> int:
        """Dial at once the peers for which messages wait, and return how many they are.

        Without this, a dialer pauses between failed attempts. The counts of failed
        attempts are reset.

        Args:
            recipient: The DID of one peer; by default all peers.
        """
        store, did = _store(self._core), _did(self._core, recipient)
        waiting = [each for each in store.recipients() if did in (None, each)]
        for each in waiting:
            store.reset_attempts(each)
            self._core.dialers.hurry(self._core.endpoint.sessions.session(each))
        return len(waiting)

    async def flush(self) -> None:
        """Wait until everything submitted before is on the disk, also each `message.ack()`.

        Cancelling ends the wait; the changes are stored nevertheless.
        """
        store = _store(self._core)
        await asyncio.sleep(0)  # each `ack()` of this turn of the loop comes to the store
        await asyncio.wrap_future(store.flush())

    async def export(self, path: str | os.PathLike[str]) -> int:
        """Write the envelopes of all messages in the store to a file; return their number.

        These are the outgoing messages without an answer, and the received messages that
        the application has not acknowledged. Each line of the file is one envelope in
        hexadecimal digits with its signature: `signedwire verify FILE` verifies them. Outgoing
        messages are signed now; received ones have the signature of their sender.
        Cancelling removes the file.

        Args:
            path: Path of the file, which must not exist. `~` is expanded.

        Raises:
            FileExistsError: the file exists; it is not overwritten.
            OSError: the file cannot be written, or the path has a null character.
            EnvelopeError: another program has changed the store; the file was removed.
        """
        core, file = self._core, expand_home(path)
        opener = FileOpener(core.runtime.config.close_timeout)
        write = partial(export, _store(core), core.runtime.identity, file)
        return await opener.open(write, lambda _: os.unlink(file))


class DeadLetters(Bound, instead="pass what its `list()` gave"):
    """The outgoing messages of a node that were refused or given up, as `node.dead`.

    Every method must be called in the event loop of the node.

    Raises:
        ClosedError: the node is not open.
        WrongContextError: the node belongs to another event loop or process.
        StoreFailedError: the store has failed.
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
        """Return dead letters, the oldest first.

        Args:
            recipient: The DID of one recipient; by default all recipients.
            after: The `id` of the last letter of the previous page; 0: begin with the oldest.
            limit: Maximum number of letters.
        """
        store = _store(self._core)
        did = _did(self._core, recipient)
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
        """Return the dead letter with this `id`; `None` if there is none."""
        (id_,) = _ids((id_,))
        return await asyncio.wrap_future(_store(self._core).show_dead(id_))

    async def drop(self, *ids: int) -> int:
        """Remove dead letters, and return how many existed.

        Args:
            ids: The `id` of each dead letter, as in `list()`.
        """
        return await asyncio.wrap_future(_store(self._core).drop_dead(_ids(ids)))

    async def retry(self, *ids: int) -> Receipts:
        """Send the payloads of dead letters again, as new messages without a deadline.

        One transaction stores each new message and removes its dead letter.

        Args:
            ids: The `id` of each dead letter. An `id` that does not exist is skipped, and
                so is one that another task is sending now.

        Returns:
            The receipts of the new messages, which are in the store.

        Raises:
            StoreError: a letter is a request or a reply, which nobody waits for any more; or as
                for `Node.send()`, a message could not be stored. The messages before it were.
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
    assert core.store is not None  # a node without a store has no Outbox
    return core.store.store


def _did(core: NodeCore, recipient: Did | str | None) -> Did | None:
    return None if recipient is None else core.runtime.config.names.did_of(recipient)


def _ids(ids: Iterable[int]) -> list[int]:
    # No id is below 1, so that a negative one may be passed on as 0.
    return [max(0, whole_number(id_, "id", least=-(2**70))) for id_ in ids]


def _on_dropped(core: NodeCore, dropped: Future[list[RowName]]) -> None:
    if core.store is not None and not dropped.cancelled() and dropped.exception() is None:
        core.store.removed_rows.end(dropped.result(), Reason.DROPPED)


# -- without a node ---------------------------------------------------------------------


def limits_of(config: TransportConfig) -> StoreLimits:
    """Return the limits of a store that a configuration sets."""
    default = StoreLimits()
    # After a crash, a sender may repeat everything that it had in flight.
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
    """Open the store that a configuration names, with its own thread; blocks.

    Args:
        config: The configuration; its option `store` is set.
        owner: The node's DID.
        dispatch: Schedules the callbacks, such as `loop.call_soon_threadsafe`.

    Raises:
        StoreOpenError: the file cannot be used; see `SqliteStore`.
    """
    assert config.store is not None
    return SqliteStore(config.store, owner, limits=limits_of(config), dispatch=dispatch)


def export(store: Store, identity: Identity, path: str | os.PathLike[str]) -> int:
    """Write the messages in a store to a file as `Outbox.export()` does; blocks.

    It must not run in the thread in which the callbacks of the store run.

    Args:
        store: The store.
        identity: The node's key, which signs the outgoing messages.
        path: Path of the file, which must not exist.

    Returns:
        The number of envelopes.

    Raises:
        FileExistsError: the file exists; it is not overwritten.
        OSError: the file cannot be written, or the path has a null character.
        EnvelopeError: another program has changed the store; the file was removed.
    """
    count = 0
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "a path must not have a null character", os.fspath(path))
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
    """Return the envelope of a row, signed as a batch of one message."""
    # Sign only messages of this key, because another program may have changed the file.
    if not row.body.startswith(V2_START) or sender_of(row.body) != bytes(identity.did):
        raise EnvelopeError(
            f"message {row.id} in the store is not from {identity.did}; it was not signed",
            "Another program has changed the store: trust nothing in it",
        )
    _, signature, leaves = sign_batch(identity, [row.body])
    return SignedEnvelope(row.body, MerklePath(0, 1, signature, leaves=leaves))
