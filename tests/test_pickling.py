"""What belongs to a node is neither pickled nor copied, and says what to pass in its place."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from signedwire import (
    Address,
    Did,
    Identity,
    MemoryNetwork,
    MemoryTransport,
    Node,
    Reason,
    RoutingTable,
    SignedWireError,
    TcpTransport,
    TransportConfig,
    errors,
    sync,
)

WAYS: dict[str, Callable[[Any], object]] = {
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@each_way
async def test_what_belongs_to_a_node(way: Callable[[Any], object]) -> None:
    network = MemoryNetwork(seed=1)
    a, b = Identity.generate(), Identity.generate()
    config = TransportConfig(listen=None)
    async with Node(a, network=network) as alice, Node(b, network=network) as bob:
        alice.routing.update(b.did, bob.address)
        receipt = await alice.send(b.did, b"x")
        message = await bob.receive()
        with sync.Node(a, config) as blocking:
            for thing, says in (
                (message, "a Message can be neither pickled nor copied: pass its `payload`"),
                (receipt, "a Receipt can be neither pickled nor copied: pass its `state`"),
                (alice, "a Node can be neither pickled nor copied: pass the path of its key file"),
                (blocking, "a sync.Node can be neither pickled nor copied: pass the path"),
                (alice.access, "an AccessList can be neither pickled nor copied"),
                (a, "an Identity can be neither pickled nor copied"),
            ):
                with pytest.raises(TypeError) as caught:
                    way(thing)
                assert str(caught.value).startswith(says), caught.value
                # In a list of work for other processes, too.
                if way is not copy.copy:
                    with pytest.raises(TypeError, match="neither pickled nor copied"):
                        way([thing])
        # What the texts offer can be passed.
        for part in (message.payload, message.envelope, receipt.state, receipt.proof()):
            assert pickle.loads(pickle.dumps(part)) == part


@each_way
async def test_what_a_node_holds_in_its_store(way: Callable[[Any], object], tmp_path: Path) -> None:
    a, b = Identity.generate(), Identity.generate()
    config = TransportConfig(listen=None)
    async with Node(a, config, store=tmp_path / "a.db") as alice:
        alice.routing.update(b.did, "127.0.0.1:1")
        await alice.send(b.did, b"x")
        with sync.Node(b, config, store=tmp_path / "b.db") as blocking:
            for thing, says in (
                (alice.outbox, "an Outbox can be neither pickled nor copied: pass what its"),
                (alice.dead, "a DeadLetters can be neither pickled nor copied: pass what its"),
                (blocking.outbox, "a sync.Outbox can be neither pickled nor copied: pass what"),
                (blocking.dead, "a sync.DeadLetters can be neither pickled nor copied: pass"),
            ):
                with pytest.raises(TypeError) as caught:
                    way(thing)
                assert str(caught.value).startswith(says), caught.value
        # What the texts offer can be passed.
        (row,) = await alice.outbox.list()
        assert [each.payload for each in passed(row)] == [b"x"] * 3


@each_way
def test_networks_and_transports(way: Callable[[Any], object]) -> None:
    """A copy would meet nobody, or share the sockets."""
    network = MemoryNetwork(seed=1)
    with (
        TcpTransport(TransportConfig(listen=None), RoutingTable()) as tcp,
        MemoryTransport(TransportConfig(listen=None), RoutingTable(), network) as memory,
    ):
        for thing, says in (
            (network, "a MemoryNetwork can be neither pickled nor copied: give the same one"),
            (tcp, "a TcpTransport can be neither pickled nor copied: make another there"),
            (memory, "a MemoryTransport can be neither pickled nor copied: make another there"),
        ):
            with pytest.raises(TypeError) as caught:
                way(thing)
            assert str(caught.value).startswith(says), caught.value


@each_way
async def test_what_is_followed(way: Callable[[Any], object]) -> None:
    """Python itself refuses generators, in words of its own."""
    node = Node(Identity.generate(), network=MemoryNetwork(seed=1))
    for following in (node.events(), node.messages()):
        with pytest.raises(TypeError, match="cannot pickle 'async_generator' object"):
            way(following)


def passed(thing: Any) -> list[Any]:
    """`thing` as each way gives it."""
    return [pickle.loads(pickle.dumps(thing)), copy.copy(thing), copy.deepcopy(thing)]


def test_a_copy_of_a_routing_table_is_a_table_of_its_own() -> None:
    did, other = Identity.generate().did, Identity.generate().did
    table = RoutingTable({did: "127.0.0.1:1"})
    for each in passed(table):
        each.update(other, "127.0.0.1:2")
        assert len(table) == 1
        assert dict(each) == {did: Address("127.0.0.1", 1), other: Address("127.0.0.1", 2)}


def test_a_configuration_stays_itself() -> None:
    config = TransportConfig(store="x.db", v1_peers=[Identity.generate().did])
    assert all(each == config for each in passed(config))


KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, SignedWireError)
]


class _Receipt:
    """All that the errors of a receipt look at."""

    def __init__(self, recipient: Did) -> None:
        self.recipient = recipient

    def __reduce__(self) -> str:
        raise TypeError("bound to its node")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_comes_through_a_pool_of_processes(kind: type[SignedWireError]) -> None:
    did = Identity.generate().did
    values: dict[str, object] = {
        "receipt": _Receipt(did),
        "recipient": did,
        "reason": Reason.CLOSED,
        "address": Address("127.0.0.1", 1),
    }
    parameters = list(inspect.signature(kind).parameters.values())
    make: Callable[..., SignedWireError] = kind
    error = make(
        *(
            values.get(each.name, f"the {each.name}")
            for each in parameters
            if each.name == "hint" or each.default is inspect.Parameter.empty
        )
    )
    error.receipts = (_Receipt(did),)  # type: ignore[assignment]
    error.add_note("a note")
    for other in passed(error):
        assert type(other) is kind
        assert (str(other), other.args) == (str(error), error.args)
        left = {"receipt", "receipts"}
        assert vars(other) == {k: v for k, v in vars(error).items() if k not in left}
        assert other.receipts == ()
