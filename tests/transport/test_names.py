"""Names and addresses: lookups in threads of their own, addresses that race, zones, hints."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netkit import End
from signedwire import (
    Address,
    DeliveryState,
    DialError,
    FailureKind,
    Node,
    PeerState,
    ResolveTimeout,
    TransportConfig,
)
from signedwire.transport import names as names_module
from signedwire.transport import racing
from signedwire.transport.dial_attempt import DialAttempt
from signedwire.transport.names import Resolver
from signedwire.transport.os_errors import describe_os_error
from signedwire.transport.socket_addresses import (
    SocketAddress,
    address_of,
    interleaved,
    literal_address,
)
from signedwire.transport.tcp import TcpNetwork
from wirekit import (
    ALICE,
    BOB,
    LIMIT,
    SLACK,
    RawServer,
    eventually,
    identity,
    on_asyncio,
    on_both_loops,
    quick,
    refusing_address,
    tcp_sockets,
    within,
)

REAL = socket.getaddrinfo
LOOPBACK = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]


class NameServer:
    """Answers for names that end in `.example`; `hold` keeps the others of them waiting."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.answers: dict[str, Any] = {}

    def __call__(self, host: str, *rest: Any, **more: Any) -> Any:
        if not host.endswith(".example"):
            return REAL(host, *rest, **more)
        self.asked.append(host)
        if host not in self.answers:
            self.gate.wait(LIMIT * 3)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        answer = self.answers[host]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    # All nodes share it, and it remembers the names that were slow in an earlier test.
    names_module.RESOLVER.reset()
    yield server
    server.gate.set()
    until = time.monotonic() + LIMIT
    while any(thread.name.startswith("resolver-") for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.001)


def config(**changes: Any) -> TransportConfig:
    return quick(wire="auto", v1_peers=(), **changes)


def own_network() -> TcpNetwork:
    """A network that shares no lookups with other tests."""
    network = TcpNetwork()
    network._resolver = Resolver()
    return network


def port_of(node: Node) -> int:
    assert node.address is not None
    assert isinstance(node.address, Address)
    return node.address.port


# -- lookups ------------------------------------------------------------------------


@on_both_loops
async def test_one_name_has_one_thread_however_many_ask(names: NameServer) -> None:
    resolver = Resolver()
    asking = [asyncio.create_task(resolver.look_up("dead.example")) for _ in range(50)]
    await eventually(lambda: names.asked)
    assert resolver.running == 1
    for task in asking[1:]:
        task.cancel()
    names.gate.set()
    with pytest.raises(socket.gaierror):
        await within(LIMIT, asking[0])
    await asyncio.gather(*asking, return_exceptions=True)
    assert names.asked == ["dead.example"]
    await eventually(lambda: resolver.running == 0)


@on_both_loops
async def test_dead_names_leave_threads_for_the_living(names: NameServer) -> None:
    """Hosts that were slow before share half of the threads."""
    names.answers["live.example"] = LOOPBACK
    resolver = Resolver(max_lookups=8)
    dead = [f"dead{number}.example" for number in range(40)]
    for name in dead:
        resolver._slow[name] = None
    asking = [asyncio.create_task(resolver.look_up(name)) for name in dead]
    await eventually(lambda: len(names.asked) == 4)
    assert await within(SLACK, resolver.look_up("live.example")) == [
        SocketAddress(socket.AF_INET, ("127.0.0.1", 0))
    ]
    assert resolver.running == 4
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert not resolver._waiting
    assert len(resolver._lookups) == 4


@on_both_loops
async def test_a_host_that_is_known_does_not_wait(names: NameServer) -> None:
    names.answers["robot.example"] = LOOPBACK
    resolver = Resolver()
    known = await within(LIMIT, resolver.look_up("robot.example"))
    del names.answers["robot.example"]
    assert await within(0.25 + SLACK, resolver.look_up("robot.example")) == known


@on_both_loops
async def test_literals_have_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for host in ("127.0.0.1", "::1"):
        theirs: list[End] = []

        def accept(theirs: list[End] = theirs) -> End:
            theirs.append(End())
            return theirs[-1]

        try:
            listener = await TcpNetwork().listen(Address(host, 0), accept)
        except OSError:
            continue  # no IPv6 here
        (await TcpNetwork().dial(listener.address, End())).abort()
        await eventually(lambda theirs=theirs: theirs)  # type: ignore[misc]
        listener.close()
        await asyncio.sleep(0.01)


@on_both_loops
async def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(DialError, match="no thread can be started"):
        await own_network().dial(Address("robot.example", 1), End())


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (socket.EAI_NONAME, "the host name is unknown", FailureKind.NAME_UNKNOWN),
        (
            socket.EAI_AGAIN,
            "the host name cannot be looked up now: no name server answers",
            FailureKind.NAME_SERVER_SILENT,
        ),
    ],
)
def test_what_a_name_server_says(code: int, words: str, kind: FailureKind) -> None:
    cause = describe_os_error(socket.gaierror(code, "x"))
    assert (cause, cause.kind) == (words, kind)


@on_both_loops
async def test_a_lookup_that_did_not_finish_is_no_attempt(names: NameServer) -> None:
    settings = config(connect_timeout=0.02, max_attempts=2)
    async with Node(ALICE, settings) as alice, Node(BOB, config()) as bob:
        alice.routing.update(bob.did, f"dead.example:{port_of(bob)}")
        receipt = alice.send_nowait(bob.did, b"x")
        await eventually(lambda: alice.stats().dial_failures > 5)
        status = alice.peers()[bob.did]
        assert status.failed_attempts == 0
        assert not receipt.is_final
        assert "the name dead.example was not resolved within 0.02 s" in str(status.last_error)
        assert status.last_error_kind is FailureKind.NAME_SERVER_SILENT
        assert alice.pool_stats().active == 0
        assert names.asked == ["dead.example"]
        alice.routing.update(bob.did, f"127.0.0.1:{port_of(bob)}")
        await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))


@on_both_loops
async def test_a_name_server_that_fails_at_once_costs_no_attempt(names: NameServer) -> None:
    names.answers["dead.example"] = socket.gaierror(socket.EAI_AGAIN, "try again")
    settings = config(retry_base_delay=0.001, retry_max_delay=0.002, max_attempts=2)
    async with Node(ALICE, settings) as alice, Node(BOB, config()) as bob:
        alice.routing.update(bob.did, f"dead.example:{port_of(bob)}")
        receipt = alice.send_nowait(bob.did, b"x")
        await eventually(lambda: alice.stats().dial_failures > 5)
        status = alice.peers()[bob.did]
        assert status.failed_attempts == 0
        assert not receipt.is_final
        assert status.last_error_kind is FailureKind.NAME_SERVER_SILENT
        names.answers["dead.example"] = REAL("127.0.0.1", None, type=socket.SOCK_STREAM)
        await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))


@on_asyncio
async def test_the_error_of_a_lookup_has_a_type_of_its_own(names: NameServer) -> None:
    settings = config(connect_timeout=0.01)
    async with Node(ALICE, settings) as alice:
        alice.routing.update(BOB.did, "dead.example:1")
        alice.send_nowait(BOB.did, b"x")
        await eventually(lambda: alice._core.dialers.all())
        dialer = alice._core.dialers.all()[0]
        with pytest.raises(ResolveTimeout) as caught:
            await DialAttempt(dialer._parts, dialer.address).look_up()
        assert caught.value.address == Address("dead.example", 1)


def test_a_process_ends_although_a_lookup_does_not() -> None:
    program = """
import asyncio, socket, threading
from signedwire import Identity, Node, TransportConfig
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
async def main():
    me = Identity.generate()
    config = TransportConfig(listen=None, connect_timeout=0.05, close_timeout=0.05)
    async with Node(me, config) as node:
        peer = Identity.generate().did
        node.routing.update(peer, "dead.example:1")
        node.send_nowait(peer, b"x")
        await asyncio.sleep(0.2)
asyncio.run(main())
print("end")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end\n", "")


@on_both_loops
async def test_forty_dead_names_beside_a_living_one(names: NameServer) -> None:
    names.answers["live.example"] = LOOPBACK
    settings = config(connect_timeout=0.2)
    async with Node(ALICE, settings) as alice, Node(BOB, config()) as bob:
        for number in range(40):
            did = identity(500 + number).did
            alice.routing.update(did, f"dead{number}.example:9")
            alice.send_nowait(did, b"x")
        alice.routing.update(bob.did, f"live.example:{port_of(bob)}")
        for number in range(200):
            await within(LIMIT, alice.send(bob.did, b"%d" % number))
        assert alice.peers()[bob.did].state is PeerState.CONNECTED
        assert alice.stats().evictions == 0
        await eventually(lambda: len(set(names.asked)) == 41)


# -- addresses race ------------------------------------------------------------------


@contextlib.contextmanager
def hole(port: int) -> Iterator[None]:
    """127.0.0.2 takes no more SYNs at the port: its backlog is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.2", port))
        server.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield


@on_both_loops
async def test_the_first_address_swallows_syns(names: NameServer) -> None:
    names.answers["robot.example"] = [(*LOOPBACK[0][:4], ("127.0.0.2", 0)), *LOOPBACK]
    async with (
        Node(ALICE, config()) as alice,
        Node(BOB, config()) as bob,
    ):
        with hole(port_of(bob)):
            alice.routing.update(bob.did, f"robot.example:{port_of(bob)}")
            receipt = await within(0.25 + SLACK, alice.send(bob.did, b"x"))
            assert receipt.is_confirmed
            status = alice.peers()[bob.did]
            assert status.failed_attempts == alice.stats().dial_failures == 0


@on_both_loops
async def test_the_first_address_refuses(names: NameServer) -> None:
    with RawServer() as server:
        names.answers["robot.example"] = [(*LOOPBACK[0][:4], ("127.0.0.3", 0)), *LOOPBACK]
        address = Address("robot.example", server.address.port)
        stream = await within(0.25, own_network().dial(address, End()))
        assert stream.remote.target == server.address
        stream.abort()


@on_both_loops
async def test_all_addresses_refuse(names: NameServer) -> None:
    names.answers["robot.example"] = [
        (*LOOPBACK[0][:4], (f"127.0.0.{number}", 0)) for number in (1, 2, 3)
    ]
    with refusing_address() as refused:
        address = Address("robot.example", refused.port)
        with pytest.raises(DialError, match=r"robot\.example:.*: connection refused$"):
            await within(LIMIT, own_network().dial(address, End()))


@on_both_loops
async def test_a_race_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled after any number of turns of the loop, while two addresses answer at once."""
    monkeypatch.setattr(racing, "_NEXT_AFTER", 0.0)
    with RawServer() as one, RawServer() as other:
        addresses = [
            SocketAddress(socket.AF_INET, tuple(server.address)) for server in (one, other, one)
        ]
        before = tcp_sockets()
        for turns in range(12):
            racer = asyncio.create_task(racing.connect_first(addresses))
            for _ in range(turns):
                await asyncio.sleep(0)
            racer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await racer).close()
            await eventually(lambda: tcp_sockets() <= before)


def test_families_in_turn() -> None:
    v6 = [SocketAddress(socket.AF_INET6, (f"2001:db8::{n}", 0, 0, 0)) for n in range(3)]
    v4 = [SocketAddress(socket.AF_INET, (f"192.0.2.{n}", 0)) for n in range(2)]
    assert interleaved([*v6, *v4, *v4]) == [v6[0], v4[0], v6[1], v4[1], v6[2]]
    assert interleaved([]) == []
    many = [SocketAddress(socket.AF_INET, (f"192.0.2.{n}", 0)) for n in range(200)]
    assert interleaved(many) == many[:16]


# -- zones ---------------------------------------------------------------------------

LO = socket.if_indextoname(1)


@pytest.mark.parametrize("zone", [LO, "1"])
def test_a_zone_survives(zone: str) -> None:
    address = Address.parse(f"[fe80::1%{zone}]:9001")
    socket_address = literal_address(address)
    assert socket_address is not None
    assert socket_address == SocketAddress(socket.AF_INET6, ("fe80::1", 9001, 0, 1))
    assert address_of(socket_address.sockaddr) == Address(f"fe80::1%{LO}", 9001)


def test_an_interface_that_is_gone() -> None:
    assert address_of(("fe80::1", 9, 0, 999_999)) == Address("fe80::1%999999", 9)


@pytest.mark.parametrize("zone", ["eth77", "999999", "99999999999", "٣"])
@on_both_loops
async def test_an_unknown_zone_is_named(zone: str) -> None:
    network, address = TcpNetwork(), Address(f"fe80::1%{zone}", 9)
    meet: tuple[Callable[[], Any], ...] = (
        lambda: network.dial(address, End()),
        lambda: network.listen(address, End),
    )
    for call in meet:
        with pytest.raises(OSError, match=f"no network interface '{zone}'"):
            await within(SLACK, call())


@on_both_loops
async def test_a_link_local_address_without_a_zone_is_told_so() -> None:
    with pytest.raises(DialError, match="A link-local address needs the zone"):
        await within(LIMIT, TcpNetwork().dial(Address("fe80::1", 9), End()))


IN_A_NAMESPACE = """
import asyncio, sys
from signedwire import Identity, Node, TransportConfig
from signedwire.portal import new_event_loop
async def main():
    config = TransportConfig(listen="[fe80::7%wire0]:0")
    async with Node(Identity.generate(), config) as bob, Node(Identity.generate()) as alice:
        print(str(bob.address).rpartition(":")[0])
        alice.routing.update(bob.did, str(bob.address))
        print((await alice.send(bob.did, b"x", deadline=10)).is_confirmed)
        print(bob.peers()[alice.did].address.host, alice.peers()[bob.did].address.host)
factory = new_event_loop if sys.argv[1] == "uvloop" else asyncio.new_event_loop
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nodes_meet_at_a_link_local_address(loop: str) -> None:
    """In a network namespace of its own, where an interface has such an address."""
    setup = (
        "ip link set lo up && ip link add wire0 type veth peer name wire1 && "
        "ip link set wire0 up && ip link set wire1 up && ip -6 addr add fe80::7/64 dev wire0 nodad"
    )
    namespace = ["unshare", "--net", "--map-root-user"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs unshare and ip")
    if subprocess.run([*namespace, "sh", "-c", setup], capture_output=True, check=False).returncode:
        pytest.skip("may make no network namespace with a link-local address")
    program = [sys.executable, "-c", IN_A_NAMESPACE, loop]
    ended = subprocess.run(
        [*namespace, "sh", "-c", f'{setup} && exec "$@"', "sh", *program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    listening, is_confirmed, addresses = ended.stdout.splitlines()
    assert listening == "[fe80::7%wire0]"
    assert is_confirmed == "True"
    assert addresses.split() == ["fe80::7%wire0", "fe80::7%wire0"]


@on_both_loops
async def test_a_probe_says_that_the_name_was_not_resolved(names: NameServer) -> None:
    async with Node(ALICE, config(connect_timeout=0.05)) as alice:
        found = await alice.probe(BOB.did, "dead.example:9")
        assert found.error == "the name dead.example was not resolved within 0.05 s"
        assert found.failure is FailureKind.NAME_SERVER_SILENT
    names.answers["gone.example"] = socket.gaierror(socket.EAI_NONAME, "x")
    async with Node(ALICE, config(connect_timeout=1.0)) as alice:
        found = await alice.probe(BOB.did, "gone.example:9")
        assert found.error == "cannot connect: the host name is unknown"
        assert found.failure is FailureKind.NAME_UNKNOWN


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_looks_names_up_anew() -> None:
    """The thread of its parent that looks a name up is not there."""
    program = """
import asyncio, os, socket, threading
from signedwire import Address
from signedwire.transport.tcp import TcpNetwork
real = socket.getaddrinfo
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
address = Address("localhost", 9)
async def ask():
    async with asyncio.timeout(0.05):
        await TcpNetwork().resolve(address)
try:
    asyncio.run(ask())
except TimeoutError:
    pass
child = os.fork()
if child == 0:
    socket.getaddrinfo = real
    async def ask_again():
        async with asyncio.timeout(10):
            assert await TcpNetwork().resolve(address)
    asyncio.run(ask_again())
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@on_asyncio
async def test_dead_names_never_seen_before_leave_threads_for_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where each had a thread before it was known to be slow."""
    monkeypatch.setattr(names_module, "_SLOW", 0.1)
    released = threading.Event()

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        if host.startswith("dead"):
            released.wait(LIMIT)
            raise socket.gaierror(socket.EAI_AGAIN, "nobody answers")
        return real(host, *rest, **more)

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = Resolver(8)
    dead = [asyncio.create_task(resolver.look_up(f"dead{n}.example")) for n in range(12)]
    try:
        await asyncio.sleep(0.01)
        assert resolver.running == 8
        assert await within(LIMIT / 2, resolver.look_up("localhost"))
        assert resolver.running <= 16
    finally:
        released.set()
        await asyncio.gather(*dead, return_exceptions=True)
