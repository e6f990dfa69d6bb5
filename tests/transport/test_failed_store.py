"""What peers learn of a node whose store has failed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from signedwire import FailureKind, Node, Reason, StoreFailedError
from tlskit import quick
from wirekit import ALICE, BOB, eventually, on_both_loops


@pytest.mark.parametrize("dials", ["the other", "the node"])
@on_both_loops
async def test_no_peer_takes_it_for_a_denial(
    dials: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "signedwire.transport")
    async with Node(ALICE, quick()) as alice, Node(BOB, quick(), store=tmp_path / "bob.db") as bob:
        assert alice.address is not None
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        if dials == "the node":
            bob.routing.update(alice.did, alice.address)
            bob.send_nowait(alice.did, b"stored before")
        error = StoreFailedError("bob.db", "disk full", "nothing more is kept")
        assert bob._core.store is not None
        monkeypatch.setattr(bob._core.store.store._executor, "failure", error)
        try:
            receipt = alice.send_nowait(bob.did, b"x")
            await eventually(lambda: bob.stats().dropped.get(Reason.STORE_FAILED, 0) >= 3)
            await eventually(lambda: alice.peers()[bob.did].last_error is not None)
            peer = alice.peers()[bob.did]
            assert not peer.denies_us
            assert peer.last_error_kind is FailureKind.CLOSED
            assert "the store has failed" in str(peer.last_error)
            assert not receipt.is_final, "an orderly end costs no attempt"
            assert Reason.DENIED not in bob.stats().dropped
            assert Reason.STALE_EPOCH not in alice.stats().dropped, "each HELLO has one epoch"
            assert bob._core.endpoint.denial_log._logged == {}
        finally:
            monkeypatch.undo()
