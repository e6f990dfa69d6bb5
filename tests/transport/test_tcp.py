"""The TCP network: socket options, errors in words, and what the kernel can be asked."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import sys
from typing import Any, cast

import pytest

from netkit import End
from signedwire import Address, DialError, FailureKind, ListenError, Stream
from signedwire.transport import tcp_stream
from signedwire.transport.os_errors import describe_os_error
from signedwire.transport.tcp import TcpNetwork
from wirekit import RawServer, eventually, on_asyncio, on_both_loops, refusing_address

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux says this")


def sock_of(stream: Stream) -> socket.socket:
    sock: socket.socket = cast(Any, stream)._socket
    return sock


async def close(*ends: End) -> None:
    for end in ends:
        end.stream.abort()
    await eventually(lambda: all(end.is_lost for end in ends))


# -- listening ----------------------------------------------------------------------


@on_both_loops
async def test_a_port_in_use_is_named_with_its_address() -> None:
    with RawServer() as server:
        with pytest.raises(ListenError, match=f"{server.address}: the port is in use") as caught:
            await TcpNetwork().listen(server.address, End)
        assert caught.value.address == server.address
        assert isinstance(caught.value, OSError)


@on_both_loops
async def test_an_address_of_another_machine() -> None:
    with pytest.raises(ListenError, match=r"Is it an address of this machine\?"):
        await TcpNetwork().listen(Address("192.0.2.1", 0), End)


@on_both_loops
async def test_a_malformed_name() -> None:
    address = Address("robot..local", 9)
    with pytest.raises(ListenError, match=r"the host name is malformed"):
        await TcpNetwork().listen(address, End)
    with pytest.raises(DialError, match=r"the host name is malformed"):
        await TcpNetwork().dial(address, End())


@on_asyncio
async def test_a_port_that_needs_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "x")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_server", refuse)
    with pytest.raises(ListenError, match=r"permission denied. Ports under 1024"):
        await TcpNetwork().listen(Address("127.0.0.1", 80), End)


@on_both_loops
async def test_accepted_connections_stay_when_the_listener_closes() -> None:
    theirs = End()
    listener = await TcpNetwork().listen(Address("127.0.0.1", 0), lambda: theirs)
    assert str(listener.address) != "127.0.0.1:0"
    ours = End()
    stream = await TcpNetwork().dial(listener.address, ours)
    await eventually(lambda: theirs.is_connected)
    listener.close()
    stream.write(b"hello")
    await eventually(lambda: theirs.data == b"hello")
    await close(ours, theirs)


# -- dialing ------------------------------------------------------------------------------


@on_both_loops
async def test_refused() -> None:
    with refusing_address() as address:
        with pytest.raises(DialError) as caught:
            await TcpNetwork().dial(address, End())
        assert caught.value.cause == "connection refused"
        assert caught.value.address == address


@on_both_loops
async def test_a_connection_to_itself_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class FromItsOwnPort(socket.socket):
        def connect(self, address: Any, /) -> None:
            self.bind(address)
            super().connect(address)

    monkeypatch.setattr(socket, "socket", FromItsOwnPort)
    with refusing_address() as address:
        pass
    recorder = End()
    with pytest.raises(DialError, match="connected to itself"):
        await TcpNetwork().dial(address, recorder)
    assert not recorder.is_connected


@on_both_loops
async def test_cancelling_a_dial_leaves_nothing_open() -> None:
    with RawServer() as server:
        for delay in range(6):
            dialing = asyncio.create_task(TcpNetwork().dial(server.address, End()))
            for _ in range(delay):
                await asyncio.sleep(0)
            if not dialing.cancel():
                (await dialing).abort()
            await asyncio.gather(dialing, return_exceptions=True)
            if not dialing.cancelled():
                dialing.result().abort()


@pytest.mark.parametrize(
    ("error", "words", "kind"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), None, "refused"),
        (OSError(errno.ECONNRESET, "x"), None, "reset"),
        (OSError(errno.EPIPE, "x"), None, "reset"),
        (OSError(errno.EHOSTUNREACH, "x"), None, "unreachable"),
        (OSError(errno.ENETUNREACH, "x"), None, "unreachable"),
        (OSError(errno.ETIMEDOUT, "x"), None, "timed out"),
        (OSError(errno.EMFILE, "x"), None, "system"),
        (OSError(errno.EACCES, "x"), None, "system"),
        (socket.gaierror(-2, "Name or service not known"), "the host name is unknown", None),
        (OSError("in its own words"), "in its own words", "other"),
        (TimeoutError(), "TimeoutError", "timed out"),
    ],
)
def test_errors_in_words(error: OSError, words: str | None, kind: str | None) -> None:
    described = describe_os_error(error)
    assert described == (words or os.strerror(error.errno or 0).lower())
    assert described.kind == (kind or FailureKind.NAME_UNKNOWN)


# -- options and questions ---------------------------------------------------------------


@LINUX
@on_both_loops
async def test_both_ends_notice_a_peer_that_vanished() -> None:
    with RawServer() as server:
        ours = End()
        stream = await TcpNetwork().dial(server.address, ours)
        sock = sock_of(stream)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        with await server.accept():
            pass
        await close(ours)


@on_asyncio
async def test_options_that_a_platform_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "TCP_KEEPINTVL")
    with RawServer() as server:
        ours = End()
        await TcpNetwork().dial(server.address, ours)
        await close(ours)


@LINUX
@on_both_loops
async def test_unacknowledged() -> None:
    with RawServer(receive_buffer=4096) as server:
        ours = End()
        stream = await TcpNetwork().dial(server.address, ours)
        with await server.accept() as link:
            assert stream.unacknowledged() == 0
            stream.write(b"x" * 1000)
            await eventually(lambda: stream.unacknowledged() == 0)
            stream.write(b"x" * 1_000_000)
            await asyncio.sleep(0.01)
            unacknowledged = stream.unacknowledged()
            assert unacknowledged is not None
            assert unacknowledged > 10_000
            link.reset()
        await close(ours)


@on_asyncio
async def test_where_the_kernel_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer() as server:
        ours = End()
        stream = await TcpNetwork().dial(server.address, ours)
        with monkeypatch.context() as patch:
            patch.setattr(tcp_stream, "fcntl", None)
            assert stream.unacknowledged() is None
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", "win32")
            assert stream.round_trip() is None
        with monkeypatch.context() as patch:
            patch.delattr(select, "poll")
            stream.pause_reading()
            assert not stream.peer_has_closed()
            (await server.accept()).close()
            await eventually(lambda: stream.peer_has_closed())
        with socket.socket(socket.AF_UNIX) as other, monkeypatch.context() as patch:
            patch.setattr(cast(Any, stream)._transport, "get_extra_info", lambda name: other)
            assert stream.round_trip() is None
            assert stream.unacknowledged() in (0, None)
        pipe = os.pipe()
        with (
            os.fdopen(pipe[0]) as no_socket,
            os.fdopen(pipe[1], "w"),
            monkeypatch.context() as patch,
        ):
            patch.setattr(cast(Any, stream)._transport, "get_extra_info", lambda name: no_socket)
            assert stream.unacknowledged() is None
        await close(ours)


@LINUX
@on_both_loops
async def test_the_round_trip_is_the_kernels() -> None:
    with RawServer() as server:
        ours = End()
        stream = await TcpNetwork().dial(server.address, ours)
        round_trip = stream.round_trip()
        assert round_trip is not None
        assert 0 < round_trip < 0.1
        await close(ours)


@on_both_loops
async def test_asked_by_another_thread_while_it_closes() -> None:
    """`sync.Node.peers()` asks from its caller's thread; the socket may be gone by then."""
    with RawServer() as server:
        ours = End()
        stream = await TcpNetwork().dial(server.address, ours)
        await close(ours)
        await asyncio.sleep(0)
        assert stream.round_trip() is None


@on_both_loops
async def test_the_close_of_the_peer_is_seen_at_once() -> None:
    with RawServer() as server:
        ours = End()
        stream = await TcpNetwork().dial(server.address, ours)
        link = await server.accept()
        assert not stream.peer_has_closed()
        link.close()
        assert stream.peer_has_closed()
        await close(ours)


@pytest.mark.parametrize(
    ("listen", "reached", "not_reached"),
    [("[::]:0", "::1", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1", "::1")],
)
@on_both_loops
async def test_everywhere_is_everywhere_of_one_family(
    listen: str, reached: str, not_reached: str
) -> None:
    """As the docs say, and the same on every system: `[::]` takes no IPv4."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    listener = await TcpNetwork().listen(Address.parse(listen), End)
    try:
        assert isinstance(listener.address, Address)
        port = listener.address.port
        socket.create_connection((reached, port), 5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((not_reached, port), 5)
    finally:
        listener.close()
