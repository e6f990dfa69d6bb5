"""`RoutingTable`: the map, many threads on it, and its file."""

from __future__ import annotations

import os
import pickle
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signedwire.errors import AddressError, ConfigError, DidError
from signedwire.routing import RoutingTable
from signedwire.types import Address, Did
from test_config import DIDS, addresses

A, B, C = DIDS


@pytest.fixture
def quick_switching() -> Iterator[None]:
    """Threads change places every 10 µs, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_update_resolve_remove() -> None:
    table = RoutingTable()
    assert table.resolve(A) is None
    table.update(A, "127.0.0.1:9001")
    table.update(str(B), Address("::1", 9002))
    assert table.resolve(A.hex()) == Address("127.0.0.1", 9001)
    assert table.resolve(B) == Address("::1", 9002)
    assert dict(table) == {A: Address("127.0.0.1", 9001), B: Address("::1", 9002)}
    assert A in table
    assert str(B) in table
    assert C not in table
    assert "no DID" not in table
    assert 7 not in table
    assert table.remove(str(A)) is True
    assert table.remove(A) is False
    assert len(table) == 1
    assert repr(table) == "<RoutingTable routes=1 version=3>"


def test_made_from_a_mapping_pairs_or_another_table() -> None:
    table = RoutingTable({str(A): "a:1", str(B): "b:2"})
    assert dict(RoutingTable({A: Address("a", 1), B: Address("b", 2)})) == dict(table)
    assert dict(RoutingTable([(A, "a:1"), (B.hex(), "b:2")])) == dict(table)
    assert dict(RoutingTable(table)) == dict(table)


def test_version_grows_with_each_change_and_only_then() -> None:
    table = RoutingTable()
    versions = [table.version]
    for change in (
        lambda: table.update(A, "a:1"),
        lambda: table.update(A, "a:2"),
        lambda: table.remove(A),
        lambda: table.update(A, "a:2"),
    ):
        change()
        versions.append(table.version)
    assert versions == [0, 1, 2, 3, 4]
    table.update(A, Address("a", 2))
    table.remove(B)
    table.resolve(A)
    assert table.version == 4


def test_iteration_is_over_a_snapshot() -> None:
    table = RoutingTable({A: "a:1", B: "b:1"})
    for did, _ in table:
        table.remove(did)
        table.update(C, "c:1")
    assert dict(table) == {C: Address("c", 1)}


def test_refusals() -> None:
    table = RoutingTable()
    with pytest.raises(AddressError) as caught:
        table.update(A, "a:0")
    assert str(caught.value) == (
        "'a:0' cannot be a route: no peer listens on port 0. "
        "Write the port on which the peer listens"
    )
    with pytest.raises(AddressError, match=r"^'nowhere' is not an address"):
        table.update(A, "nowhere")
    with pytest.raises(AddressError, match=r"^None is not an address"):
        table.update(A, None)  # type: ignore[arg-type]
    for call in (table.resolve, table.remove, lambda did: table.update(did, "a:1")):
        with pytest.raises(DidError, match=r"^'robot' is not a DID"):
            call("robot")
        with pytest.raises(DidError, match=r"^<1 bytes> is not a DID"):
            call(b"x")  # type: ignore[arg-type]
    assert (len(table), table.version) == (0, 0)


@pytest.mark.usefixtures("quick_switching")
def test_many_threads_lose_no_change_and_see_no_half_one() -> None:
    table = RoutingTable()
    rounds, writers = 2000, 4
    start = threading.Barrier(writers + 2)
    halfway = threading.Barrier(writers, action=lambda: versions.append(table.version))
    versions: list[int] = []
    wrong: list[object] = []
    done = threading.Event()

    def write(number: int) -> None:
        start.wait()
        try:
            for i in range(1, rounds + 1):
                # Never an address that was set before, so every update is a change.
                table.update(DIDS[number % 2], Address(f"h{number}", i))
            halfway.wait()
            for _ in range(rounds):
                table.remove(C)
                table.update(C, Address(f"h{number}", 1))
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            wrong.append(error)

    def read() -> None:
        start.wait()
        seen = 0
        while not done.is_set():
            version, routes = table.version, list(table)
            if version < seen or len(dict(routes)) != len(routes) or len(routes) > 3:
                wrong.append((seen, version, routes))
            seen = version
            address = table.resolve(A)
            if address is not None and str(address)[:2] not in ("h0", "h2"):
                wrong.append(address)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in [*threads, *readers]:
        thread.start()
    for thread in threads:
        thread.join(30)
    done.set()
    for thread in readers:
        thread.join(30)
    assert wrong == []
    assert versions == [rounds * writers]
    assert {str(address).partition(":")[2] for did, address in table if did != C} == {str(rounds)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("routing")


@given(routes=st.dictionaries(st.sampled_from(DIDS), addresses))
def test_a_saved_table_is_loaded_the_same(folder: Path, routes: dict[Did, Address]) -> None:
    path = folder / "peers.toml"
    RoutingTable(routes).save(path)
    assert dict(RoutingTable.load(path)) == routes
    lines = path.read_text().splitlines()
    assert lines[0] == "[peers]"
    assert lines[1:] == sorted(lines[1:])
    assert os.listdir(folder) == ["peers.toml"]


def test_a_host_with_quotes_survives(tmp_path: Path) -> None:
    table = RoutingTable({A: Address('a"b\\c€', 1)})
    table.save(tmp_path / "peers.toml")
    assert dict(RoutingTable.load(str(tmp_path / "peers.toml"))) == dict(table)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
def test_save_keeps_permissions_and_follows_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "link.toml"
    real.write_text("")
    real.chmod(0o640)
    link.symlink_to(real)
    RoutingTable({A: "a:1"}).save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert dict(RoutingTable.load(real)) == {A: Address("a", 1)}


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "peers.toml"
    RoutingTable({A: "a:1"}).save(path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError) as caught:
        RoutingTable().save(path)
    assert str(caught.value) == (
        f"cannot write {path}: No space left on device. "
        "Does the folder exist, and may this user write to it?"
    )
    assert dict(RoutingTable.load(path)) == {A: Address("a", 1)}
    assert os.listdir(tmp_path) == ["peers.toml"]


def test_saving_into_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "peers.toml"
    with pytest.raises(ConfigError) as caught:
        RoutingTable().save(path)
    assert str(caught.value).startswith(f"cannot write {path}: No such file or directory. ")


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ("[peer]\n", "unknown key 'peer'. Did you mean peers?"),
        ("peers = 3", 'peers=3 is not a table. Expected [peers], then "DID" = "host:port"'),
        (
            "[peers]\nrobot = 'a:1'",
            "peers.robot: 'robot' is not a DID, and no peer has that name",
        ),
        (f"[peers]\n'{A}' = 'a'", f"peers.{A}: 'a' is not an address. Write host:port"),
        (f"[peers]\n'{A}' = 9001", f"peers.{A}: 9001 is not an address. Give an Address or"),
        (f"[peers]\n'{A}' = 'a:0'", f"peers.{A}: 'a:0' cannot be a route: no peer listens on"),
        (f"[peers]\n'{A}' = {{}}", f"peers.{A}: it has no address. Write address ="),
        (
            f"[peers]\n'{A}' = {{ address = 'a:1', max_rat = 1 }}",
            f"peers.{A}: unknown key 'max_rat'. Did you mean max_rate?",
        ),
        (
            f"[peers]\n'{A}' = {{ address = 'a:1', max_rate = '2Mb/s' }}",
            f"peers.{A}.max_rate='2Mb/s' is not a rate; write bytes per second, or a text such as",
        ),
        (
            f"[peers]\n'{A}' = {{ address = 'a:1', max_rate = true }}",
            f"peers.{A}.max_rate=True is of type bool; write bytes per second",
        ),
        (
            f"[peers]\n'{A}' = 'a:1'\n'{A.hex()}' = 'a:2'",
            f"peers.{A.hex()}: this DID has a route already, in another spelling or "
            "by a name. Keep one",
        ),
    ],
)
def test_a_bad_file_is_refused_by_file_key_and_reason(tmp_path: Path, toml: str, text: str) -> None:
    path = tmp_path / "peers.toml"
    path.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        RoutingTable.load(path)
    assert str(caught.value).startswith(f"{path}: {text}")


def test_an_unreadable_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot read .*missing\.toml: No such file"):
        RoutingTable.load(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[peers]\nx =\n")
    with pytest.raises(ConfigError, match=r"broken.toml is not TOML: .* \(at line 2, column 4\)$"):
        RoutingTable.load(broken)
    broken.write_text("")
    assert len(RoutingTable.load(broken)) == 0


def test_the_library_reads_the_peers_file_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did = A
    path = tmp_path / "peers.toml"
    path.write_text(f'[peers]\n"{did}" = "127.0.0.1:9001"\n')
    monkeypatch.setenv("SIGNEDWIRE_PEERS", str(path))
    assert dict(RoutingTable.load()) == {did: Address("127.0.0.1", 9001)}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SIGNEDWIRE_PEERS", "~/peers.toml")
    assert len(RoutingTable.load()) == 1
    monkeypatch.setenv("SIGNEDWIRE_PEERS", "~/none.toml")
    with pytest.raises(ConfigError, match=r"none\.toml"):
        RoutingTable.load()
    for value in ("", None):
        if value is None:
            monkeypatch.delenv("SIGNEDWIRE_PEERS")
        else:
            monkeypatch.setenv("SIGNEDWIRE_PEERS", value)
        assert len(RoutingTable.load()) == 0


class TestCap:
    @pytest.mark.parametrize(
        ("value", "rate"),
        [
            ("2MB/s", 2e6),
            ("300 kB/s", 3e5),
            ("64KiB/s", 65536.0),
            ("1.5 GiB/s", 1.5 * 2**30),
            ("3MiB/s", 3 * 2**20),
            ("1GB/s", 1e9),
            (1000, 1000.0),
            (1234.5, 1234.5),
            (10**12, 1e12),
            (None, None),
        ],
    )
    def test_each_form_is_saved_and_loaded_the_same(
        self, tmp_path: Path, value: float | str | None, rate: float | None
    ) -> None:
        table = RoutingTable({B: "b:1"})
        table.update(A, "a:1", max_rate=value)
        table.save(tmp_path / "peers.toml")
        again = RoutingTable.load(tmp_path / "peers.toml")
        for each in (table, again, pickle.loads(pickle.dumps(table)), RoutingTable(table)):
            assert (each.max_rate(str(A)), each.max_rate(B)) == (rate, None)
            assert dict(each) == dict(table)

    def test_it_is_saved_with_a_unit(self, tmp_path: Path) -> None:
        table = RoutingTable()
        table.update(A, "a:1", max_rate=2_000_000)
        table.save(tmp_path / "peers.toml")
        line = f'"{A}" = {{ address = "a:1", max_rate = "2MB/s" }}'
        assert (tmp_path / "peers.toml").read_text().splitlines()[1:] == [line]

    def test_a_change_is_a_new_version_and_is_told(self) -> None:
        told: list[int] = []

        class Watcher:
            def look(self) -> None:
                told.append(table.version)

        table, watcher = RoutingTable({A: "a:1"}), Watcher()
        table.watch(watcher.look)
        table.update(A, "a:1", max_rate="2MB/s")
        table.update(A, "a:1", max_rate=2e6)
        table.update(A, "a:1")
        table.update(A, "a:2")
        assert table.max_rate(A) == 2e6
        table.update(A, "a:2", max_rate=None)
        assert table.max_rate(A) is None
        table.update(A, "a:2", max_rate=1000)
        assert table.remove(A)
        assert not table.remove(A)
        assert told == [2, 3, 4, 5, 6]
        table.update(A, "a:2")
        assert table.max_rate(A) is None

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            ("2mb/s", ValueError),
            ("2MB", ValueError),
            ("-2MB/s", ValueError),
            ("1e3kB/s", ValueError),
            ("0.9kB/s", ValueError),
            ("", ValueError),
            (999, ValueError),
            (0, ValueError),
            (float("nan"), ValueError),
            (float("inf"), ValueError),
            (10**400, ValueError),
            (True, TypeError),
            (b"2MB/s", TypeError),
        ],
    )
    def test_a_wrong_one_changes_nothing(self, value: object, kind: type[Exception]) -> None:
        table = RoutingTable({A: "a:1"})
        with pytest.raises(kind, match=r"^max_rate=.*; write bytes per second, or a text such as"):
            table.update(A, "a:2", max_rate=value)  # type: ignore[arg-type]
        assert (table.version, table.resolve(A)) == (1, Address("a", 1))
