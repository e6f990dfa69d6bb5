"""The cap of a route, over a fast path in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from signedwire import Address
from signedwire.transport.link_output import LinkOutput

from .slow_links import SlowLink, in_virtual_time

_CAP = 200_000
_SIZE = 10_000
_COUNT = 150


@pytest.mark.parametrize("is_dialed_by_peer", [False, True])
def test_it_holds_and_is_reached(*, is_dialed_by_peer: bool) -> None:
    async def script(link: SlowLink) -> float:
        loop, alice, bob = link.loop, link.alice, link.bob
        alice.routing.update(bob.did, Address("10.0.0.2", 4000), max_rate="200kB/s")
        context = link.owners[1].context
        if is_dialed_by_peer:
            bob.routing.update(alice.did, Address("10.0.0.1", 4000))
            await loop.create_task(bob.send(alice.did, b"hello"), context=context)

        async def take() -> None:
            for _ in range(_COUNT):
                await bob.receive()

        taking = loop.create_task(take(), context=context)
        begin = loop.now
        await alice.send_many(bob.did, [bytes(_SIZE)] * _COUNT)
        await taking
        return _COUNT * _SIZE / (loop.now - begin)

    rate = in_virtual_time(script, rate=5e6, delay=0.01)
    assert 0.9 * _CAP <= rate <= 1.05 * _CAP


def test_a_cap_does_not_cost_a_timer_for_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    pumps = 0
    pump = LinkOutput.pump

    def count(self: LinkOutput) -> None:
        nonlocal pumps
        pumps += 1
        pump(self)

    monkeypatch.setattr(LinkOutput, "pump", count)

    async def script(link: SlowLink) -> None:
        alice, bob = link.alice, link.bob
        alice.routing.update(bob.did, Address("10.0.0.2", 4000), max_rate="30kB/s")
        for _ in range(10):
            alice.send_nowait(bob.did, bytes(_CAP), priority="low")
        for _ in range(600):
            alice.send_nowait(bob.did, bytes(60), deadline=0.1)
            await asyncio.sleep(0.01)

    in_virtual_time(script, rate=5e6, delay=0.01)
    assert pumps <= 6 * 400
