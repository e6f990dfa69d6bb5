"""Access lists: who is denied, from when on, what becomes of what is there; peers never met."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final
from unittest.mock import Mock

import pytest
from test_link import Net, Watch, links_of, meet, take

from signedwire import (
    Address,
    ConfigError,
    DeliveryFailedError,
    DeliveryState,
    Did,
    FailureKind,
    Names,
    Node,
    NotAllowedError,
    Reason,
    Receipt,
    StoreFullError,
    TransportConfig,
    UnknownPeerError,
    load_config,
    sync,
)
from signedwire.cli.node_signals import reload_on_sighup
from signedwire.delivery import access as access_module
from signedwire.delivery.access import AccessFile, AccessList, read_access_file
from signedwire.delivery.log_limiter import _MAX_LOGGED
from signedwire.delivery.store import Backlog
from signedwire.events import Dropped, PeerDisconnected
from tlskit import quick
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    eventually,
    identity,
    on_asyncio,
    on_both_loops,
    within,
)

FILL = 500
NOBODY = Address("127.0.0.1", 1)


def listed(**options: object) -> AccessList:
    return AccessList(TransportConfig(**options))  # type: ignore[arg-type]


@contextlib.contextmanager
def at_each_line(call: Callable[[int], None]) -> Iterator[None]:
    """Call before each line of access.py that this thread runs, with the number of the call."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != access_module.__file__:
            return None
        if event == "line":
            count += 1
            sys.settrace(None)
            try:
                call(count)
            finally:
                sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


# -- who is denied -------------------------------------------------------------------


class TestLists:
    def test_a_denial_wins_whatever_its_source(self, tmp_path: Path) -> None:
        path = tmp_path / "access"
        for source in ("option", "file", "call"):
            path.write_text(f"allow {ALICE.did}\nallow {BOB.did}\n")
            if source == "file":
                path.write_text(f"deny {BOB.did}\nallow {BOB.did}\nallow {ALICE.did}\n")
            access = listed(
                allow=[ALICE.did, BOB.did],
                deny=[BOB.did] if source == "option" else [],
                access_file=path,
            )
            access.reload()
            access.allow_only([ALICE.did, BOB.did])
            if source == "call":
                access.deny(BOB.did)
            assert access.is_denied(BOB.did), source
            assert not access.is_denied(ALICE.did), source
            assert access.undeny(BOB.did) == (() if source == "call" else (BOB.did,))

    def test_an_empty_allow_list_lets_nobody_in(self, tmp_path: Path) -> None:
        assert listed(allow=[]).is_denied(ALICE.did)
        assert not listed(allow=None).is_denied(ALICE.did)
        path = tmp_path / "access"
        path.write_text("allow none\n")
        access = listed(access_file=path)
        access.reload()
        assert access.is_denied(ALICE.did)
        access = listed()
        access.allow_only([])
        assert access.is_denied(ALICE.did)
        access.allow_only(None)
        assert not access.is_denied(ALICE.did)

    @pytest.mark.parametrize(
        "wrong",
        [5, True, b"x", bytes(BOB.did), memoryview(bytes(BOB.did)), None, BOB, [BOB.did]],
        ids=lambda wrong: type(wrong).__name__,
    )
    def test_what_is_no_did_changes_nothing(self, wrong: Any) -> None:
        access = listed(allow=[ALICE.did, BOB.did])
        for call in (
            partial(access.deny, BOB.did, wrong),
            partial(access.undeny, wrong),
            partial(access.allow_only, [BOB.did, wrong]),
            partial(access.is_denied, wrong),
        ):
            with pytest.raises(TypeError, match="is a Did or its text, not"):
                call()
        assert not access.is_denied(BOB.did)
        assert not access.is_denied(str(ALICE.did))

    @pytest.mark.parametrize(
        "wrong",
        [b"", bytes(BOB.did), memoryview(b""), "", BOB.did],
        ids=lambda wrong: type(wrong).__name__,
    )
    def test_one_thing_is_no_allow_list(self, wrong: Any) -> None:
        access = listed()
        with pytest.raises(TypeError, match="expected a list of DIDs, not one"):
            access.allow_only(wrong)
        assert not access.is_denied(BOB.did)

    def test_options_and_file_make_one_allow_list_and_calls_narrow_it(self, tmp_path: Path) -> None:
        path = tmp_path / "access"
        path.write_text(f"allow {BOB.did}\n")
        access = listed(allow=[ALICE.did], access_file=path)
        access.reload()
        assert not access.is_denied(ALICE.did)
        assert not access.is_denied(BOB.did)
        assert access.is_denied(CAROL.did)
        access.allow_only([BOB.did, CAROL.did])
        assert access.is_denied(ALICE.did)
        assert not access.is_denied(BOB.did)
        assert access.is_denied(CAROL.did)  # a call lets nobody in whom the configuration does not

    def test_from_the_environment_and_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "config.toml"
        path.write_text(f'deny = ["{BOB.did}"]\nallow = ["{ALICE.did}"]\naccess_file = "acl"\n')
        config = load_config(path, {})
        assert (config.deny, config.allow) == (frozenset([BOB.did]), frozenset([ALICE.did]))
        assert config.access_file == Path("acl")
        config = load_config(
            path,
            {
                "SIGNEDWIRE_DENY": f"{CAROL.did}, {ALICE.did.hex().upper()}#x".split("#")[0],
                "SIGNEDWIRE_ALLOW": "none",
                "SIGNEDWIRE_ACCESS_FILE": "none",
            },
        )
        assert config.deny == {CAROL.did, ALICE.did}
        assert (config.allow, config.access_file) == (None, None)
        with pytest.raises(ConfigError, match="SIGNEDWIRE_DENY"):
            load_config(None, {"SIGNEDWIRE_DENY": "did:web:example.com"})

    @pytest.mark.parametrize(
        "text",
        [
            "deny {did}",
            "  deny \t {did}  \r\n",
            "# a list\n\ndeny {did}   # he left",
            "\ufeffdeny {did}\n",
            "deny {did}#{bare}\n",
            "deny {bare}\n",
            "deny {hex}\n",
            "deny {HEX}\n",
            "deny {did}\ndeny {hex}\n",
        ],
    )
    def test_forms_of_a_line(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "access"
        did = BOB.did
        text = text.format(did=did, bare=str(did)[8:], hex=did.hex(), HEX=did.hex().upper())
        path.write_bytes(text.encode())
        assert read_access_file(path) == AccessFile(None, frozenset([bytes(did)]))

    @pytest.mark.parametrize(
        ("line", "what"),
        [
            (b"denied {did}", "'denied' is no rule"),
            (b"DENY {did}", "'DENY' is no rule"),
            (b"{did}", "is no rule"),
            (b"deny", "deny takes one DID"),
            (b"deny none", "'none' is not a DID"),
            (b"deny {did} {did}", "deny takes one DID"),
            (b"deny {did},", "is not a base58 character"),
            (b"allow did:key:z6MkNothing", "is not a DID"),
            (b"deny DID:KEY:z6Mk", "is not a DID"),
            (b"deny {did}\xff", "not UTF-8"),
            (b"deny " + b"00" * 32, "no key has this form"),
        ],
    )
    def test_one_wrong_line(self, tmp_path: Path, line: bytes, what: str) -> None:
        path = tmp_path / "access"
        did = str(BOB.did).encode()
        path.write_bytes(b"# a list\nallow " + did + b"\n" + line.replace(b"{did}", did) + b"\n")
        with pytest.raises(ConfigError) as error:
            read_access_file(path)
        assert error.value.fact.startswith(f"{path}, line 3: ")
        assert what in error.value.fact

    def test_what_is_no_file_of_rules(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot read the access file .*missing"):
            read_access_file(tmp_path / "missing")
        with pytest.raises(ConfigError, match=r"cannot read|no regular file"):
            read_access_file(tmp_path)
        large = tmp_path / "large"
        large.touch()
        os.truncate(large, 16 * 2**20 + 1)
        with pytest.raises(ConfigError, match="large is larger than 16 MiB"):
            read_access_file(large)
        empty = tmp_path / "empty"
        empty.touch()
        with pytest.raises(ConfigError, match="is empty: it may have been cut off"):
            read_access_file(empty)
        empty.write_text("# nobody yet\n")
        assert read_access_file(empty) == AccessFile(None, frozenset())
        if hasattr(os, "mkfifo"):
            os.mkfifo(tmp_path / "pipe")
            with pytest.raises(ConfigError, match="no regular file"):
                read_access_file(tmp_path / "pipe")

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors")
    @pytest.mark.parametrize("kind", ["folder", "pipe", "missing", "wrong", "fails", "good"])
    def test_no_descriptor_stays_open(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "access"
        match kind:
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "wrong" | "fails":
                path.write_text("nonsense\n")
            case "good":
                path.write_text("# none\n")
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            with monkeypatch.context() as patch, contextlib.suppress(ConfigError):
                if kind == "fails":
                    patch.setattr(os, "fstat", Mock(side_effect=OSError(5, "input/output error")))
                read_access_file(path)
        assert len(os.listdir("/proc/self/fd")) == len(before)

    def test_reading_it_again(self, tmp_path: Path) -> None:
        path = tmp_path / "access"
        path.write_text(f"deny {BOB.did}\n")
        access = listed(access_file=path)
        access.reload()
        path.write_text(f"deny {CAROL.did}\nallow {ALICE.did}\n")
        access.reload()
        assert [access.is_denied(each.did) for each in (ALICE, BOB, CAROL)] == [False, True, True]
        for wrong in ("deny nobody\n", "", f"deny {CAROL.did}\n"):  # the last lets everybody in
            path.write_text(wrong)
            with pytest.raises(ConfigError):
                access.reload()
            assert access.is_denied(BOB.did)
        path.unlink()
        with pytest.raises(ConfigError, match="cannot read"):
            access.reload()
        assert access.is_denied(BOB.did)
        with pytest.raises(ConfigError, match="no access file"):
            listed().reload()

    def test_the_last_allow_line_may_go_where_the_configuration_has_a_list(
        self, tmp_path: Path
    ) -> None:
        """That lets nobody in: it is how who is on that line is turned away."""
        path = tmp_path / "access"
        path.write_text(f"allow {BOB.did}\n")
        access = listed(allow=[ALICE.did], access_file=path)
        access.reload()
        path.write_text("# nobody else\n")
        access.reload()
        assert [access.is_denied(each.did) for each in (ALICE, BOB, CAROL)] == [False, True, True]

    CHANGES: Final[dict[str, tuple[str, Callable[[AccessList], None]]]] = {
        "reload": (f"deny {BOB.did}\n", lambda _: None),
        "reload the other way": (f"allow {ALICE.did}\n", lambda _: None),
        "calls": ("# none\n", lambda access: access.deny(BOB.did)),
        "calls the other way": ("# none\n", lambda access: access.allow_only([ALICE.did])),
    }

    @staticmethod
    def change(access: AccessList, kind: str, path: Path) -> None:
        """Deny BOB otherwise than before; he is denied all the time."""
        if kind == "reload":
            path.write_text(f"allow {ALICE.did}\n")
            access.reload()
        elif kind == "reload the other way":
            path.write_text(f"allow {ALICE.did}\nallow {BOB.did}\ndeny {BOB.did}\n")
            access.reload()
        elif kind == "calls":
            access.allow_only([ALICE.did])
            access.undeny(BOB.did)
        else:
            access.deny(BOB.did)
            access.allow_only(None)

    @pytest.mark.parametrize("kind", CHANGES)
    def test_who_is_denied_before_and_after_is_denied_between(
        self, kind: str, tmp_path: Path
    ) -> None:
        """Asked after each line of the change, and with the change after each line of asking."""
        path, (text, begin) = tmp_path / "access", self.CHANGES[kind]

        def opened() -> AccessList:
            path.write_text(text)
            access = listed(access_file=path)
            access.reload()
            begin(access)
            assert access.is_denied(BOB.did)
            return access

        access, answers = opened(), list[bool]()
        with at_each_line(lambda _: answers.append(access.is_denied(BOB.did))):
            self.change(access, kind, path)
        assert len(answers) > 10
        assert all(answers)
        line = 1
        while self.is_denied_with_change_at(line, opened(), kind, path):
            line += 1
        assert line > 5

    def is_denied_with_change_at(
        self, line: int, access: AccessList, kind: str, path: Path
    ) -> bool:
        """Ask, with the change before this line of the asking; whether it has so many."""
        lines: list[int] = []

        def change(number: int) -> None:
            lines.append(number)
            if number == line:
                self.change(access, kind, path)

        with at_each_line(change):
            assert access.is_denied(BOB.did), line
        assert line < 100
        return len(lines) >= line

    def test_a_denial_that_comes_while_the_list_is_read_counts(self) -> None:
        access = listed()

        class ReadTooEarly(set[bytes]):
            """A DID becomes denied right after the first look."""

            is_read = False

            def __contains__(self, key: object) -> bool:
                found = super().__contains__(key)
                if not self.is_read:
                    self.is_read = True
                    access.deny(BOB.did)
                return found

        access._denied = ReadTooEarly()
        assert access.is_denied(BOB.did)
        assert not access.is_denied(ALICE.did)

    def test_the_later_of_two_reloads_wins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, has_read, go_on = tmp_path / "access", threading.Event(), threading.Event()
        path.write_text(f"deny {BOB.did}\n")
        access = listed(access_file=path)

        def read(path: Path, names: Names) -> AccessFile:
            found = read_access_file(path, names)
            if not has_read.is_set():
                has_read.set()
                assert go_on.wait(LIMIT)
            return found

        monkeypatch.setattr("signedwire.delivery.access.read_access_file", read)
        earlier, later = (
            threading.Thread(target=access.reload),
            threading.Thread(target=access.reload),
        )
        earlier.start()
        assert has_read.wait(LIMIT)
        path.write_text(f"deny {CAROL.did}\n")
        later.start()
        later.join(0.3)
        access.deny(ALICE.did)  # does not wait for who reads
        go_on.set()
        for each in (earlier, later):
            each.join(LIMIT)
        assert not access.is_denied(BOB.did)
        assert access.is_denied(CAROL.did)

    def test_many_denials_cost_no_more_each(self) -> None:
        """The set is changed in place: a copy for each would make 20,000 of them take minutes."""
        access = listed()
        did = ALICE.did
        for number in range(20_000):
            access._denied.add(number.to_bytes(32, "big"))
        before = access._denied
        access.deny(did)
        assert access._denied is before
        assert access._early[-1].keys == frozenset([bytes(did)])


@on_asyncio
async def test_a_node_does_not_start_with_a_file_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text(f"deny {BOB.did}\ndeny somebody\n")
    store = tmp_path / "node.db"
    node = Node(ALICE, quick(access_file=path), store=store)
    with pytest.raises(ConfigError, match=r"access, line 2: 'somebody' is not a DID"):
        await node.start()
    assert not node.is_listening
    async with Node(ALICE, quick(), store=store):  # nothing was left open
        pass


class Slow:
    """Holds whoever reads an access file."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.is_reading, self.go_on = threading.Event(), threading.Event()
        self.readings = 0
        patch.setattr(access_module, "read_access_file", self.read)

    def read(self, path: Path, names: Names) -> AccessFile:
        self.readings += 1
        self.is_reading.set()
        assert self.go_on.wait(LIMIT)
        return read_access_file(path, names)


@on_both_loops
async def test_the_loop_goes_on_while_a_node_that_starts_reads_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, slow = tmp_path / "access", Slow(monkeypatch)
    path.write_text(f"deny {BOB.did}\n")
    node = Node(ALICE, quick(access_file=path))
    starting = asyncio.create_task(node.start())
    await eventually(slow.is_reading.is_set)  # the loop turns
    assert not starting.done()
    slow.go_on.set()
    await within(LIMIT, starting)
    assert node.access.is_denied(BOB.did)
    await node.close()


@on_asyncio
async def test_a_start_that_is_cancelled_while_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, slow = tmp_path / "access", Slow(monkeypatch)
    path.write_text(f"deny {BOB.did}\n")
    store = tmp_path / "node.db"
    node = Node(ALICE, quick(access_file=path, close_timeout=0.1), store=store)
    starting = asyncio.create_task(node.start())
    await eventually(slow.is_reading.is_set)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(LIMIT, starting)
    slow.go_on.set()
    async with Node(ALICE, quick(), store=store):  # nothing was left open
        pass


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP")
@on_both_loops
async def test_a_hang_up_reads_it_while_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that come meanwhile have it read once more, and not each for itself."""
    path = tmp_path / "access"
    path.write_text("# nobody\n")
    async with Node(ALICE, quick(access_file=path)) as node:
        reload_on_sighup(node)
        slow = Slow(monkeypatch)
        signal.raise_signal(signal.SIGHUP)
        await eventually(slow.is_reading.is_set)
        for _ in range(5):
            signal.raise_signal(signal.SIGHUP)
            await asyncio.sleep(0.01)
        path.write_text(f"deny {BOB.did}\n")
        slow.go_on.set()
        await eventually(lambda: slow.readings == 2 and node.access.is_denied(BOB.did))
        await asyncio.sleep(0.1)
        assert slow.readings == 2
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
    assert capsys.readouterr().err == f"read {path} again: 1 rule in force\n" * 2


@on_asyncio
async def test_reloading_closes_the_links_of_who_is_denied_now(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text("# nobody\n")
    net = Net()
    async with net.node(ALICE) as alice, net.node(BOB, access_file=path) as bob, Watch(bob) as seen:
        meet(alice, bob)
        await alice.send(bob.did, b"x")
        path.write_text(f"deny {ALICE.did}\n")
        bob.access.reload()
        await asyncio.sleep(0)
        assert not links_of(bob)
        assert bob.stats().dropped == {Reason.DENIED: 1}
        await eventually(lambda: seen.of(PeerDisconnected))
        assert seen.of(PeerDisconnected) == [
            PeerDisconnected(ALICE.did, "denied", FailureKind.CLOSED_HERE)
        ]


# -- what a denial does --------------------------------------------------------------


def options(kind: str, path: Path) -> dict[str, object]:
    files: dict[str, object] = {}
    if kind in ("store", "both"):
        files["store"] = path / "bob.db"
    if kind in ("evidence", "both"):
        files["evidence"] = path / "bob.log"
    return files


kinds = pytest.mark.parametrize("kind", ["memory", "store", "evidence", "both"])


@kinds
@on_both_loops
async def test_what_waits_in_the_inbox_never_reaches_the_application(
    kind: str, tmp_path: Path
) -> None:
    net = Net()
    async with (
        net.node(ALICE) as alice,
        net.node(CAROL) as carol,
        net.node(BOB, **options(kind, tmp_path)) as bob,
        Watch(bob) as seen,
    ):
        meet(alice, bob)
        meet(carol, bob)
        await alice.send_many(bob.did, [b"%d" % number for number in range(FILL)])
        await carol.send(bob.did, b"from carol")
        assert bob.stats().inbox_messages == FILL + 1
        bob.access.deny(ALICE.did)
        await asyncio.sleep(0)
        stats = bob.stats()
        assert stats.inbox_messages == 1
        assert stats.dropped == {Reason.DENIED: FILL}
        assert await take(bob, 1) == [b"from carol"]
        assert bob.receive_nowait() is None
        await eventually(lambda: seen.of(Dropped))
        assert [(e.reason, e.did, e.count) for e in seen.of(Dropped)] == [
            (Reason.DENIED, ALICE.did, FILL)
        ]
        if kind in ("store", "both"):
            await bob.outbox.flush()
            store = bob.stats().store
            assert store is not None
            assert store.inbox.rows == 1
    if kind in ("store", "both"):
        async with net.node(BOB, **options(kind, tmp_path)) as bob:
            assert await take(bob, 1) == [b"from carol"]
            assert bob.receive_nowait() is None


@kinds
@on_asyncio
async def test_a_batch_that_is_being_committed_is_not_delivered(kind: str, tmp_path: Path) -> None:
    net = Net("memory")
    async with net.node(ALICE) as alice, net.node(BOB, **options(kind, tmp_path)) as bob:
        meet(alice, bob)
        await alice.send(bob.did, b"first")
        received = asyncio.Event()
        receiver = bob._core.endpoint.sessions.session(ALICE.did).receiver
        receive = receiver.receive

        def receive_and_tell(*arguments: object) -> None:
            receive(*arguments)  # type: ignore[arg-type]
            received.set()

        receiver.receive = receive_and_tell  # type: ignore[method-assign, assignment]
        receipts = [alice.send_nowait(bob.did, b"%d" % number) for number in range(50)]
        await within(LIMIT, received.wait())
        bob.access.deny(ALICE.did)  # in the same turn of the loop, or in the next
        await asyncio.sleep(0.3)
        assert bob.receive_nowait() is None
        assert bob.stats().inbox_messages == 0
        assert bob.stats().dropped[Reason.DENIED] >= 1
        assert not any(each.has_reached(DeliveryState.HANDLED) for each in receipts)


class Taker:
    """Takes all there is in a thread, and notes of each whether the denial was over before."""

    def __init__(self, node: sync.Node) -> None:
        self.node = node
        self.taken: list[bool] = []
        self.is_denied, self.started = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while True:
            was_denied = self.is_denied.is_set()  # before it is asked for
            try:
                self.node.receive(0.2)
            except TimeoutError:
                return
            finally:
                self.started.set()
            self.taken.append(was_denied)


def test_none_comes_after_deny_has_returned_in_another_thread(tmp_path: Path) -> None:
    """The blocking node: the application takes in a thread that the loop knows nothing of."""
    config = quick()
    for round_ in range(5):
        with sync.Node(BOB, config) as bob, sync.Node(ALICE, config) as alice:
            alice.routing.update(bob.did, bob.address)
            alice.send_many(bob.did, [b"x"] * FILL)
            taker = Taker(bob)
            assert taker.started.wait(LIMIT)
            bob.access.deny(alice.did)
            taker.is_denied.set()
            taker.thread.join(LIMIT)
            taken = taker.taken
            assert not any(taken), round_
            stats = bob.stats()
            assert stats.dropped.get(Reason.DENIED, 0) + len(taken) == FILL


@on_both_loops
async def test_a_denied_peer_is_told_so_and_gets_no_receipt(tmp_path: Path) -> None:
    """Its link ends with code 4; receipts that waited for the disk are not sent."""
    net = Net("memory")
    async with (
        net.node(ALICE, max_attempts=1) as alice,
        net.node(BOB, store=tmp_path / "bob.db") as bob,
    ):
        meet(alice, bob)
        await alice.send(bob.did, b"first")
        message = await bob.receive(LIMIT)
        assert message is not None
        window = bob._core.endpoint.sessions.session(ALICE.did).receiver._window
        await eventually(lambda: not any(window._in_inbox.messages))
        outbox = bob._core.store
        assert outbox is not None
        gate = threading.Event()
        outbox.store._ask(lambda: gate.wait(LIMIT))
        receipt = alice.send_nowait(bob.did, b"second")
        await eventually(lambda: any(window._in_inbox.messages))  # it waits for the commit
        message.ack()
        bob.access.deny(ALICE.did)
        gate.set()
        with pytest.raises(DeliveryFailedError, match="code 4"):
            await within(LIMIT, receipt.wait("accepted"))
        await eventually(lambda: bob.stats().dropped.get(Reason.DENIED) == 1)
        assert not any(window._in_inbox.messages + window._in_inbox.bytes)
        assert bob.receive_nowait() is None
        assert DeliveryState.ACCEPTED not in [step.state for step in receipt.history]


@on_asyncio
async def test_who_is_let_in_again_is_told_that_they_were_refused() -> None:
    net = Net()
    async with net.pair() as (alice, bob):
        receipts = [await alice.send(bob.did, payload) for payload in (b"1", b"2")]
        bob.access.deny(ALICE.did)
        await eventually(lambda: not links_of(alice))
        assert bob.access.undeny(ALICE.did) == ()
        later = await within(LIMIT, alice.send(bob.did, b"3"))
        assert later.has_reached(DeliveryState.ACCEPTED)
        await eventually(lambda: all(each.reason is Reason.NOT_ALLOWED for each in receipts))
        assert await take(bob, 1) == [b"3"]


@on_both_loops
async def test_room_and_credit_are_free_again() -> None:
    """What was dropped holds no credit: many times over, or the sender would stand still."""
    net = Net("memory")
    async with net.pair(credit_messages=64) as (alice, bob):
        for _ in range(5):
            await within(LIMIT, alice.send_many(bob.did, [b"x"] * 60))
            bob.access.deny(ALICE.did)
            await eventually(lambda: not links_of(alice))
            bob.access.undeny(ALICE.did)
        assert bob.stats().dropped[Reason.DENIED] >= 300
        window = bob._core.endpoint.sessions.session(ALICE.did).receiver._window
        assert not any(window._in_inbox.messages + window._in_inbox.bytes)


@on_asyncio
async def test_v1_messages_in_the_inbox_are_dropped_too() -> None:
    async with (
        Node(BOB, quick(v1_peers="all")) as bob,
        Node(ALICE, quick(wire="v1")) as alice,
    ):
        meet(alice, bob)
        for number in range(20):
            await alice.send(bob.did, b"%d" % number)
        await eventually(lambda: bob.stats().inbox_messages == 20)
        bob.access.deny(ALICE.did)
        await asyncio.sleep(0)
        assert bob.stats().inbox_messages == 0
        assert bob.stats().dropped == {Reason.DENIED: 20}
        await alice.send(bob.did, b"later")
        await eventually(lambda: bob.stats().dropped == {Reason.DENIED: 21})
        assert bob.receive_nowait() is None


@on_asyncio
async def test_attempts_name_the_did_and_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "signedwire.transport")
    net = Net("memory")
    async with net.node(BOB, deny=[ALICE.did]) as bob, Watch(bob) as seen:
        for _ in range(4):
            async with net.node(ALICE, max_attempts=1) as alice:
                meet(alice, bob)
                with pytest.raises(DeliveryFailedError):
                    await within(LIMIT, alice.send(bob.did, b"x"))
        await eventually(lambda: sum(e.count for e in seen.of(Dropped)) == 4)
        assert {(e.reason, e.did) for e in seen.of(Dropped)} == {(Reason.DENIED, ALICE.did)}
        lines = [
            each.getMessage() for each in caplog.records if "may not link" in each.getMessage()
        ]
        assert len(lines) == 1
        assert str(ALICE.did) in lines[0]
        # Nor do ever new keys of one stranger.
        logged = [
            not bob._core.endpoint.denial_log.note_attempt(identity(n).did) for n in range(3, 203)
        ]
        assert sum(logged) == _MAX_LOGGED - 1


@on_asyncio
async def test_it_is_dialed_no_more() -> None:
    """Its dialer keeps a link up, and would dial for ever to hear that it denies it itself."""
    net = Net("memory")
    async with net.node(ALICE) as alice:
        async with net.node(BOB) as bob:
            meet(alice, bob)
            await alice.send(bob.did, b"x")
        await eventually(lambda: alice.stats().dial_failures > 0)
        alice.access.deny(BOB.did)
        before = alice.stats().dial_failures
        await asyncio.sleep(0.5)
        assert alice.stats().dial_failures <= before + 1
        assert alice._core.endpoint.sessions.session(BOB.did).sender.dialer is None


# -- kept ----------------------------------------------------------------------------


@on_asyncio
async def test_denials_are_kept_over_a_restart(tmp_path: Path) -> None:
    net, store = Net(), tmp_path / "bob.db"
    async with net.node(BOB, store=store) as bob:
        bob.access.deny(ALICE.did, CAROL.did)
        bob.access.undeny(CAROL.did)
    async with net.node(BOB, store=store) as bob, net.node(ALICE, max_attempts=1) as alice:
        assert bob.access.is_denied(ALICE.did)
        assert not bob.access.is_denied(CAROL.did)
        meet(alice, bob)
        with pytest.raises(DeliveryFailedError):
            await within(LIMIT, alice.send(bob.did, b"x"))
        bob.access.undeny(ALICE.did)
        bob.access.allow_only([])
    async with net.node(BOB, store=store) as bob:
        assert bob.access.is_denied(ALICE.did)  # still: nobody is on the list
        bob.access.allow_only(None)
    async with net.node(BOB, store=store) as bob:
        assert not bob.access.is_denied(ALICE.did)
    async with net.node(BOB, deny=[ALICE.did], store=store) as bob:
        assert bob.access.undeny(ALICE.did) == (ALICE.did,)


@on_asyncio
async def test_what_is_called_before_the_start_is_kept_too(tmp_path: Path) -> None:
    store = tmp_path / "bob.db"
    async with Node(BOB, quick(), store=store) as bob:
        bob.access.deny(CAROL.did)
    bob = Node(BOB, quick(), store=store)
    bob.access.deny(ALICE.did)
    bob.access.undeny(CAROL.did)
    async with bob:
        assert bob.access.is_denied(ALICE.did)
        assert not bob.access.is_denied(CAROL.did)
    async with Node(BOB, quick(), store=store) as bob:
        assert bob.access.is_denied(ALICE.did)
        assert not bob.access.is_denied(CAROL.did)


@on_asyncio
async def test_what_an_earlier_process_accepted_is_dropped_at_the_start(tmp_path: Path) -> None:
    net, store = Net(), tmp_path / "bob.db"
    async with net.node(BOB, store=store) as bob, net.node(ALICE) as alice:
        meet(alice, bob)
        await alice.send_many(bob.did, [b"x"] * 20)
    async with net.node(BOB, store=store, deny=[ALICE.did]) as bob:
        assert bob.receive_nowait() is None
        assert bob.stats().dropped == {Reason.DENIED: 20}
    async with net.node(BOB, store=store) as bob:
        assert bob.receive_nowait() is None


@on_asyncio
async def test_without_a_store_nothing_is_remembered_but_the_list() -> None:
    async with Node(BOB, quick()) as bob:
        for _ in range(10):
            bob.access.deny(ALICE.did)
        assert bob.access._early == []


# -- messages to who is denied ---------------------------------------------------------


@on_asyncio
async def test_messages_to_a_denied_peer_become_dead_letters(tmp_path: Path) -> None:
    """Also those that wait on the disk alone, as the queue is small."""
    store = tmp_path / "alice.db"
    config = quick(listen=None, send_queue_limit=10)
    async with Node(ALICE, config, store=store) as alice:
        alice.routing.update(BOB.did, NOBODY)
        alice.routing.update(CAROL.did, NOBODY)
        receipts = await alice.send_many(BOB.did, [b"%d" % n for n in range(50)])
        other = await alice.send(CAROL.did, b"x")
        alice.access.deny(BOB.did)
        await eventually(lambda: all(each.is_final for each in receipts))
        assert {each.reason for each in receipts} == {Reason.DENIED}
        assert alice.stats().dropped[Reason.DENIED] == 50
        letters = await alice.dead.list()
        assert {letter.reason for letter in letters} == {Reason.DENIED}
        assert sorted(int(letter.payload) for letter in letters) == list(range(50))
        assert [row.recipient for row in await alice.outbox.list()] == [CAROL.did]
        assert not other.is_final
        with pytest.raises(NotAllowedError, match="denied"):
            await alice.send(BOB.did, b"x")
        with pytest.raises(NotAllowedError):
            await alice.dead.retry(letters[0].id)
        assert len(await alice.dead.list()) == 50  # nothing was lost by that
        alice.access.undeny(BOB.did)
        await alice.dead.retry(*[letter.id for letter in letters])
        assert len(await alice.outbox.list(BOB.did)) == 50


@on_asyncio
async def test_messages_denied_before_their_commit_are_counted_once(tmp_path: Path) -> None:
    """Their rows are removed while their commit is reported."""
    async with Node(ALICE, quick(listen=None), store=tmp_path / "alice.db") as alice:
        alice.routing.update(BOB.did, NOBODY)
        receipts = [alice.send_nowait(BOB.did, b"%d" % n) for n in range(4)]
        alice.access.deny(BOB.did)
        await eventually(lambda: all(each.is_final for each in receipts))
        await alice.outbox.flush()
        await asyncio.sleep(0)
        assert len(await alice.dead.list()) == 4
        assert alice.stats().send_failures == 4
        assert alice.stats().dropped[Reason.DENIED] == 4
        assert alice.peers()[BOB.did].dropped[Reason.DENIED] == 4


@on_asyncio
async def test_a_denial_that_was_taken_back_takes_no_message_of_after(tmp_path: Path) -> None:
    """What waited when it was said is still being made dead letters of."""
    async with Node(ALICE, quick(listen=None), store=tmp_path / "alice.db") as alice:
        one = await alice.send(BOB.did, b"one")
        alice.access.deny(BOB.did)
        await asyncio.sleep(0)
        alice.access.undeny(BOB.did)
        two = await alice.send(BOB.did, b"two")
        await eventually(lambda: one.is_final)
        await alice.outbox.flush()
        assert one.reason is Reason.DENIED
        assert two.state is DeliveryState.PERSISTED
        assert [row.payload for row in await alice.outbox.list(BOB.did)] == [b"two"]
        assert [letter.payload for letter in await alice.dead.list()] == [b"one"]


@on_asyncio
async def test_it_ends_where_it_was_taken_back_and_the_rest_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More wait than one transaction takes: the next one looks whether it is denied still."""
    monkeypatch.setattr("signedwire.delivery.store.work._EXPIRE_LIMIT", 3)
    net = Net()
    async with (
        net.node(ALICE, send_queue_limit=2, store=tmp_path / "alice.db") as alice,
        net.node(BOB) as bob,
    ):
        receipts = await alice.send_many(BOB.did, [b"%d" % number for number in range(8)])
        alice.access.deny(BOB.did)
        await asyncio.sleep(0)
        alice.access.undeny(BOB.did)
        late = await alice.send(BOB.did, b"late")
        meet(alice, bob)
        assert await take(bob, 6) == [b"3", b"4", b"5", b"6", b"7", b"late"]
        await within(LIMIT, late.wait("accepted"))
        assert [each.reason for each in receipts[:3]] == [Reason.DENIED] * 3


@pytest.mark.parametrize("where", ["disk", "queue"])
@on_asyncio
async def test_let_in_by_another_thread_while_the_denial_is_carried_out(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "alice.db" if where == "disk" else None
    async with Node(ALICE, quick(listen=None), store=store) as alice:
        alice.routing.update(BOB.did, NOBODY)
        one = await alice.send(BOB.did, b"one", until="queued")
        if store is not None:
            await alice.outbox.flush()
        late: list[Receipt] = []

        def let_in_and_send() -> None:
            alice.access.undeny(BOB.did)
            late.append(alice.send_nowait(BOB.did, b"two"))

        def first(method: Callable[..., Any]) -> Callable[..., Any]:
            def changed(*arguments: Any) -> Any:
                if not late:
                    thread = threading.Thread(target=let_in_and_send)
                    thread.start()
                    thread.join(LIMIT)
                return method(*arguments)

            return changed

        core = alice._core
        if core.store is None:
            monkeypatch.setattr(core.dialers, "disconnect", first(core.dialers.disconnect))
        else:
            peers = core.store.store.unmet
            monkeypatch.setattr(peers, "dead_letter_up_to", first(peers.dead_letter_up_to))
        alice.access.deny(BOB.did)
        await eventually(lambda: one.is_final)
        await asyncio.sleep(0.1)
        assert one.reason is Reason.DENIED
        assert late[0].reason is not Reason.DENIED


@on_asyncio
async def test_a_restart_with_messages_to_who_is_denied_now(tmp_path: Path) -> None:
    store = tmp_path / "alice.db"
    async with Node(ALICE, quick(listen=None), store=store) as alice:
        await alice.send_many(BOB.did, [b"x"] * 30)
    config = quick(listen=None, allow=[])
    async with Node(ALICE, config, store=store) as alice:
        alice.routing.update(BOB.did, NOBODY)
        await eventually(lambda: alice.stats().dropped.get(Reason.DENIED) == 30)
        assert await alice.outbox.list() == []
        assert alice.stats().dial_failures == 0


# -- peers never met -----------------------------------------------------------------


def stored(node: Node, did: Did) -> Backlog | None:
    return node.peers()[did].stored


@pytest.mark.parametrize("way", ["route", "link"])
@on_both_loops
async def test_a_store_queues_for_a_peer_never_met(way: str, tmp_path: Path) -> None:
    net = Net()
    async with net.node(ALICE, store=tmp_path / "alice.db") as alice:
        receipts = [await alice.send(BOB.did, b"%d" % number) for number in range(20)]
        receipts += [await alice.send(BOB.did, b"20", until="queued")]
        await alice.outbox.flush()
        assert {each.state for each in receipts} == {DeliveryState.PERSISTED}
        assert stored(alice, BOB.did) == Backlog(21, 21 * 126 + 32)
        stats = alice.stats().store
        assert stats is not None
        assert stats.unmet == stored(alice, BOB.did)
        assert alice.health().is_well
        assert not alice._core.endpoint.sessions.session(
            BOB.did
        ).sender.lanes  # they wait on the disk alone
        async with net.node(BOB) as bob:
            if way == "route":
                meet(alice, bob)
            else:
                meet(bob, alice)
                await within(LIMIT, bob.send(ALICE.did, b"hello"))
            assert await take(bob, 21) == [b"%d" % number for number in range(21)]
            for receipt in receipts:
                await within(LIMIT, receipt.wait("accepted"))
            await eventually(lambda: stored(alice, BOB.did) == Backlog(0, 0))
            stats = alice.stats().store
            assert stats is not None
            assert stats.unmet == Backlog(0, 0)


@on_asyncio
async def test_they_are_sent_by_a_later_process(tmp_path: Path) -> None:
    net = Net()
    async with net.node(ALICE, store=tmp_path / "alice.db") as alice:
        await alice.send_many(BOB.did, [b"1", b"2"])
    async with net.node(ALICE, store=tmp_path / "alice.db") as alice, net.node(BOB) as bob:
        assert stored(alice, BOB.did) == Backlog(2, 254)
        store = alice.stats().store
        assert store is not None
        assert store.unmet.rows == 2
        meet(alice, bob)
        assert await take(bob, 2) == [b"1", b"2"]


@on_asyncio
async def test_a_full_store_says_which_limit(tmp_path: Path) -> None:
    config = quick(listen=None, unmet_peer_limit=3, critical_reserve=0)
    async with Node(ALICE, config, store=tmp_path / "alice.db") as alice:
        await alice.send_many(BOB.did, [b"x"] * 3)
        with pytest.raises(StoreFullError) as full:
            await alice.send(BOB.did, b"x")
        assert "3 messages to a peer never met" in full.value.fact
        assert str(BOB.did) in full.value.fact
        assert "unmet_peer_limit" in full.value.hint
        assert full.value.recipient == BOB.did
        assert alice.health().problems == (
            f"the outbox to {BOB.did} is full: 3 messages, 381 bytes",
        )
        await alice.send(CAROL.did, b"x")
        alice.routing.update(BOB.did, NOBODY)
        await alice.send(BOB.did, b"x")  # the limits of one that can be dialed
        assert alice.health().is_well


@on_asyncio
async def test_what_waits_too_long_is_a_dead_letter(tmp_path: Path) -> None:
    config = quick(listen=None, unmet_max_age=1)
    async with Node(ALICE, config, store=tmp_path / "alice.db") as alice:
        alice.routing.update(CAROL.did, NOBODY)
        kept = await alice.send(CAROL.did, b"kept")
        receipt = await alice.send(BOB.did, b"old")
        with pytest.raises(DeliveryFailedError, match="no way to its peer was known") as failure:
            await within(LIMIT, receipt.wait("accepted"))
        assert failure.value.reason is Reason.AGED_OUT
        assert failure.value.hint
        (letter,) = await alice.dead.list()
        assert (letter.payload, letter.reason) == (b"old", Reason.AGED_OUT)
        assert alice.stats().dropped == {Reason.AGED_OUT: 1}
        store = alice.stats().store
        assert store is not None
        assert store.aged_out == 1
        assert not kept.is_final


@on_asyncio
async def test_without_a_store_it_is_refused_as_before() -> None:
    async with Node(ALICE, quick()) as alice:
        with pytest.raises(UnknownPeerError):
            await alice.send(BOB.did, b"x")


def test_the_blocking_node_does_all_this(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text(f"deny {CAROL.did}\n")
    config = quick(access_file=path)
    with (
        sync.Node(ALICE, config, store=tmp_path / "alice.db") as alice,
        sync.Node(BOB, config) as bob,
    ):
        assert alice.send(bob.did, b"early").state is DeliveryState.PERSISTED
        assert alice.peers()[bob.did].stored == Backlog(1, 131)
        alice.routing.update(bob.did, bob.address)
        message = bob.receive(LIMIT)
        assert message is not None
        assert message.payload == b"early"
        assert alice.access.is_denied(CAROL.did)
        path.write_text(f"deny {CAROL.did}\ndeny {BOB.did}\n")
        alice.access.reload()
        with pytest.raises(NotAllowedError):
            alice.send(bob.did, b"late")
    path.write_text("nonsense\n")
    with pytest.raises(ConfigError, match="line 1"):
        sync.Node(ALICE, config)
