"""`repr()` of each public object is one useful line without a payload or a secret."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

import signedwire
from signedwire import MemoryNetwork, Node, RoutingTable, SignedEnvelope, TransportConfig, sync
from wirekit import ALICE, BOB

SECRET = b"the payload that nobody logs"


async def everything(folder: Path) -> dict[str, Any]:
    """One of each object that a program gets to see, by its name."""
    network, routing = MemoryNetwork(seed=7), RoutingTable()
    config = TransportConfig(listen="127.0.0.1:0", max_attempts=5, close_timeout=0.1)
    found: dict[str, Any] = {}
    async with (
        Node(ALICE, config, routing, store=folder / "a.db", network=network) as alice,
        Node(BOB, evidence=folder / "e.log", network=network) as bob,
    ):
        routing.update(BOB.did, bob.address)
        receipt = await alice.send(BOB.did, SECRET, until="accepted")
        message = await bob.receive(10)
        proof = signedwire.verify_receipt(receipt.proof())
        message.nack("too large")
        with pytest.raises(signedwire.MessageRefusedError) as refused:
            await receipt.wait("handled", 10)
        (letter,) = await alice.dead.list()
        await alice.send(BOB.did, SECRET)
        bob_did = BOB.did
        routing.update(ALICE.did, "127.0.0.1:9")
        (status,) = alice.peers().values()
        absent = signedwire.Identity.generate().did
        routing.update(absent, "127.0.0.1:9")
        await alice.send(absent, SECRET)
        (row,) = await alice.outbox.list(absent)
        things: list[Any] = [
            *(network, routing, config, alice, bob, receipt, message, proof, letter, status, row),
            *(alice.outbox, alice.dead, alice.access, alice.stats(), bob.stats(), alice.health()),
            *(alice.pool_stats(), bob.evidence_head(), alice.stats().store, bob_did, bob.address),
            *(message.envelope, message.envelope.merkle_path, ALICE, refused.value, row.priority),
            bob.stats().evidence,
        ]
        store = alice.stats().store
        assert store is not None
        things.append(store.outbox)
        things.append(SignedEnvelope.unsigned(ALICE.did, BOB.did, SECRET, sequence_number=1))
        for thing in things:
            found[f"{type(thing).__name__}-{len(found)}"] = repr(thing)
    with sync.Node(ALICE, config, store=folder / "s.db", network=network) as blocking:
        for part in (blocking, blocking.outbox, blocking.dead):
            found[f"sync.{type(part).__name__}"] = repr(part)
    with signedwire.MemoryTransport(config, routing, network) as transport:
        found["MemoryTransport"] = repr(transport)
    return found


async def test_each_is_one_line_without_payload_or_secret(tmp_path: Path) -> None:
    found = await everything(tmp_path)
    seed = ALICE._secret_key[:32]
    for name, text in found.items():
        assert "\n" not in text, name
        assert " object at 0x" not in text, f"{name} says nothing: {text}"
        assert SECRET.decode() not in text, name
        assert repr(SECRET)[2:-1] not in text, name
        assert seed.hex() not in text, name
        assert repr(seed)[2:-1] not in text, name
        assert len(text) < 1200, f"{name}: {text}"
    kinds = {name.rpartition("-")[0] or name for name in found}
    assert len(kinds) >= 25


def test_a_configuration_shows_what_is_not_the_default() -> None:
    assert repr(TransportConfig()) == "TransportConfig()"
    config = TransportConfig(listen=None, max_attempts=5)
    assert repr(config) == "TransportConfig(listen=None, max_attempts=5)"
    namespace = {"TransportConfig": TransportConfig}
    assert eval(repr(config), namespace) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_every_public_class_has_a_repr_of_its_own() -> None:
    for name in signedwire.__all__:
        kind = getattr(signedwire, name)
        is_interface = getattr(kind, "_is_protocol", False)  # it has no objects of its own
        if inspect.isclass(kind) and not issubclass(kind, BaseException) and not is_interface:
            assert kind.__repr__ is not object.__repr__, name
            assert not dataclasses.is_dataclass(kind) or "__repr__" in vars(kind), name
