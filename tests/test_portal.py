"""The thread with a loop: results, errors, Ctrl-C, and calls that race with its end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from typing import Any

import pytest

from signedwire.errors import ClosedError
from signedwire.portal import Portal, new_event_loop
from wirekit import LIMIT, random_seed, signedwire_threads


async def answer(value: int = 42) -> int:
    await asyncio.sleep(0)
    return value


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


def test_results_and_errors() -> None:
    async def fail() -> None:
        raise LookupError("told")

    portal = Portal("signedwire-test")
    assert portal.call(answer) == 42
    with pytest.raises(LookupError, match="told"):
        portal.call(fail)
    assert portal.loop.is_running()
    portal.close()
    assert not signedwire_threads()


def test_a_call_that_cancels_itself() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    portal = Portal("signedwire-test")
    with pytest.raises(concurrent.futures.CancelledError):
        portal.call(give_up)
    portal.close()


def test_after_its_end() -> None:
    portal = Portal("signedwire-test")
    portal.close()
    portal.close()
    with pytest.raises(ClosedError):
        portal.call(answer)


def test_a_blocking_call_in_its_own_thread() -> None:
    portal = Portal("signedwire-test")

    async def nested() -> None:
        portal.close()  # does nothing: it would wait for itself
        portal.call(answer)

    with pytest.raises(RuntimeError, match=r"waits? for ever"):
        portal.call(nested)
    assert portal.call(answer) == 42
    portal.close()


def test_a_call_that_waits_when_it_is_closed() -> None:
    portal = Portal("signedwire-test")
    outcome: list[BaseException] = []

    def call() -> None:
        try:
            portal.call(wait_for_ever)
        except BaseException as error:  # noqa: BLE001
            outcome.append(error)

    waiting = threading.Thread(target=call)
    waiting.start()
    while not portal.call(count_tasks) > 1:
        pass
    portal.close()
    waiting.join(LIMIT)
    assert not waiting.is_alive()
    assert isinstance(outcome[0], ClosedError), outcome


async def count_tasks() -> int:
    return len(asyncio.all_tasks())


def test_an_interrupt_cancels_the_call_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    portal = Portal("signedwire-test")
    was_cancelled = threading.Event()

    async def watched() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.set()
            raise

    class Interrupted:
        def __init__(self, future: object) -> None:
            self._future = future

        def result(self) -> None:
            portal.call(answer)  # it has begun
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> object:
            return getattr(self._future, name)

    original = asyncio.run_coroutine_threadsafe
    with monkeypatch.context() as patch:
        first = [True]

        def interrupt_first(coroutine: Any, loop: Any) -> Any:
            future: Any = original(coroutine, loop)
            return Interrupted(future) if first and first.pop() else future

        patch.setattr(asyncio, "run_coroutine_threadsafe", interrupt_first)
        with pytest.raises(KeyboardInterrupt):
            portal.call(watched)
    assert was_cancelled.wait(LIMIT)
    assert portal.call(answer) == 42
    portal.close()


def test_calls_that_race_with_the_end_never_hang() -> None:
    seed, rng = random_seed()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(60):
            portal = Portal("signedwire-test")
            outcomes: list[object] = []

            def call(portal: Portal = portal, outcomes: list[object] = outcomes) -> None:
                try:
                    while True:
                        outcomes.append(portal.call(answer))
                except BaseException as end:  # noqa: BLE001
                    outcomes.append(end)

            callers = [threading.Thread(target=call, daemon=True) for _ in range(4)]
            closers = [threading.Thread(target=portal.close, daemon=True) for _ in range(2)]
            for thread in callers:
                thread.start()
            for _ in range(rng.randrange(20)):
                portal.call(answer)
            for thread in closers:
                thread.start()
            for thread in callers + closers:
                thread.join(LIMIT)
                assert not thread.is_alive(), f"seed={seed}"
            errors = [outcome for outcome in outcomes if outcome != 42]
            assert len(errors) == 4
            assert {type(error) for error in errors} == {ClosedError}, (seed, errors)
    finally:
        sys.setswitchinterval(interval)


def test_the_end_does_not_wait_for_a_slow_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """`getaddrinfo` cannot be stopped; the thread that is in it must not hold `close()` up."""
    portal = Portal("signedwire-test")
    started, may_end = threading.Event(), threading.Event()

    def resolve() -> None:
        started.set()
        may_end.wait(LIMIT)

    async def ask() -> None:
        asyncio.get_running_loop().run_in_executor(None, resolve)

    portal.call(ask)
    assert started.wait(LIMIT)
    closing = threading.Thread(target=portal.close)
    closing.start()
    closing.join(2)
    has_closed = not closing.is_alive()
    may_end.set()
    closing.join(LIMIT)
    assert has_closed


def test_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_event_loop()
    assert type(loop).__module__.startswith("asyncio")
    loop.close()
