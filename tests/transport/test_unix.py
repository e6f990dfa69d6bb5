"""Unix sockets: whose file it is, who may use it, and what becomes of one left behind."""

from __future__ import annotations

import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from netkit import End
from signedwire import (
    DialError,
    FailureKind,
    ListenError,
    Location,
    Node,
    TransportConfig,
    UnixNetwork,
)
from wirekit import ALICE, BOB, LIMIT, eventually, on_both_loops, within


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="sw") as name:
        yield Path(name)


def at(path: Path) -> Location:
    return Location("unix", str(path))


@on_both_loops
async def test_the_file_is_for_this_user_and_goes_with_the_listener(folder: Path) -> None:
    path = folder / "a.sock"
    old = os.umask(0)
    try:
        listener = await UnixNetwork().listen(at(path), End)
    finally:
        os.umask(old)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()
    assert not path.exists()


@on_both_loops
async def test_a_file_left_behind_is_replaced(folder: Path) -> None:
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
        crashed.listen()
    with pytest.raises(DialError, match="nobody listens there any more"):
        await UnixNetwork().dial(at(path), End())
    theirs, ours = End(), End()
    listener = await UnixNetwork().listen(at(path), lambda: theirs)
    await within(LIMIT, UnixNetwork().dial(at(path), ours))
    ours.stream.close()
    await eventually(lambda: theirs.is_lost and ours.is_lost)
    listener.close()


@on_both_loops
async def test_what_is_no_socket_left_behind_is_not_touched(folder: Path) -> None:
    path = folder / "notes"
    path.write_text("kept")
    with pytest.raises(ListenError, match="a file that is no socket"):
        await UnixNetwork().listen(at(path), End)
    assert path.read_text() == "kept"
    link = folder / "link"
    link.symlink_to(path)
    with pytest.raises(ListenError, match="a file that is no socket"):
        await UnixNetwork().listen(at(link), End)
    assert link.is_symlink()


@on_both_loops
async def test_a_file_that_another_process_put_there_stays(folder: Path) -> None:
    path = folder / "a.sock"
    listener = await UnixNetwork().listen(at(path), End)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        listener.close()
        assert path.exists()


@on_both_loops
async def test_errors_say_what_to_do(folder: Path) -> None:
    with pytest.raises(DialError, match=r"no such socket. Is the peer running\?"):
        await UnixNetwork().dial(at(folder / "nobody"), End())
    with pytest.raises(ListenError, match=r"its folder does not exist. Make the folder"):
        await UnixNetwork().listen(at(folder / "none" / "a.sock"), End)
    assert list(os.scandir(folder)) == []


@on_both_loops
async def test_a_path_may_have_as_many_bytes_as_the_errors_say(folder: Path) -> None:
    limit = 107 if sys.platform == "linux" else 103
    longest = folder / ("x" * (limit - len(str(folder)) - 1))
    listener = await UnixNetwork().listen(at(longest), End)
    end = End()
    await UnixNetwork().dial(listener.address, end)
    end.stream.close()
    listener.close()
    await eventually(lambda: end.is_lost)
    for too_long in (Path(f"{longest}x"), folder / ("é" * 60)):
        size = len(os.fsencode(too_long))
        words = f"its path has {size} bytes, and that of a socket may have {limit}. Choose a short"
        with pytest.raises(ListenError, match=words):
            await UnixNetwork().listen(at(too_long), End)
        with pytest.raises(DialError, match=words) as error:
            await UnixNetwork().dial(at(too_long), End())
        assert error.value.kind is FailureKind.UNREACHABLE
    assert list(os.scandir(folder)) == []


@on_both_loops
async def test_what_is_no_socket_is_not_dialed(folder: Path) -> None:
    (folder / "file").touch()
    (folder / "link").symlink_to(folder / "file")
    for path in (folder, folder / "file", folder / "link", Path("/dev/null")):
        with pytest.raises(DialError, match="there is a file that is no socket") as error:
            await UnixNetwork().dial(at(path), End())
        assert error.value.kind is FailureKind.UNREACHABLE


@on_both_loops
async def test_the_configuration_chooses_it(folder: Path) -> None:
    def config(name: str) -> TransportConfig:
        return TransportConfig(network="unix", listen=f"unix:{folder}/{name}.sock")

    async with Node(ALICE, config("alice")) as alice, Node(BOB, config("bob")) as bob:
        alice.routing.update(bob.did, f"unix:{folder}/bob.sock")
        await within(LIMIT, alice.send(bob.did, b"hello"))
        assert (await bob.receive(LIMIT)).payload == b"hello"
        assert {entry.name for entry in os.scandir(folder)} == {"alice.sock", "bob.sock"}
    assert list(os.scandir(folder)) == []


@on_both_loops
async def test_a_probe_reaches_one(folder: Path) -> None:
    config = TransportConfig(network="unix", listen=None)
    where = at(folder / "bob.sock")
    async with Node(ALICE, config) as alice:
        found = await within(LIMIT, alice.probe(BOB.did, where))
        assert (found.failure, found.address) == (FailureKind.REFUSED, where)
        async with Node(BOB, config.replace(listen=where)) as bob:
            found = await within(LIMIT, alice.probe(bob.did, str(where)))
            assert (found.wire, found.answered_by, found.address) == ("v2", bob.did, where)


@on_both_loops
async def test_a_probe_over_tcp_says_what_it_reaches() -> None:
    async with Node(ALICE, TransportConfig(listen=None)) as alice:
        found = await within(LIMIT, alice.probe(BOB.did, "unix:/run/robot.sock"))
        assert found.failure is FailureKind.UNREACHABLE
        assert found.error == "cannot connect: TCP reaches host:port"


@on_both_loops
async def test_local_peers_have_no_share_of_the_places(folder: Path) -> None:
    """As on loopback: `max_unproven_per_host` is for hosts."""
    path = folder / "a.sock"
    config = TransportConfig(network="unix", listen=f"unix:{path}", max_unproven_per_host=1)
    async with Node(ALICE, config) as alice:
        strangers = []
        for _ in range(5):
            strangers.append(socket.socket(socket.AF_UNIX))
            strangers[-1].connect(str(path))
        await eventually(lambda: alice.stats().inbound_connections == 5)
        assert alice.stats().dropped == {}
        for stranger in strangers:
            stranger.close()
        await eventually(lambda: alice.stats().inbound_connections == 0)
