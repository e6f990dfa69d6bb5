"""Hand-made TLS peers for the tests: certificates with any flaw, a client and a server that lie."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_scalarmult_ed25519_base_noclamp,
)

from bodykit import encode_v2_body
from idkit import id_of
from linkkit import credits
from signedwire import Address, Did, Identity, TransportConfig
from signedwire.identity import Label
from signedwire.transport.certificates import ALPN, NULL_CA_PEM, PUBLIC_NULL_CA_KEY_NOT_SECRET
from signedwire.types import unix_time_us
from signedwire.wire.did_proof import uri_of_proof
from signedwire.wire.envelope import sign_batch
from signedwire.wire.header import STREAMS
from signedwire.wire.link_frames import Epochs, Hello
from signedwire.wire.parts import encode_batch
from wirekit import identity

T = TypeVar("T")

MALLORY: Final = identity(66)
"""The attacker, who owns this key and no other."""
HOUR_US: Final = 3600 * 1_000_000
ORDER_8_POINT: Final = bytes.fromhex(
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
)
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_FROM: Final = datetime.datetime(2000, 1, 1)
_UNTIL: Final = datetime.datetime(9999, 12, 31, 23, 59, 59)

_OTHER_OID: Final = "2.5.29.99"
"""An extension that nobody knows, with an OID of the size of subjectAltName's."""
_OTHER_OID_DER: Final = bytes.fromhex("0603551d63")

Key = ec.EllipticCurvePrivateKey
NULL_CA: Final = x509.load_pem_x509_certificate(NULL_CA_PEM.encode())
NULL_CA_KEY: Final = ec.derive_private_key(
    int.from_bytes(PUBLIC_NULL_CA_KEY_NOT_SECRET, "big") % (_P256_ORDER - 1) + 1, ec.SECP256R1()
)


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def spki_of(key: Key) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def in_hours(hours: float) -> int:
    return unix_time_us() + int(hours * HOUR_US)


def did_proof_of(
    signer: Identity,
    spki: bytes,
    *,
    did: bytes | None = None,
    expires_at_us: int | None = None,
    label: bytes = Label.DID_PROOF.value,
) -> bytes:
    """A DID proof as docs/protocol.md has it, with any part of it changed."""
    from nacl.signing import SigningKey

    did = bytes(signer.did) if did is None else did
    expiry = (in_hours(24) if expires_at_us is None else expires_at_us).to_bytes(8, "little")
    # The seed of a test's identity is the first half of what it signs with.
    key = SigningKey(signer._secret_key[:32])
    return did + expiry + key.sign(label + did + expiry + spki).signature


def torsion_did_proof(spki: bytes, expires_at_us: int | None = None) -> bytes:
    """A proof under a key with a torsion component that the bare equation holds for.

    A' = A + T of order 8: wherever the challenge is a multiple of 8, S·B = R + h·A'.
    """
    scalar = crypto_core_ed25519_scalar_reduce(hashlib.sha512(b"mallory").digest())
    did = crypto_core_ed25519_add(crypto_scalarmult_ed25519_base_noclamp(scalar), ORDER_8_POINT)
    expires_at_us = in_hours(24) if expires_at_us is None else expires_at_us
    text = Label.DID_PROOF.value + did + expires_at_us.to_bytes(8, "little") + spki
    for attempt in range(1000):
        nonce = crypto_core_ed25519_scalar_reduce(hashlib.sha512(b"%d" % attempt).digest())
        point = crypto_scalarmult_ed25519_base_noclamp(nonce)
        challenge = crypto_core_ed25519_scalar_reduce(hashlib.sha512(point + did + text).digest())
        if challenge[0] % 8 == 0:
            product = crypto_core_ed25519_scalar_mul(challenge, scalar)
            signature = point + crypto_core_ed25519_scalar_add(nonce, product)
            return did + text[len(Label.DID_PROOF.value) + 32 :][:8] + signature
    raise AssertionError("no challenge was a multiple of 8")


def certificate(
    key: Key,
    proofs: tuple[bytes, ...] = (),
    *,
    names: tuple[x509.GeneralName, ...] = (),
    issuer: x509.Certificate | None = None,
    issuer_key: Key = NULL_CA_KEY,
    issuer_name: x509.Name = NULL_CA.subject,
    subject: str = "signedwire",
    is_ca: bool = False,
    other: bytes = b"",
) -> x509.Certificate:
    """A certificate for `key` with one URI for each of `proofs`, and `names` beside them.

    `other` is what an unknown extension holds.
    """
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer_name if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
    )
    every = [*(x509.UniformResourceIdentifier(uri_of_proof(proof)) for proof in proofs), *names]
    if every:
        builder = builder.add_extension(x509.SubjectAlternativeName(every), critical=False)
    if other:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(_OTHER_OID), other), critical=False
        )
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def doubled(key: Key, first: bytes, second: bytes) -> x509.Certificate:
    """A certificate with two subjectAltNames, which no honest library makes."""
    names = [x509.UniformResourceIdentifier(uri_of_proof(second))]
    other = x509.SubjectAlternativeName(names).public_bytes()
    body = certificate(key, (first,), other=other).tbs_certificate_bytes
    assert body.count(_OTHER_OID_DER) == 1
    body = body.replace(_OTHER_OID_DER, bytes.fromhex("0603551d11"))
    signature = NULL_CA_KEY.sign(body, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    return x509.load_der_x509_certificate(
        _der(0x30, body + algorithm + _der(0x03, b"\0" + signature))
    )


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


@dataclass(frozen=True)
class Credentials:
    """What a hostile peer presents, and how it speaks TLS."""

    key: Key | None = None
    chain: tuple[x509.Certificate, ...] = ()
    claims: Did = MALLORY.did
    """The DID that the other side is made to expect."""
    alpn: tuple[str, ...] = (ALPN,)
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    has_tickets: bool = False

    def context(self, *, is_server: bool) -> ssl.SSLContext:
        """It believes everything that the other side presents."""
        kind = ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(kind)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = self.version
        if self.version < ssl.TLSVersion.TLSv1_3:
            context.minimum_version = self.version
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if is_server:
            context.num_tickets = 2 if self.has_tickets else 0
        if self.key is not None:
            pem = self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            for each in self.chain:
                pem += each.public_bytes(serialization.Encoding.PEM)
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "chain.pem")
                with open(path, "wb") as file:
                    file.write(pem)
                context.load_cert_chain(path)
        return context


def presenting(*proofs: bytes, key: Key, claims: Did = MALLORY.did) -> Credentials:
    """One certificate of the null CA with these proofs."""
    return Credentials(key, (certificate(key, proofs),), claims)


def honest(who: Identity) -> Credentials:
    """Nothing is wrong with these."""
    key = new_key()
    return presenting(did_proof_of(who, spki_of(key)), key=key, claims=who.did)


def hello(epoch: int = 1, **changes: int) -> bytes:
    """A HELLO frame as an honest peer sends it."""
    return Hello(
        min_version=changes.get("min_version", 2),
        max_version=changes.get("max_version", 2),
        features=0,
        max_batch_bytes=2**16,
        max_payload_size=2**20,
        epochs=Epochs(epoch, epoch),
        known_epochs=Epochs(0, 0),
        marks=(0,) * STREAMS,
        credit=credits(4096, 2**23, 64, 2**21),
    ).encode()


def script(sender: Identity, recipient: Did, payload: bytes = b"forged") -> bytes:
    """HELLO and a message: what a peer says that thinks it is in."""
    body = encode_v2_body(
        bytes(sender.did) + bytes(recipient),
        payload,
        message_id=id_of(0),
        sequence_number=1,
        timestamp_us=unix_time_us(),
        priority=1,
        payload_type=0,
        epoch=1,
        expires_at_us=0,
        is_durable=True,
    )
    _, signature, _ = sign_batch(sender, [body])
    return hello() + encode_batch(signature, [body])


def quick(**changes: Any) -> TransportConfig:
    """v2, with pauses and limits of a tenth or less of the defaults."""
    values: dict[str, Any] = {
        "retry_base_delay": 0.005,
        "retry_max_delay": 0.05,
        "connect_timeout": 1.0,
        "close_timeout": 0.5,
    }
    return TransportConfig(**(values | changes))


async def in_thread(function: Callable[..., T], *args: Any, **kw: Any) -> T:
    """What `asyncio.to_thread` does, in a thread that is gone afterwards on every loop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function(*args, **kw))
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=run, name="asyncio_attack")
    thread.start()
    await done
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@dataclass
class Outcome:
    """What a hostile peer saw of one connection."""

    first_byte: bytes = b""
    """What the node sent first, for a server."""
    is_through: bool = False
    """Whether TLS was complete on its side. A TLS 1.3 client thinks so too early."""
    plaintext: bytes = b""
    """What the node said inside the channel. An impostor must get none."""
    error: str = ""
    has_ticket: bool = False
    is_resumed: bool = False
    session: ssl.SSLSession | None = None


def talk(tls: ssl.SSLSocket, words: bytes, outcome: Outcome, *, is_brief: bool = False) -> None:
    """Handshake, say it all, listen to the end (or, if brief, to the first answer)."""
    try:
        tls.do_handshake()
        outcome.is_through = True
        outcome.is_resumed = bool(tls.session_reused)
        tls.sendall(words)
        while data := tls.recv(65536):
            outcome.plaintext += data
            if is_brief:
                break
        outcome.session = tls.session
        outcome.has_ticket = outcome.session is not None and outcome.session.has_ticket
    except (ssl.SSLError, OSError) as error:
        outcome.error = str(error)


def attack(
    address: Address,
    credentials: Credentials,
    words: bytes = b"",
    *,
    session: ssl.SSLSession | None = None,
    context: ssl.SSLContext | None = None,
    is_brief: bool = False,
    timeout: float = 5.0,
) -> Outcome:
    """Connect to a node as a hostile client. Blocks: for a thread."""
    context = context or credentials.context(is_server=False)
    outcome = Outcome()
    with socket.create_connection((address.host, address.port), timeout=timeout) as sock:
        tls = context.wrap_socket(sock, do_handshake_on_connect=False, session=session)
        with tls:
            talk(tls, words, outcome, is_brief=is_brief)
    return outcome


@dataclass
class HostileServer:
    """A listener that treats every connection as it is told. Use it in `with`."""

    handle: Callable[[socket.socket, Outcome], None]
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sock = socket.socket()
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen()
        self._sock.settimeout(0.02)
        self.address = Address("127.0.0.1", self._sock.getsockname()[1])
        self._is_over = False
        self._threads = [threading.Thread(target=self._serve, name="asyncio_hostile")]

    @classmethod
    def presenting(
        cls, credentials: Credentials, words: bytes = b"", *, is_brief: bool = False
    ) -> Self:
        """A TLS server with these credentials."""
        context = credentials.context(is_server=True)

        def handle(sock: socket.socket, outcome: Outcome) -> None:
            tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            with tls:
                talk(tls, words, outcome, is_brief=is_brief)

        return cls(handle)

    def _serve(self) -> None:
        while not self._is_over:
            try:
                sock, _ = self._sock.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            outcome = Outcome()
            self.outcomes.append(outcome)
            thread = threading.Thread(
                target=self._serve_one, args=(sock, outcome), name="asyncio_hostile"
            )
            self._threads.append(thread)
            thread.start()

    def _serve_one(self, sock: socket.socket, outcome: Outcome) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(5)
            outcome.first_byte = sock.recv(1, socket.MSG_PEEK)
            self.handle(sock, outcome)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._threads[0].join()
        self._sock.close()
        for thread in self._threads[1:]:
            thread.join(6)


class MiddleBox:
    """Relays bytes between a client and `target`; what it does with them is up to the test."""

    def __init__(self, target: Address, is_cut: Callable[[bytes], bool] = lambda _: False) -> None:
        self.target = target
        self.is_cut = is_cut
        """Asked with the first bytes of each connection."""
        self.first_bytes: list[int] = []
        self.relayed = 0
        self.is_deaf = False
        """Whether what the target says is lost."""
        self.is_frozen = False
        """Whether it reads nothing any more, on either side."""
        self._server = HostileServer(self._relay)
        self.address = self._server.address
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def _relay(self, sock: socket.socket, outcome: Outcome) -> None:
        first = sock.recv(65536)
        self.first_bytes.append(first[0])
        if self.is_cut(first):
            return
        with socket.create_connection((self.target.host, self.target.port), timeout=5) as other:
            self._pairs.append((sock, other))
            sock.settimeout(None)
            other.settimeout(None)
            other.sendall(first)
            back = threading.Thread(
                target=self._pump,
                args=(other, sock),
                kwargs={"is_back": True},
                name="asyncio_relay",
                daemon=True,
            )
            back.start()
            self._pump(sock, other)
            back.join(5)

    def _pump(self, source: socket.socket, sink: socket.socket, *, is_back: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.relayed += len(data)
                while self.is_frozen:
                    time.sleep(0.01)
                if not (self.is_deaf and is_back):
                    sink.sendall(data)
        if self.is_deaf:
            return  # the end is not heard either
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut_all(self) -> None:
        """Break what is open."""
        for pair in self._pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_all()
        self._server.__exit__()
