"""One side of an exchange of some messages, while its system calls fail or kill it.

    python -m crash.exchange sender|receiver FILE SEED PORT FIRST [PEER_PORT COUNT]

Obeys and speaks as `actor` does. A call that raises is said as FAILED, with a `detail` of
1 where the error names the store; QUIET carries 1 where the store has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from functools import partial

from signedwire import (
    Address,
    DeliveryFailedError,
    DeliveryState,
    Node,
    Priority,
    Reason,
    Receipt,
    TransportConfig,
)
from signedwire.delivery.message import Message
from signedwire.delivery.store import OnCommit, Store, sqlite_tables
from signedwire.errors import StoreError, StoreOpenError

from .actor import RECEIVER, SENDER, obey, say, say_of, store_of
from .records import Kind

__all__ = ["CANNOT_OPEN"]

CANNOT_OPEN = 4
"""Exit code: the store could not be opened, and stderr says why."""
_LANE = Priority.NORMAL


async def _send_one(node: Node, number: int) -> Receipt | None:
    try:
        receipt = await node.send(RECEIVER.did, number.to_bytes(8, "little"), priority=_LANE)
    except (StoreError, DeliveryFailedError) as error:
        is_of_store = isinstance(error, StoreError) or error.reason is Reason.STORE_FAILED
        say((Kind.FAILED, _LANE, int(is_of_store), number))
        return None
    say((Kind.PERSISTED, _LANE, 0, number))
    return receipt


async def _follow(number: int, receipt: Receipt) -> None:
    with contextlib.suppress(DeliveryFailedError):
        await receipt.wait(DeliveryState.ACCEPTED)
        say((Kind.ACCEPTED, _LANE, 0, number))


async def send(node: Node, first: int, count: int) -> None:
    """Alone and in bursts; when all are on their way to a receipt, say so."""
    tasks: list[asyncio.Task[None]] = []
    numbers, store = iter(range(first, first + count)), store_of(node)
    for burst in (1, 1, 2, 6, 1, 1, 3, 5) * count:
        some = [number for number, _ in zip(numbers, range(burst), strict=False)]
        if not some or store.failure is not None:  # then no link may come either
            break
        receipts = await asyncio.gather(*(_send_one(node, number) for number in some))
        for number, receipt in zip(some, receipts, strict=True):
            if receipt is not None:
                tasks.append(asyncio.create_task(_follow(number, receipt)))
        if burst < 5 and tasks:  # let receipts come between, and first of all the link
            patience = 3.0 if len(tasks) == 1 else 0.1
            await asyncio.wait({tasks[-1]}, timeout=patience)
    while tasks and store.failure is None:
        _, left = await asyncio.wait(tasks, timeout=0.05)
        tasks = list(left)
    if store.failure is not None:
        await _send_one(node, first + count)  # whoever asks is told
    say((Kind.QUIET, 0, 0, int(store.failure is not None)))
    await asyncio.gather(*tasks)
    await asyncio.Event().wait()


async def receive(node: Node) -> None:
    """Take and finish, in threes."""
    store, taken, has_said = store_of(node), list[Message](), False
    while True:
        message: Message | None = None
        with contextlib.suppress(TimeoutError):
            message = await node.receive(timeout=0.05)
        if message is not None:
            say(
                (
                    Kind.DELIVERED,
                    message.priority,
                    int(message.redelivered),
                    int.from_bytes(message.payload[:8], "little"),
                )
            )
            taken.append(message)
        if taken and (message is None or len(taken) == 3):
            say_of(Kind.FINISHING, taken)
            for each in taken:
                each.ack()
            on_commit, taken = partial(_on_done, taken), []
            asyncio.get_running_loop().call_soon(_barrier, store, on_commit)
        if store.failure is not None and not has_said:
            has_said = True
            say((Kind.QUIET, 0, 0, 1))


def _barrier(store: Store, on_commit: OnCommit) -> None:
    """Told when all that was done in the turn before is on the disk."""
    with contextlib.suppress(StoreError):
        store.barrier(on_commit)


def _on_done(messages: list[Message], error: StoreError | None) -> None:
    if error is None:
        say_of(Kind.DONE, messages)


async def _main(role: str, path: str, seed: str, port: str, first: str, *rest: str) -> int:
    is_sender = role == "sender"
    config = TransportConfig(listen=Address("127.0.0.1", int(port)))
    node = Node(SENDER if is_sender else RECEIVER, config, store=path)
    if is_sender:
        node.routing.update(RECEIVER.did, Address("127.0.0.1", int(rest[0])))
    try:
        await node.start()
    except StoreOpenError as error:
        sys.stderr.write(f"{error}\n")
        return CANNOT_OPEN
    try:
        say((Kind.READY, 0, 0, 0))
        work = asyncio.create_task(
            send(node, int(first), int(rest[1])) if is_sender else receive(node)
        )
        obeying = asyncio.create_task(obey(None))
        await asyncio.wait({work, obeying}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    finally:
        await node.close()
    return 0


if __name__ == "__main__":
    # That the store has failed is told in other ways here; whatever else is logged is a fault.
    logging.getLogger("signedwire.transport").addFilter(
        lambda record: "has failed: " not in record.getMessage()
    )
    # Faults are to hit what is copied back from the WAL, too, and its new beginning.
    sqlite_tables._CHECKPOINT_BYTES = 64 * 1024  # type: ignore[misc]
    sys.exit(asyncio.run(_main(*sys.argv[1:])))
