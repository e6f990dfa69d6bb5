"""The API as a type checker and `inspect` see it: one name, order and default for one idea."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import signedwire
import typekit
from signedwire import arguments, config, options, outbox, sync
from signedwire.arguments import text_of
from signedwire.config_changes import ConfigChanges
from signedwire.delivery import store
from signedwire.delivery.store import Store
from signedwire.types import DeliveryState, PayloadType, Priority
from signedwire.wire.link_frames import REASON_CODES

MODULES = {
    "": {name: getattr(signedwire, name) for name in signedwire.__all__},
    "sync.": {name: getattr(sync, name) for name in sync.__all__},
}
# What the transport alone makes: nobody calls it from outside.
_INSIDE = {"Message"}


def callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, class and method, with its name."""
    for prefix, names in MODULES.items():
        for name, value in names.items():
            if inspect.isclass(value):
                if "__init__" in vars(value) and not issubclass(value, BaseException):
                    yield f"{prefix}{name}", value
                for attribute in sorted(dir(value)):
                    member = inspect.getattr_static(value, attribute)
                    is_ours = (getattr(member, "__module__", None) or "").startswith("signedwire")
                    if isinstance(member, classmethod):
                        member, is_ours = member.__func__, value.__module__.startswith("signedwire")
                    if inspect.isfunction(member) and is_ours and not attribute.startswith("_"):
                        yield f"{prefix}{name}.{attribute}", member
            elif inspect.isfunction(value):
                yield f"{prefix}{name}", value


CALLABLES = {name: found for name, found in callables() if name not in _INSIDE}
# The parameters that wait or bound a wait, wherever they stand: place, default, annotation.
_WAITS = {
    "until": (None, "Until | None"),
    "timeout": (None, "float | None"),
    "deadline": (None, "Deadline"),
}
# Other names for the same ideas, which must not come back.
_REFUSED_NAMES = {"wait", "seconds", "timeout_s", "timeout_ms", "expires", "ttl", "level"}


def parameters(found: Callable[..., Any]) -> list[inspect.Parameter]:
    return [each for each in inspect.signature(found).parameters.values() if each.name != "self"]


def test_the_walk_finds_the_calls() -> None:
    assert {"Node.send", "sync.Node.send", "Receipt.wait", "TcpTransport.receive"} <= set(CALLABLES)
    assert {"RoutingTable.load", "load_config", "Outbox.list", "TransportConfig"} <= set(CALLABLES)
    assert len(CALLABLES) > 90


@pytest.mark.parametrize("name", CALLABLES)
def test_one_name_one_default_and_one_type_for_waiting(name: str) -> None:
    for parameter in parameters(CALLABLES[name]):
        # A default for all messages of a subject is no date.
        if parameter.name in _WAITS and name != "SubjectOptions":
            default, annotation = _WAITS[parameter.name]
            assert (parameter.default, parameter.annotation) == (default, annotation)
        is_field = dataclasses.is_dataclass(CALLABLES[name])
        assert is_field or parameter.name not in _REFUSED_NAMES, parameter


@pytest.mark.parametrize("name", CALLABLES)
def test_one_order_for_waiting(name: str) -> None:
    names = [parameter.name for parameter in parameters(CALLABLES[name])]
    wanted = [each for each in ("deadline", "until", "timeout") if each in names]
    assert [each for each in names if each in wanted] == wanted


def test_wait_and_result_take_the_same() -> None:
    wait, result = (parameters(CALLABLES[f"Receipt.{name}"]) for name in ("wait", "result"))
    assert wait == result
    assert [each.name for each in wait] == ["until", "timeout"]


@pytest.mark.parametrize(
    ("asynchronous", "blocking"),
    [
        (signedwire.Node, sync.Node),
        (outbox.Outbox, sync.Outbox),
        (outbox.DeadLetters, sync.DeadLetters),
    ],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_both_nodes_offer_the_same(asynchronous: type, blocking: type) -> None:
    def public(kind: type) -> dict[str, Any]:
        return {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}

    ours, theirs = public(asynchronous), public(blocking)
    ours.pop("start", None)  # the blocking one is started once it is made
    assert set(ours) == set(theirs)
    for name, member in ours.items():
        assert isinstance(member, property) == isinstance(theirs[name], property)
        if not isinstance(member, property):
            assert parameters(member) == parameters(theirs[name]), name
    if asynchronous is signedwire.Node:
        assert parameters(asynchronous) == parameters(blocking)


# -- no Any -----------------------------------------------------------------------------------


def contains_any(annotation: Any) -> bool:
    if annotation is Any:
        return True
    return any(contains_any(each) for each in get_args(annotation))


@pytest.mark.parametrize("name", CALLABLES)
def test_no_call_takes_or_gives_any(name: str) -> None:
    found = CALLABLES[name]
    hints = _hints(found.__init__ if inspect.isclass(found) else found)
    if dataclasses.is_dataclass(found):
        assert isinstance(found, type)
        hints = _hints(found)
    wrong = [each for each, hint in hints.items() if contains_any(hint)]
    assert not wrong
    if not inspect.isclass(found):
        missing = {each.name for each in parameters(found)} - set(hints) - {"cls"}
        assert not missing
        assert "return" in hints


def _hints(found: Any) -> dict[str, Any]:
    # Some modules import types of the store for type checkers alone.
    return get_type_hints(found, localns=vars(store), include_extras=False)


@pytest.mark.parametrize(
    "name", [name for name, value in MODULES[""].items() if inspect.isclass(value)]
)
def test_no_property_gives_any(name: str) -> None:
    for attribute, member in vars(MODULES[""][name]).items():
        if isinstance(member, property) and not attribute.startswith("_"):
            assert not contains_any(_hints(member.fget)["return"]), attribute


# -- no type that cannot be imported ------------------------------------------------------

# Objects that the package alone makes. The types of their constructors are not public.
_MADE_INSIDE = {
    *("Group", "GroupSubscription", "SilenceWatch"),
    *("Message", "Outbox", "DeadLetters", "Subscription", "Outcomes"),
    *("sync.Outbox", "sync.DeadLetters", "sync.Subscription"),
}
_EXPORTED = {id(value) for names in MODULES.values() for value in names.values()}


def classes_in(annotation: Any) -> Iterator[type]:
    """The classes that a reader sees in an annotation."""
    if isinstance(annotation, list):  # the arguments of a `Callable`
        for each in annotation:
            yield from classes_in(each)
        return
    origin, arguments_ = get_origin(annotation), get_args(annotation)
    # A type checker shows the two arguments of `Given`, never `Given`.
    if origin is not options.Given:
        found = annotation if origin is None else origin
        if inspect.isclass(found):
            yield found
    if origin is not Literal:
        for each in arguments_:
            yield from classes_in(each)


def annotated(value: type) -> Iterator[tuple[str, Any]]:
    """The public annotations of a class: of its attributes, methods and constructor."""
    yield "", value
    for name in dir(value):
        member = inspect.getattr_static(value, name)
        if isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        elif isinstance(member, property):
            member = member.fget
        if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
            yield f".{name}", member


def hidden_types(prefix: str, name: str, value: Any) -> list[str]:
    """The types of this package in public annotations that nobody can import."""
    members = annotated(value) if inspect.isclass(value) else iter([("", value)])
    return [
        f"{name}{member}: {part}: {kind.__qualname__}"
        for member, found in members
        if member != ".__init__" or f"{prefix}{name}" not in _MADE_INSIDE
        for part, hint in _hints(found).items()
        if not part.startswith("_")
        for kind in classes_in(hint)
        if kind.__module__.startswith("signedwire") and id(kind) not in _EXPORTED
    ]


@pytest.mark.parametrize(("prefix", "name"), [(at, one) for at in MODULES for one in MODULES[at]])
def test_public_annotations_have_public_types(prefix: str, name: str) -> None:
    value = MODULES[prefix][name]
    if inspect.isclass(value) or inspect.isfunction(value):
        assert not hidden_types(prefix, name, value)


def test_the_walk_sees_a_hidden_type() -> None:
    class Leaky:
        attribute: dict[str, tuple[Store, ...]] | None

        def __init__(self, call: Callable[[Store], None]) -> None: ...
        def method(self, store: Store) -> None: ...
        @classmethod
        def made(cls, store: Store) -> None: ...
        @property
        def value(self) -> Store:
            raise NotImplementedError

        def _inner(self, store: Store) -> None: ...

    assert [one.partition(":")[0] for one in hidden_types("", "Leaky", Leaky)] == [
        "Leaky",
        "Leaky.__init__",
        "Leaky.made",
        "Leaky.method",
        "Leaky.value",
    ]


# -- texts and their enums -------------------------------------------------------------------


def test_the_texts_are_those_of_the_enums() -> None:
    def texts(alias: Any) -> set[str]:
        literals = [each for each in get_args(alias) if get_args(each)] or [alias]
        return {text for literal in literals for text in get_args(literal)}

    assert texts(arguments.PriorityName) == {text_of(each) for each in Priority}
    assert texts(arguments.PayloadTypeName) == {text_of(each) for each in PayloadType}
    assert texts(arguments.RefusalName) == {str(each) for each in REASON_CODES}
    ended = {DeliveryState.REFUSED, DeliveryState.FAILED, DeliveryState.EXPIRED}
    assert texts(arguments.Until) == {str(each) for each in set(DeliveryState) - ended}


def test_the_options_by_name_are_those_of_the_configuration() -> None:
    """`replace(…)` takes of each option what `TransportConfig(…)` does."""
    fields = get_type_hints(config.TransportConfig)
    changes = get_type_hints(ConfigChanges, localns=vars(config))
    assert list(changes) == [field.name for field in dataclasses.fields(config.TransportConfig)]
    for name, hint in changes.items():
        given = get_args(fields[name])
        is_given = getattr(fields[name], "__origin__", None) is options.Given
        assert hint == (given[0] if is_given else fields[name]), name


# -- a program of somebody else ---------------------------------------------------------------

CONSUMER = """
import datetime
from pathlib import Path

from signedwire import (
    Identity, MemoryNetwork, Node, Priority, Reason, RoutingTable, SignedEnvelope, TcpTransport,
    TransportConfig, load_config, verify_receipt,
)
from signedwire import sync


async def main(path: Path, me: Identity) -> None:
    config = TransportConfig.production(listen="0.0.0.0:9001", signatures="required")
    config = config.replace(max_attempts=5, ack="auto")
    table = RoutingTable({me.did: "10.0.0.1:9001"})
    async with Node(me, config, table, store=path, network=MemoryNetwork()) as node:
        reveal_type(node.did)
        reveal_type(node.address)
        reveal_type(node.is_listening)
        receipt = await node.send(
            str(me.did), bytearray(b"x"), priority="high", payload_type="raw",
            deadline=datetime.timedelta(seconds=1), until="handled",
        )
        reveal_type(receipt)
        reveal_type(await receipt.wait("accepted", 5))
        reveal_type(receipt.result(until="written", timeout=1.0).state)
        reveal_type(receipt.proof())
        reveal_type(receipt.history)
        reveal_type(node.send_nowait(me.did, memoryview(b"x"), priority=Priority.CRITICAL))
        reveal_type(await node.send_many(me.did, [b"x"], until="written"))
        message = await node.receive(timeout=1)
        reveal_type(message)
        reveal_type(node.receive_nowait())
        reveal_type(message.sender)
        reveal_type(message.payload)
        await node.send(message.sender, message.payload)
        message.nack("inbox full")
        message.nack(Reason.REFUSED)
        async for each in node.messages():
            reveal_type(each)
        async for event in node.events():
            reveal_type(event)
        reveal_type(await node.outbox.list(me.did, limit=5))
        reveal_type(await node.dead.retry(1, 2))
        reveal_type(node.peers())
        reveal_type(node.health().is_well)
        reveal_type(await node.rotate_evidence("old.log"))
    reveal_type(load_config(path))
    reveal_type(verify_receipt(b""))


def blocking(me: Identity, config: TransportConfig, table: RoutingTable) -> None:
    with sync.Node(me, config) as node:
        reveal_type(node.receive(5))
        reveal_type(node.send(me.did, b"x", until="handled"))
        reveal_type(node.outbox.list())
    with TcpTransport(config, table) as transport:
        reveal_type(transport.receive(timeout=5))
        reveal_type(transport.receive_nowait())
        transport.send(SignedEnvelope.sign(me, me.did, b"x", sequence_number=1))
"""
REVEALED = [
    "signedwire.types.Did",
    "tuple[str, int, fallback=signedwire.types.Address] | "
    "tuple[str, str, fallback=signedwire.types.Location]",
    "bool",
    "signedwire.delivery.receipt.Receipt",
    "signedwire.delivery.receipt.Receipt",
    "signedwire.states.DeliveryState",
    "bytes",
    "tuple[tuple[signedwire.states.DeliveryState, int, fallback=signedwire.states.Step], ...]",
    "signedwire.delivery.receipt.Receipt",
    "list[signedwire.delivery.receipt.Receipt]",
    "signedwire.delivery.message.Message",
    "signedwire.delivery.message.Message | None",
    "signedwire.types.Did",
    "bytes",
    "signedwire.delivery.message.Message",
    "signedwire.events.PeerConnected | …",
    "list[tuple[int, signedwire.types.Did, bytes, …",
    "list[signedwire.delivery.receipt.Receipt]",
    "signedwire.stats.PeerMap",
    "bool",
    "signedwire.stats.EvidenceHead",
    "signedwire.config.TransportConfig",
    "signedwire.wire.receipt_proof.ProvenDelivery",
    "signedwire.delivery.message.Message",
    "signedwire.delivery.receipt.Receipt",
    "list[tuple[int, signedwire.types.Did, bytes, …",
    "signedwire.wire.envelope.SignedEnvelope",
    "signedwire.wire.envelope.SignedEnvelope | None",
]


def expect_revealed(lines: list[str]) -> None:
    notes = [line.partition("Revealed type is ")[2].strip('"') for line in lines]
    assert all(notes), "\n".join(line for line, note in zip(lines, notes, strict=True) if not note)
    for note, wanted in zip(notes, REVEALED, strict=True):
        plain = note.replace("builtins.", "")
        start, has_more, _ = wanted.partition("…")
        assert plain.startswith(start) if has_more else plain == wanted
        assert "Any" not in note


@pytest.mark.timeout(300)
def test_a_program_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    expect_revealed(typekit.check(tmp_path))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "line",
    [
        'await receipt.wait("handeld")',
        'await receipt.wait(timeout="5")',
        'await node.send(node.did, "text")',
        'await node.send(node.did, b"x", priority="urgent")',
        'await node.send(None, b"x")',
        'node.config.replace(lisen="0.0.0.0:1")',
        'message.nack("no time")',
        "node.routing.update(node.did, 9001)",
    ],
)
def test_a_mistake_is_seen_by_the_type_checker(tmp_path: Path, line: str) -> None:
    (tmp_path / "mistake.py").write_text(
        "from signedwire import Message, Node, Receipt\n\n\n"
        "async def main(node: Node, receipt: Receipt, message: Message) -> None:\n"
        f"    {line}\n"
    )
    found = [each for each in typekit.check(tmp_path) if ": error: " in each]
    assert len(found) == 1
    assert found[0].startswith("mistake.py:5: ")


@pytest.mark.timeout(300)
def test_an_installed_wheel_carries_its_types(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed here")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=typekit.ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (site,) = home.glob("lib/python*/site-packages") if os.name != "nt" else home.glob("Lib/site-*")
    with zipfile.ZipFile(wheel) as archive:
        assert "signedwire/py.typed" in archive.namelist()
        archive.extractall(site)
    # Its dependencies are those of this environment; the editable signedwire is not: a .pth
    # file in a folder that a .pth file names is not read.
    packages = [each for each in sys.path if each.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(packages) + "\n")
    program = tmp_path / "program"
    program.mkdir()
    (program / "consumer.py").write_text(CONSUMER)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    expect_revealed(typekit.check(program, "--python-executable", str(python)))


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(signedwire.__file__).parent / "py.typed").is_file()
