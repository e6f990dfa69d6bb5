"""A receiver with a store that says in its system calls what it does: run it under strace.

    python -m crash.traced FILE COUNT [early]

It prints its address, takes COUNT messages, each done at once, and ends. Names of
batches are written to /dev/null, which only a tracer sees: "stored" by the thread of the
store inside the transaction, "signed" before the receipt is made. With "early" it is at
fault on purpose, and does not wait for the commit.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from signedwire import Address, Node, TransportConfig
from signedwire.delivery.peer_receiver import PeerReceiver
from signedwire.delivery.store import Marks, Store
from signedwire.delivery.store.ledger import PeerRecord
from signedwire.delivery.store.tables import BatchRow
from signedwire.delivery.store.work import Work
from signedwire.wire import link_frames as frames
from signedwire.wire.session import BatchReceived, Session

from .actor import RECEIVER

__all__: list[str] = []

_VOID: Final = os.open(os.devnull, os.O_WRONLY)
_HASH: Final = 32


def note(word: str, names: Sequence[bytes]) -> None:
    for name in names:
        os.write(_VOID, f"{word} {name[:8].hex()}\n".encode())


def watch() -> None:
    """Have it said what is stored and what is signed, each by its leaves."""
    leaves: dict[bytes, list[bytes]] = {}
    accept, receive, sign = Work.accept, PeerReceiver.receive, Session.send_receipts

    def accepting(
        work: Work, peer: PeerRecord, marks: Marks, batch: BatchRow, rows: Sequence[Any]
    ) -> None:
        accept(work, peer, marks, batch, rows)
        note("stored", [batch.leaves[at : at + _HASH] for at in range(0, len(batch.leaves), _HASH)])

    def receiving(receiver: PeerReceiver, batch: BatchReceived, *rest: Any) -> None:
        leaves[batch.root] = batch.leaves
        receive(receiver, batch, *rest)

    def signing(session: Session, kind: int, hashes: list[bytes], at_us: int, **more: Any) -> None:
        if kind == frames.ACCEPTED_BATCHES:
            for root in hashes:
                note("signed", leaves.pop(root))
        elif kind == frames.ACCEPTED_ENVELOPES:
            note("signed", hashes)
        sign(session, kind, hashes, at_us, **more)

    Work.accept = accepting  # type: ignore[assignment,method-assign]
    PeerReceiver.receive = receiving  # type: ignore[assignment,method-assign]
    Session.send_receipts = signing  # type: ignore[assignment,method-assign]


def be_early() -> None:
    """Call back before the commit."""
    accept = Store.accept

    def accepting(store: Store, *arguments: Any, **options: Any) -> range:
        *some, on_commit = arguments
        asyncio.get_running_loop().call_soon(on_commit, None)
        return accept(store, *some, **options)

    Store.accept = accepting  # type: ignore[assignment,method-assign]


async def _main(path: str, count: str, *options: str) -> None:
    watch()
    if "early" in options:
        be_early()
    config = TransportConfig(listen=Address("127.0.0.1", 0))
    async with Node(RECEIVER, config, store=path) as node:
        sys.stdout.write(f"{node.address}\n")
        sys.stdout.flush()
        for _ in range(int(count)):
            message = await node.receive()
            message.ack()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
