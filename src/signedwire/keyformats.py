"""Key formats: finds the seed in the bytes of a key, or tells what the bytes are instead.

Formats that can only be an Ed25519 private key are accepted:

- PKCS#8, as PEM or DER, also encrypted; an OpenSSH private key, also encrypted. The text may
  have a byte order mark, CRLF, comments around it, and `\\n` or spaces for its line ends.
- a JWK (RFC 8037), and libsodium's 64-byte secret key, as bytes, hex or base64. Both contain
  the public half, which proves the kind.
- 32 random bytes; or `ed25519-seed:` and then 32 bytes as hex or base64.

Everything else is refused, with its kind and the command that converts it. The text of an
error never contains a part of the key.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from signedwire.errors import IdentityError, IdentityProblem
from signedwire.keytexts import (
    FORMATS,
    NAMES,
    OPENSSH_CIPHERS,
    Shown,
    another_kind,
    damaged,
    encrypted,
    known_text,
    make_one,
    named,
    no_private_key,
    other_cipher,
    public,
    unknown,
)

__all__ = ["KEY_IN_BASE64", "SEED_PREFIX", "decode_key", "is_key_for_path", "looks_like_a_key"]

SEED_PREFIX: Final = "ed25519-seed:"
"""Prefix that marks the hex or base64 behind it as the seed of an Ed25519 key."""

_SEED_SIZE: Final = 32
_PAIR_SIZE: Final = 64
_MAX_REPEATS: Final = 7
"""Maximum count of one byte value among 32 random bytes; more has a chance of 1e-10."""
_BEGIN: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})")
KEY_IN_BASE64: Final = (
    r"(?:[A-Za-z0-9+/_-]{40,43}=|[A-Za-z0-9+/_-]{43}|[A-Za-z0-9+/_-]{83,86}==|[A-Za-z0-9+/_-]{86})"
)
"""Regular expression: 32 or 64 bytes in base64. A path keeps one of several slashes in a row, so
with padding up to three characters may be missing."""
_BASE64: Final = re.compile(KEY_IN_BASE64)
_OPENSSH_MAGIC: Final = b"openssh-key-v1\0"
# One round of bcrypt takes about 10 ms, a million rounds of PBKDF2 0.4 s. With a damaged
# number, a start would hang for days.
_MAX_BCRYPT_ROUNDS: Final = 2_000
_MAX_PBKDF2_ROUNDS: Final = 50_000_000
# id-PBKDF2, then its salt, then its rounds (RFC 8018).
_PBKDF2: Final = re.compile(
    rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c\x30.\x04([\x00-\x7f])", re.DOTALL
)
# PKCS#8 version 2 (RFC 5958, RFC 8410) up to the seed. The public half follows. Libraries
# such as ring write this version; OpenSSL, and so the cryptography package, cannot read it.
_PKCS8_V2: Final = re.compile(
    rb"\x30.\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20(.{32})", re.DOTALL
)

_HINTS_WITHOUT_A_FILE: Final = {
    IdentityProblem.EMPTY: "Put the key there, or unset it, so that another source is used",
    IdentityProblem.DAMAGED: "Put the whole key there again",
}
"""Hints for a key from a variable or a descriptor."""


def decode_key(data: bytes, password: bytes | None, path: str | None = None) -> bytes:
    """Return the 32-byte seed in `data`.

    `path` is the file of `data`, for the commands in the errors; `None` if there is none.

    Raises:
        IdentityError: `data` cannot be used; the fact has the cause, without the path.
    """
    try:
        return _from_data(data, password, Shown(path))
    except IdentityError as error:
        if path is None:
            error.hint = _HINTS_WITHOUT_A_FILE.get(error.problem, error.hint)
        raise


def _from_data(data: bytes, password: bytes | None, shown: Shown) -> bytes:
    if not data:
        raise IdentityError(
            "it is empty",
            f"Restore it from a copy; or, where there never was a key, `rm {shown.old}` and "
            f"`signedwire id new {shown.old}`",
            IdentityProblem.EMPTY,
        )
    if not data.strip(b"\0 \t\r\n"):
        raise damaged("it holds nothing but zero bytes or blanks, as after a power cut")
    text = _as_text(data)
    if text is None:
        return _from_bytes(data, password, shown)
    return _from_text(text, password, shown)


def looks_like_a_key(text: str) -> bool:
    """Whether `text`, given in the place of something else, is probably a key.

    Such a text must not be shown. A text with a / at its start and no padding counts as a
    path, although it could be base64.
    """
    text = text.strip()
    is_absolute = text.startswith("/") and not text.endswith("=")
    return (
        "-----BEGIN" in text
        or '"kty"' in text
        or text.lower().startswith((SEED_PREFIX, "age-secret-key-"))
        or bool(_HEX.fullmatch(text) or (not is_absolute and _BASE64.fullmatch(text)))
    )


def is_key_for_path(text: str) -> bool:
    """Whether `text`, given as a path, is probably a key: no such file exists."""
    return looks_like_a_key(text) and not os.path.lexists(text)


# --- bytes and text --------------------------------------------------------------------


def _as_text(data: bytes) -> str | None:
    """Return `data` as text; `None` if it is not text."""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = data.decode("utf-16")
        else:
            text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return text if all(c.isprintable() or c.isspace() for c in text) else None


def _from_bytes(data: bytes, password: bytes | None, shown: Shown) -> bytes:
    if len(data) == _PAIR_SIZE and _is_pair(data):
        return _plain(data[:_SEED_SIZE], password)
    if len(data) == _SEED_SIZE:
        if max(Counter(data).values()) > _MAX_REPEATS:
            raise IdentityError(
                "it holds 32 bytes that are not random, so they are no key",
                make_one(shown),
                IdentityProblem.UNUSABLE,
            )
        return _plain(data, password)
    if _is_der(data):
        return _from_der(data, password, shown)
    if b"-----BEGIN" in data:
        raise damaged("it has characters in it that no key file has")
    if len(data) == _PAIR_SIZE:
        raise IdentityError(
            "it holds 64 bytes that are no libsodium secret key: the second half is not the "
            "public key of the first",
            FORMATS,
            IdentityProblem.UNUSABLE,
        )
    raise unknown(len(data))


def _from_text(text: str, password: bytes | None, shown: Shown) -> bytes:
    if "-----BEGIN" in text:
        return _from_pem(text, password, shown)
    stripped = text.strip().strip("\"'")
    if stripped.startswith(("{", "[")):
        return _plain(_from_json(stripped, shown), password)
    lines = (line.strip().strip("\"'") for line in text.splitlines())
    core = "".join(line for line in lines if line and not line.startswith(("#", ";", "//")))
    is_marked = core.lower().startswith(SEED_PREFIX)
    if is_marked:
        core = core[len(SEED_PREFIX) :].strip()
    raw = _unarmoured(core)
    if raw is not None and len(raw) == _PAIR_SIZE and _is_pair(raw):
        return _plain(raw[:_SEED_SIZE], password)
    if is_marked:
        if raw is None or len(raw) != _SEED_SIZE:
            raise damaged(f"what follows {SEED_PREFIX} is not 32 bytes as hex or base64")
        return _plain(raw, password)
    if raw is not None and len(raw) == _SEED_SIZE:
        how = "64 hex digits" if _HEX.fullmatch(core) else "32 bytes as base64"
        raise IdentityError(
            f"it holds {how}, which may be the seed of an Ed25519 key, or a public key, or "
            "something else",
            f"If it is a seed, write {SEED_PREFIX} before it"
            if shown.is_no_file
            else "If it is a seed, say so: "
            f"`(umask 077; (printf {SEED_PREFIX}; cat {shown.old}) > {shown.new})`",
            IdentityProblem.AMBIGUOUS,
        )
    raise known_text(text, core, shown) or unknown(len(text), shown, is_text=True)


def _unarmoured(core: str) -> bytes | None:
    """Return the 32 or 64 bytes that `core` encodes as hex or base64, else `None`."""
    if _HEX.fullmatch(core):
        return bytes.fromhex(core)
    if _BASE64.fullmatch(core):
        return _base64(core)
    return None


def _base64(text: str) -> bytes | None:
    """Decode base64 or base64url, with or without padding."""
    text = text.rstrip("=").replace("-", "+").replace("_", "/")
    text += "=" * (-len(text) % 4)
    try:
        return base64.b64decode(text.encode("ascii", "replace"), validate=True)
    except binascii.Error:
        return None


def _is_pair(data: bytes) -> bool:
    """Whether the second half of 64 bytes is the public key of the first."""
    return _public_half(data[:_SEED_SIZE]) == data[_SEED_SIZE:]


def _public_half(seed: bytes) -> bytes:
    # Imported here, as everywhere in this module, because the import is slow.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _plain(seed: bytes, password: bytes | None) -> bytes:
    """Return `seed`, which is not encrypted; refuse a password."""
    if password is not None:
        # An error, because a user who gives a password believes that the file is protected.
        raise IdentityError(
            "a password was given, but the file is not encrypted",
            "Load it without a password",
            IdentityProblem.NOT_ENCRYPTED,
        )
    return seed


# --- PEM, PKCS#8, OpenSSH --------------------------------------------------------------


def _from_pem(text: str, password: bytes | None, shown: Shown) -> bytes:
    labels = [match[1] for match in _BEGIN.finditer(text)]
    private = [label for label in labels if label.endswith("PRIVATE KEY")]
    if not private:
        raise no_private_key(labels, shown)
    if len(private) > 1:
        raise IdentityError(
            f"it holds {len(private)} private keys",
            f"Put the right one alone into a file; `openssl pkey -in {shown.old} -out "
            f"{shown.new}` takes the first",
            IdentityProblem.AMBIGUOUS,
        )
    label = private[0]
    if label not in ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY"):
        kind = label.removesuffix("PRIVATE KEY").strip()
        raise another_kind(f"a private key in {named(kind, 'the format', 'another format')}", shown)
    body, end, _ = text.partition(f"-----BEGIN {label}-----")[2].partition(f"-----END {label}-----")
    # Variables of the environment and JSON may have `\\n` or spaces for line ends.
    body = "".join(re.sub(r"\\+[nr]", " ", body).split())
    try:
        # As bytes: the error for text that is not ASCII would contain the whole key.
        blob = base64.b64decode(body.encode("ascii", "replace"), validate=True)
    except binascii.Error:
        blob = b""
    if not end or not blob:
        raise damaged("it is damaged")
    if label == "OPENSSH PRIVATE KEY":
        return _from_openssh(blob, password, shown)
    return _from_der(blob, password, shown)


def _from_der(data: bytes, password: bytes | None, shown: Shown) -> bytes:
    """Return the seed in PKCS#8."""
    from cryptography.hazmat.primitives import serialization

    version_2 = _PKCS8_V2.match(data)
    if version_2 is not None and _is_der(data):
        seed = _plain(version_2[1], password)
        if not data.endswith(_public_half(seed)):
            raise damaged("it is damaged")
        return seed
    other = _public_der(data)
    if other is not None:
        raise public(other, shown)
    if data[4:7] == b"\x02\x01\x03" or data[2:5] == b"\x02\x01\x03":
        raise IdentityError(
            "it is a PKCS#12 container",
            "`openssl pkcs12 -nocerts -noenc -in "
            f"{shown.old} -out {shown.new}` takes the key out of it",
            IdentityProblem.UNUSABLE,
        )
    if password is not None:
        _check_rounds(_pbkdf2_rounds(data), _MAX_PBKDF2_ROUNDS, "Restore it from a copy")
    return _decode(lambda: serialization.load_der_private_key(data, password), password, shown)


def _pbkdf2_rounds(data: bytes) -> int:
    """Return the PBKDF2 rounds of an encrypted PKCS#8 key; 0 if it uses another function."""
    found = _PBKDF2.search(data)
    if found is None:
        return 0
    at = found.end() + found[1][0]
    if data[at : at + 1] != b"\x02":
        return 0
    return int.from_bytes(data[at + 2 : at + 2 + data[at + 1]], "big") if at + 1 < len(data) else 0


def _check_rounds(rounds: int, most: int, hint: str) -> None:
    if rounds > most:
        raise IdentityError(
            f"it takes {rounds} rounds to derive its key from the password, more than {most}",
            hint,
            IdentityProblem.DAMAGED,
        )


class _OpensshHeader(NamedTuple):
    """The part of an OpenSSH key that is readable without a password."""

    cipher: str
    rounds: int
    keys: int
    kind: str


def _from_openssh(blob: bytes, password: bytes | None, shown: Shown) -> bytes:
    from cryptography.hazmat.primitives import serialization

    header = _openssh_header(blob)
    if header.keys != 1:
        raise IdentityError(
            f"it holds {header.keys} private keys",
            "Put the right one alone into a file",
            IdentityProblem.AMBIGUOUS,
        )
    if header.kind.startswith("sk-"):
        raise another_kind("only a handle of a key that is inside a FIDO token", shown)
    if header.kind != "ssh-ed25519":
        kind = f" ({header.kind})" if header.kind in NAMES else ""
        raise another_kind(f"an OpenSSH key of another kind{kind}", shown)
    if header.cipher == "none":
        # Checked here, because cryptography 44 ignores a password that is not needed, and
        # takes a missing one for an empty one.
        _plain(blob, password)
    elif header.cipher not in OPENSSH_CIPHERS:
        raise other_cipher(header.cipher, shown)
    elif password is None:
        raise encrypted()
    elif find_spec("bcrypt") is None:
        raise IdentityError(
            "an encrypted OpenSSH key needs the package bcrypt",
            "Run `pip install bcrypt`",
            IdentityProblem.UNUSABLE,
        )
    _check_rounds(
        header.rounds,
        _MAX_BCRYPT_ROUNDS,
        f"Restore it from a copy, or encrypt it anew: `ssh-keygen -p -a 100 -f {shown.old}`",
    )
    begin, end = (f"-----{word} OPENSSH PRIVATE KEY-----\n".encode() for word in ("BEGIN", "END"))
    pem = begin + base64.encodebytes(blob) + end
    return _decode(
        lambda: serialization.load_ssh_private_key(pem, password), password, shown, header.cipher
    )


def _openssh_header(blob: bytes) -> _OpensshHeader:
    """Return cipher, number of keys and kind of the first key, without decrypting."""
    position = len(_OPENSSH_MAGIC)

    def take(size: int) -> bytes:
        nonlocal position
        part = blob[position : position + size]
        if len(part) != size:
            raise damaged("it is damaged")
        position += size
        return part

    def take_string() -> bytes:
        return take(int.from_bytes(take(4), "big"))

    if not blob.startswith(_OPENSSH_MAGIC):
        raise damaged("it is damaged")
    cipher, _, options = take_string(), take_string(), take_string()
    count = int.from_bytes(take(4), "big")
    public = take_string()
    size = int.from_bytes(public[:4], "big")
    rounds = int.from_bytes(options[-4:], "big")
    kind = public[4 : 4 + size]
    cipher_name, kind_name = (name.decode("ascii", "replace") for name in (cipher, kind))
    return _OpensshHeader(cipher_name, rounds, count, kind_name)


def _decode(
    load: Callable[[], Any], password: bytes | None, shown: Shown, cipher: str | None = None
) -> bytes:
    """Return the seed of the key from `load`, and translate the package's errors."""
    from cryptography.exceptions import InternalError, InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        # Errors are told apart by class alone: the texts change between releases, and a
        # wrong password is not always recognised as one (it decrypts to a plausible
        # padding once in 256 times).
        key = load()
    except TypeError:
        if password is not None:
            _plain(b"", password)
        raise encrypted() from None
    except (UnsupportedAlgorithm, NotImplementedError):
        if cipher is not None:
            raise other_cipher(cipher, shown) from None
        raise another_kind("a key of a kind, or with an encryption, unknown here", shown) from None
    # InternalError: a key of 32 bytes under the identifier of another kind.
    except (ValueError, InvalidTag, InternalError):
        if password is not None:
            raise IdentityError(
                "the password is wrong, or the file is damaged",
                "Try the password again, or restore the file from a copy",
                IdentityProblem.WRONG_PASSWORD,
            ) from None
        raise damaged("it is damaged") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise another_kind(_kind_of(key), shown)
    return key.private_bytes_raw()


def _kind_of(key: Any) -> str:
    name = type(key).__name__.removesuffix("PrivateKey").lstrip("_")
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve is not None:
        nist = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}.get(curve)
        name = f"EC ({nist or curve})"
    size = getattr(key, "key_size", None) if name in ("RSA", "DSA", "DH") else None
    return f"a key of type {name}{f' ({size} bits)' if size else ''}"


# --- JWK -------------------------------------------------------------------------------


def _from_json(text: str, shown: Shown) -> bytes:
    """Return the seed in a JWK (RFC 8037)."""
    value = _parse_json(text)
    if isinstance(value, dict) and isinstance(value.get("keys"), list):
        raise IdentityError(
            f"it is a set of {len(value['keys'])} JWKs",
            f"Put one of them alone: `(umask 077; jq '.keys[0]' {shown.old} > {shown.new})`",
            IdentityProblem.AMBIGUOUS,
        )
    if not isinstance(value, dict) or not isinstance(value.get("kty"), str):
        raise IdentityError("it is JSON, but no JWK", FORMATS, IdentityProblem.UNUSABLE)
    kind = value.get("crv", value["kty"])
    if (value["kty"], value.get("crv")) != ("OKP", "Ed25519"):
        raise another_kind(f"a JWK of {named(kind, 'type', 'another type')}", shown)
    if "d" not in value:
        raise public("a public key, as JWK", shown)
    seed, half = (
        _base64(part) if isinstance(part, str) else b"" for part in (value["d"], value.get("x", ""))
    )
    if seed is None or len(seed) != _SEED_SIZE or (half and half != _public_half(seed)):
        raise damaged('it is a JWK whose "d" is no Ed25519 key, or not that of its "x"')
    return seed


def _parse_json(text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        # The error contains the whole text, so it must not be the context of ours.
        value = None
    return value


# --- refused formats -------------------------------------------------------------------


def _is_der(data: bytes) -> bool:
    """Whether `data` is one ASN.1 SEQUENCE, from its first byte to its last."""
    if len(data) < 4 or data[0] != 0x30:
        return False
    if data[1] < 0x80:
        return len(data) == 2 + data[1]
    size = data[1] & 0x7F
    return size <= 3 and len(data) == 2 + size + int.from_bytes(data[2 : 2 + size], "big")


def _public_der(data: bytes) -> str | None:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    readers: tuple[tuple[str, Callable[[bytes], object]], ...] = (
        ("a public key", serialization.load_der_public_key),
        ("a certificate", x509.load_der_x509_certificate),
    )
    for words, read in readers:
        try:
            read(data)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        return words
    return None
