"""Cancellation at any await of the public API, once or time after time: nothing is left.

Each run starts a node with the store and the evidence log of the run before, so that a
lock that was left fails the next one. It cancels one call at its k-th await: there alone,
at two awaits, or there and at every later one, as frameworks with cancel scopes do. Then
the node is closed, and tasks, threads and descriptors are counted.

`make cancellation` does 2000 of them; CANCELLATION_SEED repeats one campaign.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from signedwire import ClosedError, Message, Node, Receipt, TransportConfig
from signedwire.types import DeliveryState
from wirekit import ALICE, BOB, CAROL, LIMIT, eventually, on_both_loops

RUNS: Final = int(os.environ.get("CANCELLATION_RUNS", "200"))
"""In all: one half on each event loop."""
_PART: Final = 100
SEED: Final = int(os.environ.get("CANCELLATION_SEED", random.randrange(2**32)))
_MODES: Final = ("once", "twice", "from there on")
_MAX_AWAITS: Final = 14
_MOST_TO_LOSE: Final = ("start",) * 5 + ("close",) * 4


class CancelledAt:
    """Awaiting it runs `work` in the current task, and cancels that at those of its awaits."""

    def __init__(self, work: Coroutine[Any, Any, Any], is_due: Callable[[int], bool]) -> None:
        self._work = work
        self._is_due = is_due

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        loop, count = asyncio.get_running_loop(), 0
        step: Callable[[], Any] = partial(self._work.send, None)
        while True:
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value
            count += 1
            if self._is_due(count):
                loop.call_soon(task.cancel)
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it is given to the work
                step = partial(self._work.throw, error)
            else:
                step = partial(self._work.send, value)


async def _run(work: Coroutine[Any, Any, Any], is_due: Callable[[int], bool]) -> str:
    """What becomes of a call that is cancelled so."""

    async def driven() -> Any:
        return await CancelledAt(work, is_due)

    task = asyncio.ensure_future(driven())
    await asyncio.wait({task}, timeout=0.1)
    task.cancel()  # it waits for what does not come, and has no further await
    done, _ = await asyncio.wait({task}, timeout=LIMIT)
    assert done, "it was cancelled and did not end"
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    # It may have failed, or come to its end, before.
    assert error is None or isinstance(error, (ClosedError, TimeoutError, FileExistsError)), error
    return "done"


def due(draw: random.Random) -> tuple[str, Callable[[int], bool]]:
    """At which awaits to cancel, and that in words."""
    mode, first = draw.choice(_MODES), draw.randint(1, draw.randint(1, _MAX_AWAITS))
    second = first + draw.randint(1, 4)
    rules: dict[str, Callable[[int], bool]] = {
        "once": lambda count: count == first,
        "twice": lambda count: count in (first, second),
        "from there on": lambda count: count >= first,
    }
    return f"{mode} {first}", rules[mode]


def descriptors() -> set[str]:
    """What the process has open; not the folder that is being listed."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return {one for one in found if "/proc/" not in one}


class Run:
    """One node, one call of it that is cancelled, and what must not be left."""

    def __init__(self, folder: Path, bob: Node, number: int) -> None:
        config = TransportConfig(listen="127.0.0.1:0", close_timeout=0.05)
        files: dict[str, Any] = {"store": str(folder / "a.db"), "evidence": str(folder / "e.log")}
        self.node = Node(ALICE, config.replace(**files))
        self.node.routing.update(BOB.did, bob.address)
        self.bob = bob
        self.number = number
        self.folder = folder

    def calls(self) -> dict[str, Callable[[], Coroutine[Any, Any, Any]]]:
        """Every coroutine of the public API."""
        node, number = self.node, self.number
        return {
            "start": node.start,
            "close": node.close,
            "send": lambda: node.send(BOB.did, b"x", until="handled"),
            "send_many": lambda: node.send_many(BOB.did, [b"y"] * 40, until="accepted"),
            "receive": node.receive,
            "receive with a timeout": lambda: node.receive(0.02),
            "messages": lambda: first_of(node.messages()),
            "events": lambda: first_of(node.events()),
            "wait": lambda: node.send_nowait(CAROL.did, b"z").wait(DeliveryState.ACCEPTED),
            "rotate_evidence": lambda: node.rotate_evidence(self.folder / f"e.{number}"),
            "outbox.list": lambda: node.outbox.list(),
            "outbox.show": lambda: node.outbox.show(1),
            "outbox.drop": lambda: node.outbox.drop(*range(5)),
            "outbox.retry": lambda: node.outbox.retry(),
            "outbox.flush": lambda: node.outbox.flush(),
            "outbox.export": lambda: node.outbox.export(self.folder / f"out.{number}"),
            "dead.list": lambda: node.dead.list(),
            "dead.show": lambda: node.dead.show(1),
            "dead.drop": lambda: node.dead.drop(1),
            "dead.retry": lambda: node.dead.retry(1, 2),
        }

    async def cancelled(self, call: str, is_due: Callable[[int], bool]) -> None:
        node = self.node
        if call == "start":
            if await _run(node.start(), is_due) == "cancelled":
                assert not node.health().is_well
                with pytest.raises(ClosedError):
                    await node.send(BOB.did, b"x")
            return
        await node.start()
        # Something is queued for a peer that is not there, and on its way to one that is.
        node.routing.update(CAROL.did, "127.0.0.1:9")
        receipts = [node.send_nowait(CAROL.did, b"q"), node.send_nowait(BOB.did, b"w")]
        is_own = call in ("receive", "messages", "receive with a timeout")
        if is_own:
            await receipts[1].wait(DeliveryState.ACCEPTED, LIMIT)
            # Over Alice's link: Bob does not dial, which would be a task of his.
            receipts.append(self.bob.send_nowait(ALICE.did, b"%d" % self.number))
        ended = await _run(self.calls()[call](), is_due)
        if call == "outbox.export" and ended == "cancelled":
            # Its thread does that later, where there is much to write.
            out = f"out.{self.number}"
            await eventually(lambda: out not in os.listdir(self.folder))
        if call == "close" and ended == "cancelled":
            assert node.health().problems == ("the node is closed",)
        if is_own and ended == "cancelled":
            # It is not lost: whoever asks next has it.
            message = await node.receive(LIMIT)
            assert isinstance(message, Message)
            message.ack()
        self.check_waiters(receipts)

    def check_waiters(self, receipts: list[Receipt]) -> None:
        assert not any(receipt._changed for receipt in receipts)
        core = self.node._core
        assert not core.endpoint.inbox._waiters
        assert not [one for one in core.runtime.events._watchers if one() is not None]


async def first_of(items: Any) -> Any:
    async with contextlib.aclosing(items):
        return await anext(items)


async def eat(node: Node) -> None:
    async for message in node.messages():
        message.ack()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("part", range(-(-RUNS // 2 // _PART)))
@on_both_loops
async def test_nothing_is_left_of_what_was_cancelled(tmp_path: Path, part: int) -> None:
    draw = random.Random(SEED + part)
    async with Node(BOB, TransportConfig(listen="127.0.0.1:0")) as bob:
        eating = asyncio.create_task(eat(bob))
        for number in range(_PART):
            run, (words, is_due) = Run(tmp_path, bob, number), due(draw)
            call = draw.choice([*sorted(run.calls()), *_MOST_TO_LOSE])
            tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
            # A link between the two is Bob's, too, and goes with Alice.
            before = descriptors()
            where = f"CANCELLATION_SEED={SEED}, part {part}, run {number}: {call}, {words}"
            try:
                await run.cancelled(call, is_due)
                is_over = call in ("start", "close") and not run.node._core.runtime.is_open
                if not is_over:
                    await run.node.close()
                await eventually(lambda b=before: descriptors() <= b, 5)  # type: ignore[misc]
                await eventually(lambda t=tasks: asyncio.all_tasks() <= t, 5)  # type: ignore[misc]
                # An export that was cancelled ends with the store.
                await eventually(lambda t=threads: set(threading.enumerate()) <= t, 5)  # type: ignore[misc]
            except BaseException as error:
                left = descriptors() - before, asyncio.all_tasks() - tasks
                error.add_note(f"{where}; left: {left}, {set(threading.enumerate()) - threads}")
                raise
        eating.cancel()
