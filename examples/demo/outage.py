"""The fifth scene: two nodes with stores are both killed in the middle of a stream.

What each has said before it was killed is held against what came in the end, and
against what was in the two files meanwhile.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from benches.children import Child

from examples.demo.cast import wait_for
from examples.demo.keeper import Name, read_name
from examples.demo.stage import Stage
from signedwire import Address, Did, Identity
from signedwire.delivery.store import SqliteStore

__all__ = ["KeepingActor", "Ledger", "power_cut"]

_MESSAGES: Final = 2_000
_BEFORE, _AFTER = 1, 2  # streams: that of the process that is killed, and of the next
_KILL_AFTER: Final = 500
"""Messages noted."""
_TIMEOUT: Final = 6.0


class Ledger:
    """What the two have said, in the order in which they said it."""

    def __init__(self) -> None:
        self.persisted = {_BEFORE: 0, _AFTER: 0}
        """The last number of each stream that was told to be stored."""
        self.has_stored = threading.Event()
        """Set when one more is."""
        self.first: dict[int, list[int]] = {_BEFORE: [], _AFTER: []}
        """The numbers of each stream, as they came first."""
        self.done: set[Name] = set()
        """What was on the disk as done."""
        self.noted: set[Name] = set()
        self.again: list[Name] = []
        """What came marked `redelivered`."""
        self.unmarked: list[Name] = []
        """What came a second time and was not."""
        self.after_done: list[Name] = []
        """What came once more although it had been done."""

    def hear(self, news: dict[str, Any]) -> None:
        """Take down what one of them says."""
        if news["news"] == "persisted":
            self.persisted[news["stream"]] = news["last"]
            self.has_stored.set()
        elif news["news"] == "noted":
            self._note((news["stream"], news["number"]), is_marked=news["again"])
        else:
            self.done.update((stream, number) for stream, number in news["those"])

    def _note(self, name: Name, *, is_marked: bool) -> None:
        if name in self.done:
            self.after_done.append(name)
        if is_marked:
            self.again.append(name)
        elif name in self.noted:
            self.unmarked.append(name)
        if name not in self.noted:
            self.noted.add(name)
            self.first[name[0]].append(name[1])

    def look(self, undone: list[Name]) -> None:
        """Emil's file has these as not done: what else he noted is done, told or not."""
        self.done |= self.noted.difference(undone)

    def arrived(self, stream: int) -> tuple[int, bool]:
        """How many of those that were told to be stored came, and whether in order."""
        numbers = self.first[stream]
        count = sum(number <= self.persisted[stream] for number in numbers)
        return count, numbers == list(range(1, len(numbers) + 1))

    @property
    def arrived_both(self) -> tuple[tuple[int, int], bool]:
        """That of both streams."""
        (before, is_ordered), (after, is_ordered_too) = map(self.arrived, (_BEFORE, _AFTER))
        return (before, after), is_ordered and is_ordered_too


class KeepingActor:
    """A node with a store in a child process; it can be killed and started again."""

    def __init__(self, name: str, limit: float, folder: Path, ledger: Ledger) -> None:
        self.name = name
        self.path = folder / f"{name}.db"
        self._limit = limit
        self._ledger = ledger
        self._seed = secrets.token_bytes(32)
        self.did: Did = Identity.from_seed(self._seed).did
        self._child: Child | None = None
        self._next: Child | None = None
        self._opening: Future[Any] | None = None
        self.address = Address("127.0.0.1", 0)

    def prepare(self) -> None:
        """Start the process that will follow this one: Python takes its time."""
        self._next = Child(
            self.name, "examples.demo.keeper", limit=self._limit, on_news=self._ledger.hear
        )

    def launch(self) -> None:
        """Make a node of the next process, if there is none; `open()` waits for it."""
        if self._child is not None:
            return
        if self._next is None:
            self.prepare()
        self._child, self._next = self._next, None
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self._opening = self.child.begin(
            "open", seed=self._seed.hex(), port=self.address.port, store=str(self.path)
        )

    def open(self) -> None:
        """Wait until it listens; on the same port each time."""
        assert self._opening is not None
        self.address = Address.parse(self.child.result(self._opening, "open", _TIMEOUT)["address"])

    @property
    def child(self) -> Child:
        """Its process."""
        assert self._child is not None
        return self._child

    def kill(self) -> None:
        """End the process with SIGKILL; what it has said is heard when this returns."""
        self.child.close()
        self._child = None

    def close(self) -> None:
        """Kill what there is and free everything."""
        for child in (self._child, self._next):
            if child is not None:
                child.close()


def power_cut(stage: Stage, dora: KeepingActor, emil: KeepingActor, ledger: Ledger) -> None:
    """Kill both, start both, and see what came."""
    stage.scene(
        "5. A power cut",
        f"Dora and Emil have a store each. She sends {_MESSAGES:,} messages; he notes each, then",
        "calls ack(). Meanwhile both are killed at once, with SIGKILL, and start again.",
    )
    status = "run"
    stage.live(
        lambda: [
            f"    dora and emil {status}",
            f"    dora was told: stored {sum(ledger.persisted.values()):>7,}",
            f"    emil has noted        {len(ledger.noted):>7,}",
        ]
    )
    _start(dora, emil)
    for actor in (dora, emil):
        actor.prepare()
    dora.child.ask("begin", stream=_BEFORE, count=_MESSAGES)
    wait_for(lambda: len(ledger.noted) >= _KILL_AFTER, _TIMEOUT)
    ledger.has_stored.clear()
    ledger.has_stored.wait(_TIMEOUT)  # so that some are on their way
    _kill(dora, emil)
    status = "[bold red]were killed[/]"
    told, noted = ledger.persisted[_BEFORE], len(ledger.noted)
    waiting, undone = _look(dora, emil)
    ledger.look(undone)
    rest = _MESSAGES - told
    _start(dora, emil)
    status = "[bold green]are back[/]"
    dora.child.ask("begin", stream=_AFTER, count=rest)
    wait_for(lambda: ledger.arrived_both[0] == (told, rest), _TIMEOUT)
    left = _wait_for_rest(dora, emil, ledger)
    stage.live(list)
    stage.check(
        f"killed when {told:,} were stored; in their files",
        f"{waiting:,} to send, {len(undone):,} not done",
        f"fewer than {_MESSAGES:,}, and some noted",
        0 < told < _MESSAGES and noted > 0,
    )
    _check_arrivals(stage, ledger, (told, rest), undone)
    stage.check(
        "left in the two stores",
        f"{left['waiting']} to send, {left['not done']} not done, {left['dead']} dead",
        "0 to send, 0 not done, 0 dead",
    )


def _check_arrivals(
    stage: Stage, ledger: Ledger, told: tuple[int, int], undone: list[Name]
) -> None:
    """Whether what was told to be stored has come as it should have."""
    arrived, is_ordered = ledger.arrived_both
    stage.check(
        "all that were told stored have come, in order",
        f"{arrived[0]:,}/{told[0]:,}, then {arrived[1]:,}/{told[1]:,}",
        f"{told[0]:,} and {told[1]:,}, in order",
        arrived == told and is_ordered,
    )
    stage.check(
        "came again, not being done; so marked",
        f"{len(ledger.again):,}, all redelivered; {len(ledger.unmarked)} others",
        f"{len(undone):,}, all redelivered; 0 others",
        sorted(ledger.again) == sorted(undone) and not ledger.unmarked,
    )
    stage.check(
        "came again, though ack() was on the disk",
        f"{len(ledger.after_done)} of {len(ledger.done):,}",
        f"0 of {len(ledger.noted):,}",
    )


def _start(*actors: KeepingActor) -> None:
    """All of them, at once; those that are launched already are waited for."""
    for actor in actors:
        actor.launch()
    for actor in actors:
        actor.open()
    for actor, other in zip(actors, reversed(actors), strict=True):
        actor.child.ask("route", did=str(other.did), address=str(other.address))


def _kill(*actors: KeepingActor) -> None:
    """All at once; what they have said is heard when this returns."""
    for actor in actors:
        actor.child.begin_kill()
    for actor in actors:
        actor.kill()


def _look(dora: KeepingActor, emil: KeepingActor) -> tuple[int, list[Name]]:
    """What is in their files while nobody runs: how many wait; which are not done."""
    with contextlib.closing(SqliteStore(dora.path, dora.did, is_threaded=False)) as store:
        waiting = store.backlog().rows
    with contextlib.closing(SqliteStore(emil.path, emil.did, is_threaded=False)) as store:
        undone = store.unacked(limit=_MESSAGES).result()
    return waiting, [read_name(row.envelope.payload) for row in undone]


def _wait_for_rest(dora: KeepingActor, emil: KeepingActor, ledger: Ledger) -> Counter[str]:
    """Until nothing is left in their stores, or for some time; what is."""
    left: Counter[str] = Counter()

    def is_at_rest() -> bool:
        left.clear()
        for actor in (dora, emil):
            left.update(actor.child.ask("left", timeout=_TIMEOUT))
        return not left.total() and ledger.done == ledger.noted

    wait_for(is_at_rest, _TIMEOUT)
    return left
