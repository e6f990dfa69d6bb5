"""Keys, DIDs and key files. The only place that signs and verifies.

An `Identity` is the secret half of a DID. `generate` makes one, `load` reads one from
a key file, `save` writes one, and a node takes one. An identity shows nothing but its
DID, and can be neither pickled nor copied.

No public function signs bytes chosen by the caller. A v1 signature covers a bare
32-byte digest without any label (wire-v1.md). So a caller who could have 32 chosen
bytes signed could forge an envelope. `wire/` signs v1 digests with `_sign_digest`,
which takes exactly 32 bytes. It signs everything else with `_sign_labelled`, which
puts a label from a closed list first.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable, Iterator
from typing import Final, NoReturn, Self, final

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from signedwire.environment import expand_home
from signedwire.errors import ConfigError, DidError, IdentityError, IdentityProblem
from signedwire.files import cause_of
from signedwire.keyfiles import (
    read_key_file,
    refuse_key_for_path,
    replace_empty_file,
    write_new_file,
)
from signedwire.keyformats import decode_key
from signedwire.types import Did, known_did

__all__ = ["Identity", "Label", "verify_digest", "verify_labelled"]

_SEED_SIZE: Final = 32
_DIGEST_SIZE: Final = 32
_SIGNATURE_SIZE: Final = 64


class Label(enum.Enum):
    """Labels of the kinds of text that a DID key signs, apart from v1 digests."""

    DID_PROOF = b"signedwire/tls-leaf/1\0"
    """Authorization of a TLS key for the DID."""
    BATCH = b"signedwire/batch/1\0"
    """Root of a batch of envelopes."""
    RECEIPT = b"signedwire/receipt/1\0"
    """Receipt for accepted or handled envelopes."""
    JOINT = b"signedwire/joint/1\0"
    """Root of a batch of envelopes, and the hash of a receipt's text."""


RESERVED_LABELS: Final = frozenset(
    {
        b"signedwire/charter/1\0",
        b"signedwire/relay-key/1\0",
        b"signedwire/seal-key/1\0",
        b"signedwire/succession/1\0",
    }
)
"""Labels of later versions. No `Label` has one of these, so nothing signs or verifies with it."""


@final
class Identity:
    """The secret half of a DID.

    Identities are compared and hashed by DID. `str` and `repr` show only the DID. Pickling
    and copying raise `TypeError`, so that a secret does not leave the process by accident.

    Any thread may use an identity.
    """

    __slots__ = ("_did", "_secret_key")
    _did: Did
    _secret_key: bytes
    """Seed and public key, 64 bytes: the form from which libsodium signs fastest."""

    def __init__(self, seed: bytes) -> None:
        if not isinstance(seed, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"an Ed25519 seed is {_SEED_SIZE} bytes, not {type(seed).__name__}; "
                "Identity.load(path) reads a key file"
            )
        if len(seed) != _SEED_SIZE:
            raise IdentityError(
                f"an Ed25519 seed is {_SEED_SIZE} bytes, got {len(seed)}",
                "Use Identity.generate() for a new key, or Identity.load() for a key file",
            )
        public_key, self._secret_key = crypto_sign_seed_keypair(bytes(seed))
        self._did = Did(public_key)

    @classmethod
    def generate(cls) -> Self:
        """Make a new identity, from the operating system's random source."""
        return cls(os.urandom(_SEED_SIZE))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Return the identity of a 32-byte Ed25519 seed (RFC 8032, section 5.1.5).

        Raises:
            IdentityError: `seed` is not exactly 32 bytes.
        """
        return cls(seed)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        password: str | bytes | None = None,
        *,
        group_readable: bool = False,
    ) -> Self:
        """Read a key file: PKCS#8, OpenSSH, JWK, libsodium's, or a raw 32-byte seed.

        On POSIX, a file that its group or others may access is refused, as ssh does. The
        permissions are checked on the opened file, so that nobody can exchange the file
        after the check. The call blocks; any thread may call.

        Args:
            path: The file; `~` at its start is the home folder. `keyformats` lists the
                accepted formats.
            password: Needed for an encrypted file, else `None`; a `str` is used as UTF-8.
            group_readable: Whether the group of the file may read it, by default no. Then
                the file and all folders above it must belong to root or this user, and
                no other user may write to them. A warning is logged once.

        Raises:
            IdentityError: the key cannot be used; the text has the path, the cause and a
                hint. `problem` has the cause for programs: the file is absent, exposed to
                others, larger than 64 KiB or damaged, the password is wrong, and so on.
        """
        return cls._load(path, password, group_readable=group_readable)

    @classmethod
    def _load(
        cls,
        path: str | os.PathLike[str],
        password: str | bytes | None,
        *,
        group_readable: bool,
        warns: bool = True,
    ) -> Self:
        name = _expanded(path, "load the key file")
        refuse_key_for_path(name)
        action = f"cannot load the key file {name}"
        secret = _password_bytes(password, action)
        with _naming(action):
            data = read_key_file(name, group_readable=group_readable, warns=warns)
            return cls(decode_key(data, secret, name))

    @classmethod
    def _from_bytes(cls, data: bytes, where: str, password: str | bytes | None) -> Self:
        """Do as `load`, with bytes that came from the source `where`."""
        action = f"cannot load the key {where}"
        with _naming(action):
            return cls(decode_key(data, _password_bytes(password, action)))

    def save(self, path: str | os.PathLike[str], password: str | bytes | None = None) -> None:
        """Write a new PKCS#8 PEM file, encrypted if `password` is given.

        The file has mode 0600. It gets its name only when it is complete, and is durable,
        with its directory entry, when this returns. An existing file is never changed.
        After an error or a power cut, no part of a new file has the name. The call blocks.

        The encryption is PBES2 (AES-256-CBC, PBKDF2-SHA256 with 2048 rounds), as the
        cryptography package writes it. So few rounds hardly slow down a guesser, so only
        a long random password protects a stolen file.

        Raises:
            IdentityError: the path exists, the file cannot be written, or the password is
                empty or over 1023 bytes; the text has the path.
        """
        self._write(_expanded(path, "save the key to"), password, write_new_file)

    def _save_over_empty(self, path: str | os.PathLike[str], password: str | None) -> bool:
        """Do as `save` in the place of an empty file.

        Returns `False` if another process is replacing the file.
        """
        return self._write(os.fspath(path), password, replace_empty_file) is not False

    def _write(
        self,
        name: str,
        password: str | bytes | None,
        write: Callable[[str, bytes], bool | None],
    ) -> bool | None:
        action = f"cannot save the key to {name}"
        # Encoded first, so that an unusable password leaves no file behind.
        data = self._encode_pem(_password_bytes(password, action), action)
        try:
            return write(name, data)
        except FileExistsError as error:
            raise IdentityError(
                f"{action}: something is already there, and a key is never overwritten",
                "Choose another path, or load the key that is there",
                IdentityProblem.EXISTS,
            ) from error
        except (OSError, ValueError) as error:
            raise IdentityError(
                f"{action}: {cause_of(error)}",
                "Check that its directory exists and is writable, and that the disk has room",
                IdentityProblem.UNWRITABLE,
            ) from error

    @property
    def did(self) -> Did:
        """The public half, the name of this identity for others."""
        return self._did

    def _encode_pem(self, password: bytes | None, action: str) -> bytes:
        # Imported here because it is slow, and most programs never save a key.
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password)
        key = Ed25519PrivateKey.from_private_bytes(self._secret_key[:_SEED_SIZE])
        try:
            return key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
            )
        except ValueError:
            # The only remaining cause for which it refuses.
            raise IdentityError(
                f"{action}: the password is longer than 1023 bytes", "Choose a shorter one"
            ) from None

    def _sign_digest(self, digest: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of a 32-byte digest. For `wire/` only.

        Raises:
            ValueError: `digest` is not exactly 32 bytes.
        """
        if len(digest) != _DIGEST_SIZE:
            raise ValueError(f"a digest is {_DIGEST_SIZE} bytes, got {len(digest)}")
        return crypto_sign(digest, self._secret_key)[:_SIGNATURE_SIZE]

    def _sign_labelled(self, label: Label, text: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `label ‖ text`. For `wire/` only.

        The label comes from a closed list, so that a signature for one purpose is invalid
        for any other. A labelled text is never 32 bytes long, so it is never a v1 digest.
        """
        message = Label(label).value + text
        assert len(message) > _DIGEST_SIZE
        return crypto_sign(message, self._secret_key)[:_SIGNATURE_SIZE]

    def __repr__(self) -> str:
        return f"<Identity {self._did}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Identity):
            return self._did == other._did
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._did)

    def __reduce__(self) -> NoReturn:
        # pickle, copy and deepcopy all come through here.
        raise TypeError(
            "an Identity can be neither pickled nor copied: "
            "pass the path of its key file, or its Did"
        )


def verify_digest(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether `signature` is a signature of `digest` by the DID `public_key`. Strict.

    True only if all of this holds:

    - `public_key` is a usable DID (`types.Did`): canonical, on the curve and in
      the prime-order group. libsodium does not check the last.
    - `digest` is 32 bytes and `signature` 64.
    - libsodium accepts (crypto_sign/ed25519/ref10/open.c). That means: S is canonical
      (S < L), and neither R nor the key has small order. The cofactorless equation
      R = S·B − h·A holds for the exact bytes of R, so a non-canonical R fails.

    So only the holder of the key can turn one valid signature into another, and
    every verifier that is at least this strict agrees. ("Taming
    the many EdDSAs", Chalkias et al. 2020, https://eprint.iacr.org/2020/1244;
    the outcome for its vectors, and for those of C2SP/CCTV, is in
    tests/test_identity.py.)

    Never raises for wrong bytes. Any thread may call this. A call takes about 45 µs, most
    of them without the GIL; for a key not among the last 4096, about 50 µs more.
    """
    return len(digest) == _DIGEST_SIZE and _verify(public_key, digest, signature)


def verify_labelled(public_key: bytes, label: Label, text: bytes, signature: bytes) -> bool:
    """Whether `signature` is a signature of `label ‖ text`; as strict as `verify_digest`."""
    return _verify(public_key, label.value + text, signature)


def _verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Do as `verify_digest` for a message of any length, as published test vectors need."""
    # libsodium takes signature and message as one string: without this check a
    # byte could move from one to the other.
    if len(signature) != _SIGNATURE_SIZE:
        return False
    try:
        known_did(public_key)
        crypto_sign_open(signature + message, public_key)
    except (DidError, BadSignatureError):
        return False
    return True


def _password_bytes(password: str | bytes | None, action: str) -> bytes | None:
    if password is None:
        return None
    given: object = password
    if not isinstance(given, (str, bytes)):
        raise TypeError(f"a password is text or bytes, not {type(given).__name__}")
    if not password:
        raise IdentityError(
            f"{action}: the password is empty", "Pass None for a key file without a password"
        )
    # surrogateescape restores typed bytes that the encoding of a terminal or of the
    # environment could not decode.
    return password.encode("utf-8", "surrogateescape") if isinstance(password, str) else password


def _expanded(path: str | os.PathLike[str], action: str) -> str:
    """Return the path of a file, with the home folder for `~` at its start."""
    try:
        return os.fspath(expand_home(path))
    except ConfigError as error:
        problem = IdentityProblem.ABSENT
        raise IdentityError(f"cannot {action} {path}: {error.fact}", error.hint, problem) from None


@contextlib.contextmanager
def _naming(action: str) -> Iterator[None]:
    """Prefix the fact of an error with the action that failed."""
    try:
        yield
    except IdentityError as error:
        error.fact = f"{action}: {error.fact}"
        error.args = (error.fact, error.hint)
        raise
