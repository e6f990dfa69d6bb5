"""Methods for any thread leave the state of the event loop to the loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from signedwire import Node, NotAllowedError
from signedwire.delivery import session_map as session_map_module
from signedwire.delivery.answer_queue import AnswerQueue
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.inbox_budget import InboxBudget
from signedwire.delivery.peer_receiver import PeerReceiver
from signedwire.delivery.session_map import SessionMap
from signedwire.transport.memory import MemoryNetwork
from tlskit import quick
from wirekit import ALICE, BOB, identity, on_both_loops

LOOP_ONLY: tuple[tuple[type, str], ...] = (
    (AnswerQueue, "flush"),
    (Endpoint, "_enforce"),
    (Endpoint, "send_stranded"),
    (Endpoint, "send_waiting"),
    (InboxBudget, "add"),
    (InboxBudget, "forget"),
    (PeerReceiver, "forget"),
    (SessionMap, "_drop"),
    (SessionMap, "_forget_sender"),
)


@on_both_loops
async def test_only_the_loop_changes_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_map_module, "_MAX_STRANGERS", 2)
    callers: dict[str, Counter[int]] = {}

    def record(owner: type, name: str) -> None:
        method: Callable[..., Any] = getattr(owner, name)
        seen = callers[f"{owner.__name__}.{name}"] = Counter()

        def recorded(*arguments: Any, **options: Any) -> Any:
            seen[threading.get_ident()] += 1
            return method(*arguments, **options)

        monkeypatch.setattr(owner, name, recorded)

    network = MemoryNetwork()
    async with (
        Node(ALICE, quick(fallback="nobody:1"), network=network) as alice,
        Node(BOB, quick(), network=network) as bob,
    ):
        assert alice.address is not None
        bob.routing.update(alice.did, alice.address)
        for number in range(20):
            await bob.send(alice.did, b"%d" % number)
        for owner, name in LOOP_ONLY:
            record(owner, name)
        strangers = [identity(number).did for number in range(500, 550)]
        for number in range(550, 560):
            session = alice._core.endpoint.sessions.session(identity(number).did)
            assert session.receiver.is_empty
            assert not session.sender.lanes

        def work() -> None:
            for did in strangers:
                with contextlib.suppress(NotAllowedError):
                    alice.send_nowait(did, b"x")
                alice.peers()
                alice.stats()
                message = alice.receive_nowait()
                if message is not None:
                    message.ack()
                alice.access.deny(did)
                alice.access.undeny(did)
                alice.routing.update(did, "nobody:1")

        await asyncio.to_thread(work)
        await asyncio.sleep(0.05)
        loop = {threading.get_ident()}
        assert all(seen.keys() <= loop for seen in callers.values()), callers
        never = [name for name, seen in callers.items() if not seen]
        assert not never, "the test would not see a call in another thread"
