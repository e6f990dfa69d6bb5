"""The table of key inputs: what other programs write, whether it loads, and the words if not.

Every input is made here, by the cryptography package or by the tool itself. A refusal has
one sentence that says what the input is; where it has a command that converts it, the
command is run and its result must load.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from signedwire.errors import IdentityError, IdentityProblem
from signedwire.identity import Identity
from signedwire.keyformats import decode_key, looks_like_a_key

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = KEY.public_key().public_bytes_raw()
PAIR = SEED + PUBLIC
DID = Identity.from_seed(SEED).did
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
PKCS8 = serialization.PrivateFormat.PKCS8
OPENSSH = serialization.PrivateFormat.OpenSSH
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def private(
    key: Any = KEY,
    encoding: serialization.Encoding = PEM,
    form: serialization.PrivateFormat = PKCS8,
    password: bytes | None = None,
) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    data: bytes = key.private_bytes(encoding, form, encryption)
    return data


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(**changes: Any) -> bytes:
    key = {"kty": "OKP", "crv": "Ed25519", "d": url64(SEED), "x": url64(PUBLIC), "kid": "node-1"}
    return json.dumps({**key, **changes}, indent=2).encode()


def wrapped(core: str) -> bytes:
    """PKCS#8 of version 2: the seed, and the public half behind it."""
    seed = bytes.fromhex("020101300506032b657004220420") + SEED
    body = seed + bytes.fromhex(core) + PUBLIC
    return b"\x30" + bytes([len(body)]) + body


def pem_of(der: bytes) -> bytes:
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----"


PLAIN = private()
TEXT = PLAIN.decode()
CRLF = PLAIN.replace(b"\n", b"\r\n")
SSH = private(form=OPENSSH)

ACCEPTED: dict[str, bytes] = {
    "PKCS#8 PEM": PLAIN,
    "PKCS#8 DER": private(encoding=DER),
    "PKCS#8 DER, version 2, as RFC 8410 has it": wrapped("812100"),
    "PKCS#8 DER, version 2, as ring writes it": wrapped("a123032100"),
    "PKCS#8 PEM, version 2": pem_of(wrapped("812100")),
    "OpenSSH": SSH,
    "PEM with CRLF": CRLF,
    "PEM with CR alone": PLAIN.replace(b"\n", b"\r"),
    "PEM with a UTF-8 BOM": b"\xef\xbb\xbf" + PLAIN,
    "PEM with a UTF-8 BOM and CRLF": b"\xef\xbb\xbf" + CRLF,
    "PEM as UTF-16 LE with BOM": TEXT.encode("utf-16"),
    "PEM as UTF-16 BE with BOM": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "PEM with comments and blank lines around": b"\n# node 1\n\n" + PLAIN + b"\n\n# the end\n",
    "PEM with bag attributes": b"Bag Attributes\n    friendlyName: node\n" + PLAIN,
    "PEM with literal \\n": PLAIN.replace(b"\n", rb"\n"),
    "PEM with literal \\r\\n": PLAIN.replace(b"\n", rb"\r\n"),
    "PEM with literal \\\\n, in quotes": b'"' + PLAIN.replace(b"\n", rb"\\n") + b'"',
    "PEM with spaces for its line ends": PLAIN.replace(b"\n", b" "),
    "PEM that is indented, as in YAML": b"key: |\n  " + PLAIN.replace(b"\n", b"\n  "),
    "PEM without an end of line": PLAIN.rstrip(),
    "PEM with its public key behind": PLAIN + KEY.public_key().public_bytes(PEM, SPKI),
    "OpenSSH with literal \\n": SSH.replace(b"\n", rb"\n"),
    "OpenSSH with CRLF and BOM": b"\xef\xbb\xbf" + SSH.replace(b"\n", b"\r\n"),
    "JWK": jwk(),
    "JWK with a BOM": b"\xef\xbb\xbf" + jwk(),
    "JWK without its public half": json.dumps(
        {"kty": "OKP", "crv": "Ed25519", "d": url64(SEED)}
    ).encode(),
    "libsodium's secret key": PAIR,
    "libsodium's secret key as hex": PAIR.hex().encode() + b"\n",
    "libsodium's secret key as base64": base64.b64encode(PAIR) + b"\n",
    "libsodium's secret key as base64url": url64(PAIR).encode(),
    "libsodium's seed": SEED,
    "a marked seed, hex": b"ed25519-seed:" + SEED.hex().encode() + b"\n",
    "a marked seed, HEX, with blank and comment": b"# node 1\n\nED25519-SEED: "
    + SEED.hex().upper().encode()
    + b"\r\n",
    "a marked seed, base64": b"ed25519-seed:" + base64.b64encode(SEED),
    "a marked seed, base64url": b"ed25519-seed:" + url64(SEED).encode(),
    "a marked secret key": b"ed25519-seed:" + PAIR.hex().encode(),
}


@functools.cache
def certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .sign(KEY, None)
        .public_bytes(PEM)
    )


def certificate_der() -> bytes:
    return x509.load_pem_x509_certificate(certificate()).public_bytes(DER)


def request() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(KEY, None).public_bytes(PEM)


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)


@functools.cache
def p256_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def container() -> bytes:
    cert = x509.load_pem_x509_certificate(certificate())
    encryption = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(1000)
        .hmac_hash(hashes.SHA256())
        .build(b"secret")
    )
    # An EC key: the container is what is refused.
    return pkcs12.serialize_key_and_certificates(b"node", KEY, cert, None, encryption)


def ssh_string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def openssh_of(kind: bytes, count: int = 1, cipher: bytes = b"none", rounds: int = 16) -> bytes:
    """The outer form of an OpenSSH key; what is inside does not matter, as it is refused."""
    blob = b"openssh-key-v1\0" + ssh_string(cipher) + ssh_string(b"none")
    blob += ssh_string(ssh_string(bytes(16)) + rounds.to_bytes(4, "big"))
    blob += count.to_bytes(4, "big") + ssh_string(ssh_string(kind) + ssh_string(PUBLIC))
    label = b"OPENSSH PRIVATE KEY"
    lines = base64.encodebytes(blob + ssh_string(bytes(64)))
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, lines, label)


UNUSABLE, DAMAGED = IdentityProblem.UNUSABLE, IdentityProblem.DAMAGED
AMBIGUOUS, NOT_PRIVATE = IdentityProblem.AMBIGUOUS, IdentityProblem.NOT_PRIVATE
MAKE = "signedwire uses Ed25519 private keys alone: `signedwire id new {path}.new` makes one"
COPY = "Restore it from a copy"
OTHER_HALF = "Give the path of the private key that belongs to it"
MARK = "(umask 077; (printf ed25519-seed:; cat {path}) > {path}.new)"
KNOWN = "A key file is PKCS#8 (PEM or DER), an OpenSSH private key, a JWK"

# Input, problem, the fact, what the hint begins with.
REFUSED: dict[str, tuple[Callable[[], bytes], IdentityProblem, str, str]] = {
    "empty": (
        lambda: b"",
        IdentityProblem.EMPTY,
        "it is empty",
        "Restore it from a copy; or, where there never was a key, `rm {path}`",
    ),
    "blank lines": (
        lambda: b"\n \r\n",
        DAMAGED,
        "it holds nothing but zero bytes or blanks, as after a power cut",
        COPY,
    ),
    "zeros of a power cut": (
        lambda: bytes(4096),
        DAMAGED,
        "it holds nothing but zero bytes or blanks, as after a power cut",
        COPY,
    ),
    "32 zeros": (
        lambda: bytes(32),
        DAMAGED,
        "it holds nothing but zero bytes or blanks, as after a power cut",
        COPY,
    ),
    "32 bytes that repeat": (
        lambda: b"\x01\xff\x02\xfe" * 8,
        UNUSABLE,
        "it holds 32 bytes that are not random, so they are no key",
        "`signedwire id new {path}.new` makes one",
    ),
    "32 characters of text": (
        lambda: b"correct horse battery staple!!!\n",
        UNUSABLE,
        "it holds 32 characters of text that are no key in a known format",
        KNOWN,
    ),
    "32 bytes of text in UTF-8": (
        lambda: "schlüssel für den knoten einssss".encode()[:32],
        UNUSABLE,
        "it holds 30 characters of text that are no key in a known format",
        KNOWN,
    ),
    "32 bytes of text in UTF-16": (
        lambda: "fifteen letters".encode("utf-16"),
        UNUSABLE,
        "it holds 15 characters of text that are no key in a known format",
        KNOWN,
    ),
    "hex of a seed": (
        lambda: SEED.hex().encode() + b"\n",
        AMBIGUOUS,
        "it holds 64 hex digits, which may be the seed of an Ed25519 key, or a public key, "
        "or something else",
        f"If it is a seed, say so: `{MARK}`",
    ),
    "base64 of a seed": (
        lambda: base64.b64encode(SEED) + b"\n",
        AMBIGUOUS,
        "it holds 32 bytes as base64, which may be the seed of an Ed25519 key, or a public "
        "key, or something else",
        f"If it is a seed, say so: `{MARK}`",
    ),
    "base64url of a seed": (
        lambda: url64(SEED).encode(),
        AMBIGUOUS,
        "it holds 32 bytes as base64, which may be the seed of an Ed25519 key, or a public "
        "key, or something else",
        f"If it is a seed, say so: `{MARK}`",
    ),
    "a marked seed that is cut off": (
        lambda: b"ed25519-seed:" + SEED.hex().encode()[:-1],
        DAMAGED,
        "what follows ed25519-seed: is not 32 bytes as hex or base64",
        COPY,
    ),
    "64 bytes that are no pair": (
        lambda: SEED * 2,
        UNUSABLE,
        "it holds 64 bytes that are no libsodium secret key: the second half is not the "
        "public key of the first",
        KNOWN,
    ),
    "31 bytes": (
        lambda: SEED[:31],
        UNUSABLE,
        "it holds 31 bytes that are no key in a known format",
        KNOWN,
    ),
    "a seed with a line end": (
        lambda: SEED + b"\n",
        UNUSABLE,
        "it holds 33 bytes that are no key in a known format",
        KNOWN,
    ),
    "PEM that is cut off": (lambda: PLAIN[:-30], DAMAGED, "it is damaged", COPY),
    "PEM with a letter lost": (
        lambda: PLAIN.replace(b"MC4C", b"MC4"),
        DAMAGED,
        "it is damaged",
        COPY,
    ),
    "PEM with a control character": (
        lambda: PLAIN.replace(b"MC4C", b"MC\0\x014C"),
        DAMAGED,
        "it has characters in it that no key file has",
        COPY,
    ),
    "DER that is cut off": (
        lambda: private(encoding=DER)[:-1],
        UNUSABLE,
        "it holds 47 bytes that are no key in a known format",
        KNOWN,
    ),
    "PKCS#8 of version 2 with another's public key": (
        lambda: wrapped("812100")[:-1] + b"\0",
        DAMAGED,
        "it is damaged",
        COPY,
    ),
    "two keys": (
        lambda: PLAIN + private(Ed25519PrivateKey.generate()),
        AMBIGUOUS,
        "it holds 2 private keys",
        "Put the right one alone into a file; `openssl pkey -in {path} -out {path}.new` takes "
        "the first",
    ),
    "two OpenSSH keys": (
        lambda: openssh_of(b"ssh-ed25519", 2),
        AMBIGUOUS,
        "it holds 2 private keys",
        "Put the right one alone into a file",
    ),
    "a public key, PEM": (
        lambda: KEY.public_key().public_bytes(PEM, SPKI),
        NOT_PRIVATE,
        "it holds a public key",
        OTHER_HALF,
    ),
    "a public key, DER": (
        lambda: KEY.public_key().public_bytes(DER, SPKI),
        NOT_PRIVATE,
        "it holds a public key",
        OTHER_HALF,
    ),
    "a public key, OpenSSH": (
        lambda: KEY.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        ),
        NOT_PRIVATE,
        "it holds a public key",
        OTHER_HALF,
    ),
    "a line of authorized_keys": (
        lambda: b'from="10.0.0.0/8" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@host\n',
        NOT_PRIVATE,
        "it holds a public key",
        OTHER_HALF,
    ),
    "a public key, JWK": (
        lambda: json.dumps({"kty": "OKP", "crv": "Ed25519", "x": url64(PUBLIC)}).encode(),
        NOT_PRIVATE,
        "it holds a public key, as JWK",
        OTHER_HALF,
    ),
    "a DID": (
        lambda: f"{DID}\n".encode(),
        NOT_PRIVATE,
        "it holds a DID, which is a public key",
        OTHER_HALF,
    ),
    "a certificate, PEM": (certificate, NOT_PRIVATE, "it holds a certificate", OTHER_HALF),
    "a certificate, DER": (certificate_der, NOT_PRIVATE, "it holds a certificate", OTHER_HALF),
    "an SSH certificate": (
        lambda: b"ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5 me\n",
        NOT_PRIVATE,
        "it holds an SSH certificate",
        OTHER_HALF,
    ),
    "a certificate request": (
        request,
        UNUSABLE,
        "it holds no private key, but a CERTIFICATE REQUEST",
        KNOWN,
    ),
    "RSA": (lambda: private(rsa_key()), UNUSABLE, "it holds a key of type RSA (1024 bits)", MAKE),
    "RSA, encrypted": (
        lambda: private(rsa_key(), password=b"secret"),
        IdentityProblem.ENCRYPTED,
        "it is encrypted",
        "Pass its password",
    ),
    "RSA, the old PEM": (
        lambda: private(rsa_key(), form=TRADITIONAL),
        UNUSABLE,
        "it holds a private key in the format RSA",
        MAKE,
    ),
    "RSA, OpenSSH": (
        lambda: private(rsa_key(), form=OPENSSH),
        UNUSABLE,
        "it holds an OpenSSH key of another kind (ssh-rsa)",
        MAKE,
    ),
    "P-256": (lambda: private(p256_key()), UNUSABLE, "it holds a key of type EC (P-256)", MAKE),
    "P-256, the old PEM": (
        lambda: private(p256_key(), form=TRADITIONAL),
        UNUSABLE,
        "it holds a private key in the format EC",
        MAKE,
    ),
    "P-256, DER": (
        lambda: private(p256_key(), encoding=DER),
        UNUSABLE,
        "it holds a key of type EC (P-256)",
        MAKE,
    ),
    "P-256, OpenSSH": (
        lambda: private(p256_key(), form=OPENSSH),
        UNUSABLE,
        "it holds an OpenSSH key of another kind (ecdsa-sha2-nistp256)",
        MAKE,
    ),
    "X25519": (
        lambda: private(x25519.X25519PrivateKey.generate()),
        UNUSABLE,
        "it holds a key of type X25519",
        MAKE,
    ),
    "Ed448": (
        lambda: private(ed448.Ed448PrivateKey.generate()),
        UNUSABLE,
        "it holds a key of type Ed448",
        MAKE,
    ),
    "ed25519-sk": (
        lambda: openssh_of(b"sk-ssh-ed25519@openssh.com"),
        UNUSABLE,
        "it holds only a handle of a key that is inside a FIDO token",
        MAKE,
    ),
    "a name with terminal escapes in an OpenSSH key": (
        lambda: openssh_of(b"ssh-\x1b[31m\xff"),
        UNUSABLE,
        "it holds an OpenSSH key of another kind",
        MAKE,
    ),
    "an unknown cipher": (
        lambda: openssh_of(b"ssh-ed25519", cipher=b"rot13"),
        UNUSABLE,
        "it is an OpenSSH Ed25519 key, encrypted with an unknown cipher, which is not supported",
        "`ssh-keygen -p -Z aes256-ctr -f {path}` encrypts it anew, in place",
    ),
    "a JWK of P-256": (
        lambda: json.dumps({"kty": "EC", "crv": "P-256", "d": url64(SEED)}).encode(),
        UNUSABLE,
        "it holds a JWK of type P-256",
        MAKE,
    ),
    "a JWK of X25519": (
        lambda: jwk(crv="X25519"),
        UNUSABLE,
        "it holds a JWK of type X25519",
        MAKE,
    ),
    "a JWK of RSA": (
        lambda: json.dumps({"kty": "RSA", "n": "AQAB", "d": "AQAB"}).encode(),
        UNUSABLE,
        "it holds a JWK of type RSA",
        MAKE,
    ),
    "a JWK with another's public half": (
        lambda: jwk(x=url64(bytes(32))),
        DAMAGED,
        'it is a JWK whose "d" is no Ed25519 key, or not that of its "x"',
        COPY,
    ),
    "a JWK whose d is a number": (
        lambda: jwk(d=7),
        DAMAGED,
        'it is a JWK whose "d" is no Ed25519 key, or not that of its "x"',
        COPY,
    ),
    "a JWK whose d is not ASCII": (
        lambda: jwk(d=url64(SEED)[:-1] + "é").replace(b"\\u00e9", "é".encode()),
        DAMAGED,
        'it is a JWK whose "d" is no Ed25519 key, or not that of its "x"',
        COPY,
    ),
    "PEM that is not ASCII": (
        lambda: PLAIN.replace(b"MC4C", "MC4é".encode()),
        DAMAGED,
        "it is damaged",
        COPY,
    ),
    "a set of JWKs": (
        lambda: b'{"keys": [%s]}' % jwk(),
        AMBIGUOUS,
        "it is a set of 1 JWKs",
        "Put one of them alone: `(umask 077; jq '.keys[0]' {path} > {path}.new)`",
    ),
    "other JSON": (lambda: b'{"a": 1}', UNUSABLE, "it is JSON, but no JWK", KNOWN),
    "JSON without end": (lambda: b"[" * 50_000, UNUSABLE, "it is JSON, but no JWK", KNOWN),
    "PKCS#12": (
        container,
        UNUSABLE,
        "it is a PKCS#12 container",
        "`openssl pkcs12 -nocerts -noenc -in {path} -out {path}.new` takes the key out of it",
    ),
    "PuTTY": (
        lambda: b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: me\n",
        UNUSABLE,
        "it is a key of PuTTY",
        "`puttygen {path} -O private-openssh -o {path}.new` converts it",
    ),
    "OpenPGP": (
        lambda: (
            b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlFgE\n-----END PGP PRIVATE KEY BLOCK-----"
        ),
        UNUSABLE,
        "it holds an OpenPGP key",
        MAKE,
    ),
    "age": (
        lambda: b"# created: 2026-01-01\nAGE-SECRET-KEY-1QQQQQQQQQQQ\n",
        UNUSABLE,
        "it holds an age key (X25519)",
        MAKE,
    ),
    "minisign": (
        lambda: b"untrusted comment: minisign encrypted secret key\nRWQ\n",
        UNUSABLE,
        "it holds a key of minisign or signify",
        MAKE,
    ),
    "64 KiB and a byte": (
        lambda: PLAIN + b"\n" * (65_537 - len(PLAIN)),
        UNUSABLE,
        "it is larger than 64 KiB",
        "Give the path of a key file",
    ),
}


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write a private key file with these bytes."""

    def put(data: bytes, name: str = "key file") -> Path:
        path = tmp_path / name  # with a blank: the commands must quote it
        path.write_bytes(data)
        path.chmod(0o600)
        return path

    return put


def refusal(path: Path, password: str | None = None) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        Identity.load(path, password)
    error = caught.value
    assert error.fact.startswith(f"cannot load the key file {path}: ")
    return error


def run(*command: str | Path, given: bytes = b"") -> None:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"there is no {command[0]} here")
    subprocess.run(
        [str(part) for part in command], input=given, check=True, capture_output=True, timeout=30
    )


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str, put: Callable[[bytes], Path]) -> None:
    path = put(ACCEPTED[name])
    assert Identity.load(path)._secret_key == PAIR
    assert refusal(path, "secret").problem is IdentityProblem.NOT_ENCRYPTED


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, put: Callable[[bytes], Path]) -> None:
    make, problem, fact, hint = REFUSED[name]
    path = put(make())
    error = refusal(path)
    assert error.problem is problem
    assert error.fact.removeprefix(f"cannot load the key file {path}: ") == fact
    assert error.hint.startswith(hint.format(path="'" + str(path) + "'").replace("'.new", ".new'"))
    assert_shows_no_secret(error)


def assert_shows_no_secret(error: BaseException) -> None:
    """Neither the error nor any other that it came from has a part of the key in its text."""
    each: BaseException | None = error
    while each is not None:
        text = f"{each} {each.args!r} {vars(each)!r}"
        for secret in (SEED.hex(), base64.b64encode(SEED).decode(), url64(SEED), repr(SEED)[2:-1]):
            for start in range(0, len(secret) - 8, 4):
                assert secret[start : start + 8] not in text
        each = each.__cause__ or each.__context__


SECRETS = [SEED.hex(), SEED.hex().upper()[:40], url64(SEED), base64.b64encode(SEED).decode()]


@pytest.mark.parametrize("secret", SECRETS, ids=["hex", "HEX", "base64url", "base64"])
@pytest.mark.parametrize(
    "make",
    [
        lambda s: jwk(crv={"d": s}),
        lambda s: jwk(crv=[s]),
        lambda s: jwk(crv=s),
        lambda s: jwk(kty=s),
        lambda s: json.dumps({"kty": s, "d": s}).encode(),
        lambda s: openssh_of(s.encode()),
        lambda s: openssh_of(b"sk-" + s.encode()),
        lambda s: openssh_of(b"ssh-ed25519", cipher=s.encode()),
        lambda s: f"-----BEGIN {s} PRIVATE KEY-----\nAA==\n-----END {s} PRIVATE KEY-----".encode(),
        lambda s: f"-----BEGIN {s}-----\nAA==\n-----END {s}-----".encode(),
    ],
    ids=range(10),
)
def test_a_key_in_the_place_of_a_name_is_not_shown(
    make: Callable[[str], bytes], secret: str, put: Callable[[bytes], Path]
) -> None:
    for password in (None, "secret"):
        error = refusal(put(make(secret)), password)
        assert secret[:8].upper() not in str(error).upper()


@pytest.mark.parametrize("name", ["kty", "crv", "d", "x"])
@pytest.mark.parametrize("value", ["\ud800", "\udc80a", "", 1, 1.5, True, None, [], {}])
def test_whatever_a_jwk_has_it_is_the_key_or_an_error(name: str, value: object) -> None:
    with contextlib.suppress(IdentityError):
        assert decode_key(jwk(**{name: value}), None) == SEED


@pytest.mark.parametrize("name", [name for name in REFUSED if "seed, say so" in REFUSED[name][3]])
def test_the_command_that_marks_a_seed(name: str, put: Callable[[bytes], Path]) -> None:
    path = put(REFUSED[name][0]())
    command = refusal(path).hint.split("`")[1]
    subprocess.run(command, shell=True, check=True, timeout=30)
    new = Path(f"{path}.new")
    assert new.stat().st_mode & 0o777 == 0o600
    assert Identity.load(new).did == DID


@pytest.mark.parametrize("name", ["two keys", "a set of JWKs", "PKCS#12"])
def test_the_command_that_converts(name: str, put: Callable[[bytes], Path]) -> None:
    path = put(REFUSED[name][0]())
    command = refusal(path).hint.split("`")[1]
    tool = "jq" if "jq" in command else "openssl"
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool} here")
    if name == "PKCS#12":
        command += " -passin pass:secret"
    subprocess.run(command, shell=True, check=True, timeout=30, capture_output=True)
    assert Identity.load(f"{path}.new").did == DID


def test_the_command_that_makes_another_key(put: Callable[[bytes], Path]) -> None:
    path = put(private(p256_key()))
    words = refusal(path).hint.split("`")[1].partition("signedwire ")[2]
    subprocess.run(
        [sys.executable, "-m", "signedwire.cli", *shlex.split(words)], check=True, timeout=60
    )
    assert Identity.load(f"{path}.new").did != DID


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: no disk has that
    path.chmod(0o600)
    assert refusal(path).fact.endswith("it is larger than 64 KiB")


def test_a_public_key_beside_its_private_one(put: Callable[..., Path]) -> None:
    path = put(KEY.public_key().public_bytes(PEM, SPKI), "id_ed25519.pub")
    assert refusal(path).hint.endswith("mostly the file of this name without .pub")


@given(st.data())
@settings(deadline=None, max_examples=400)
def test_whatever_becomes_of_an_input_it_is_the_key_or_an_error(data: st.DataObject) -> None:
    """Never another exception, never another's key, and no secret in an error."""
    sample = bytearray(data.draw(st.sampled_from(list(ACCEPTED.values()))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sample)))
        what = data.draw(st.sampled_from([b"", b"\0", b"\n", b"-", b"A", b"{", b"\xff", b"-----"]))
        sample[at : at + data.draw(st.integers(0, 3))] = what
    try:
        seed = decode_key(bytes(sample), None, "key")
    except IdentityError as error:
        assert_shows_no_secret(error)
    else:
        assert len(seed) == 32


@given(st.binary(max_size=200), st.sampled_from([b"", b"0", b"-----BEGIN PRIVATE KEY-----"]))
@settings(deadline=None, max_examples=200)
def test_any_bytes(data: bytes, before: bytes) -> None:
    with contextlib.suppress(IdentityError):
        assert len(decode_key(before + data, None)) == 32


@given(st.binary(min_size=32, max_size=32))
@settings(deadline=None, max_examples=200)
def test_random_seeds_are_accepted(data: bytes) -> None:
    """What a random source gives; hypothesis prefers what looks made up."""
    seed = hashlib.sha256(data).digest()
    assert decode_key(seed, None) == seed


# --- encrypted ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        private(password=b"secret"),
        private(encoding=DER, password=b"secret"),
        private(password=b"secret").replace(b"\n", rb"\n"),
        private(form=OPENSSH, password=b"secret"),
    ],
    ids=["PEM", "DER", "PEM with literal \\n", "OpenSSH"],
)
def test_encrypted(data: bytes, put: Callable[[bytes], Path]) -> None:
    path = put(data)
    assert Identity.load(path, "secret").did == DID
    assert refusal(path).problem is IdentityProblem.ENCRYPTED
    assert refusal(path, "Secret").problem is IdentityProblem.WRONG_PASSWORD


def test_a_damaged_number_of_rounds_does_not_take_days(put: Callable[[bytes], Path]) -> None:
    ssh = openssh_of(b"ssh-ed25519", cipher=b"aes256-ctr", rounds=2**31)
    assert "2147483648 rounds" in str(refusal(put(ssh), "secret"))
    # The lengths around it are then wrong: rounds are looked at before anything else is.
    der = private(encoding=DER, password=b"secret")
    few, many = bytes.fromhex("02020800"), bytes.fromhex("02047fffffff")  # 2048 rounds
    assert few in der
    assert "2147483647 rounds" in str(refusal(put(pem_of(der.replace(few, many))), "secret"))


# --- what the tools themselves write -----------------------------------------------------


def openssl_key(path: Path, *options: str) -> None:
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", path, *options)
    path.chmod(0o600)


def test_openssl(tmp_path: Path) -> None:
    pem, der, locked = tmp_path / "pem", tmp_path / "der", tmp_path / "locked"
    openssl_key(pem)
    openssl_key(locked, "-aes-256-cbc", "-pass", "pass:secret")
    run("openssl", "pkey", "-in", pem, "-outform", "DER", "-out", der)
    der.chmod(0o600)
    assert Identity.load(pem) == Identity.load(der)
    assert refusal(locked).problem is IdentityProblem.ENCRYPTED
    assert Identity.load(locked, "secret").did != Identity.load(pem).did
    modern = tmp_path / "scrypt"
    run("openssl", "pkcs8", "-topk8", "-scrypt", "-in", pem, "-out", modern, "-passout", "pass:x")
    modern.chmod(0o600)
    assert Identity.load(modern, "x") == Identity.load(pem)


@pytest.mark.parametrize("algorithm", ["x25519", "ed448", "x448"])
def test_other_keys_of_openssl(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "key"
    run("openssl", "genpkey", "-algorithm", algorithm, "-out", path)
    path.chmod(0o600)
    assert f"a key of type {algorithm.capitalize()}" in str(refusal(path))


SUPPORTED_CIPHERS = ["aes256-ctr", "aes256-cbc", "aes256-gcm@openssh.com"]
OTHER_CIPHERS = ["chacha20-poly1305@openssh.com", "aes128-ctr", "aes128-gcm@openssh.com"]


def ssh_keygen(path: Path, *options: str, password: str = "") -> None:
    run("ssh-keygen", "-q", "-f", path, "-N", password, "-C", "me@host", *options)


@pytest.mark.parametrize("cipher", SUPPORTED_CIPHERS)
def test_ssh_keygen(tmp_path: Path, cipher: str) -> None:
    path = tmp_path / "id_ed25519"
    ssh_keygen(path, "-t", "ed25519", "-Z", cipher, password="secret")
    assert refusal(path).problem is IdentityProblem.ENCRYPTED
    identity = Identity.load(path, "secret")
    ssh_keygen(tmp_path / "plain", "-t", "ed25519")
    assert Identity.load(tmp_path / "plain") != identity
    assert refusal(Path(f"{path}.pub")).problem in (NOT_PRIVATE, IdentityProblem.EXPOSED)


@pytest.mark.parametrize("cipher", OTHER_CIPHERS)
def test_ssh_keygen_with_a_cipher_that_is_not_supported(tmp_path: Path, cipher: str) -> None:
    path = tmp_path / "id ed25519"
    ssh_keygen(path, "-t", "ed25519", "-Z", cipher, password="secret")
    for password in (None, "secret"):
        error = refusal(path, password)
        assert f"it is an OpenSSH Ed25519 key, encrypted with {cipher}, which" in error.fact
    command = error.hint.split("`")[1]
    subprocess.run(
        f"{command} -P secret -N secret", shell=True, check=True, timeout=30, capture_output=True
    )
    assert Identity.load(path, "secret").did


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("-t", "rsa", "-b", "2048"), "an OpenSSH key of another kind (ssh-rsa)"),
        (("-t", "ecdsa"), "an OpenSSH key of another kind (ecdsa-sha2-nistp256)"),
        (("-t", "rsa", "-b", "2048", "-m", "PEM"), "a private key in the format RSA"),
        (("-t", "ecdsa", "-m", "PKCS8"), "a key of type EC (P-256)"),
    ],
)
def test_other_keys_of_ssh_keygen(tmp_path: Path, options: tuple[str, ...], what: str) -> None:
    path = tmp_path / "key"
    ssh_keygen(path, *options)
    assert refusal(path).fact.endswith(f": it holds {what}")


# --- a key where a path belongs ------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        SSH.decode(),
        jwk().decode(),
        SEED.hex(),
        PAIR.hex(),
        base64.b64encode(SEED).decode(),
        url64(SEED),
        base64.b64encode(PAIR).decode(),
        f"ed25519-seed:{SEED.hex()}",
        "/" + base64.b64encode(SEED).decode()[1:],
    ],
    ids=range(10),
)
def test_a_key_given_as_a_path_is_not_shown(text: str) -> None:
    assert looks_like_a_key(text)
    with pytest.raises(IdentityError, match="is a key itself") as caught:
        Identity.load(text)
    assert_shows_no_secret(caught.value)
    assert caught.value.problem is IdentityProblem.ABSENT


@pytest.mark.parametrize(
    "text",
    [
        *("identity.pem", "/etc/signedwire/key", "a" * 42, "0" * 63, "~/k"),
        *(f"/run/secrets/{'k' * (size - 13)}" for size in (43, 86)),
        *(f"{start}{'k' * (size - 2)}" for size in (43, 86, 64, 128) for start in ("./", "~/")),
    ],
)
def test_a_path_is_no_key(text: str) -> None:
    assert not looks_like_a_key(text)


def test_a_file_whose_name_is_hex_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Identity.from_seed(SEED).save("a" * 64)
    assert Identity.load("a" * 64).did == DID
