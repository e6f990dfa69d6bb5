"""Keys, DIDs and key files. The only place that signs and verifies.

An `Identity` is the secret half of a DID. It is made (`generate`), read from a
key file (`load`), written to one (`save`), and otherwise only handed to a node:
it shows nothing but its DID, and it can be neither pickled nor copied.

No public name signs bytes that a caller chose. A v1 signature covers a bare
32-byte digest without any label (wire-v1.md), so whoever could have 32 bytes of
his choice signed could forge an envelope. `wire/` signs v1 digests through
`_sign_digest`, which takes exactly 32 bytes, and everything else through
`_sign_labelled`, where a label of a closed list comes first.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import shlex
import stat
from typing import Final, NoReturn, Self, final

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from signedwire.errors import DidError, IdentityError
from signedwire.types import Did, known_did

__all__ = ["Identity", "Label", "verify_digest", "verify_labelled"]

_SEED_SIZE: Final = 32
_DIGEST_SIZE: Final = 32
_SIGNATURE_SIZE: Final = 64
# The largest honest key file, an encrypted OpenSSH one with a comment, has
# about 500 bytes.
_MAX_FILE_SIZE: Final = 64 * 1024
_POSIX: Final = os.name == "posix"
# O_BINARY is Windows only, the others POSIX only. O_NONBLOCK: opening a FIFO
# that nobody writes must not hang before we can see that it is one.
_READ_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_NONBLOCK", 0)
)
_CREATE_FLAGS: Final = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
)


class Label(enum.Enum):
    """What a DID key signs, beside v1 digests: each begins with its own label."""

    TLS_LEAF = b"signedwire/tls-leaf/1\0"
    """That a TLS key speaks for the DID."""
    BATCH = b"signedwire/batch/1\0"
    """A batch of envelopes, by its root."""
    RECEIPT = b"signedwire/receipt/1\0"
    """That envelopes were accepted or handled."""


@final
class Identity:
    """The secret half of a DID.

    Equal and hashed by DID. `str` and `repr` show the DID only. Pickling and
    copying raise `TypeError`: a secret does not travel by accident.

    Safe to use from several threads.
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
        """A new identity, from the operating system's random source."""
        return cls(os.urandom(_SEED_SIZE))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The identity of a 32-byte Ed25519 seed (RFC 8032, section 5.1.5).

        Raises:
            IdentityError: `seed` is not exactly 32 bytes.
        """
        return cls(seed)

    @classmethod
    def load(cls, path: str | os.PathLike[str], password: str | bytes | None = None) -> Self:
        """Read a key file: PKCS#8 PEM, an OpenSSH private key, or a raw 32-byte seed.

        Encrypted PEM and OpenSSH files need `password`; a `str` is taken as
        UTF-8. An encrypted OpenSSH file also needs the package `bcrypt`.

        On POSIX, a file that its group or others may access is refused, as ssh
        does. The check is made on the opened file, so the file that is checked
        is the file that is read.

        Raises:
            IdentityError: naming the path, what is wrong and what to do: the
                file is absent, open to others, not a regular file, larger than
                64 KiB, damaged, or holds no Ed25519 private key; or the
                password is wrong, missing, or given where none is needed.
        """
        name = os.fspath(path)
        secret = _password_bytes(password, f"cannot load the key file {name}")
        return cls(_decode_key_file(_read_key_file(name), name, secret))

    def save(self, path: str | os.PathLike[str], password: str | bytes | None = None) -> None:
        """Write a new PKCS#8 PEM file, encrypted if `password` is given.

        The file has mode 0600 from its first byte, and is durable, with its
        directory entry, when this returns. An existing file is never touched,
        and after an error no part of a new one is left.

        The encryption is PBES2 (AES-256-CBC, PBKDF2-SHA256 with 2048 rounds, as
        the cryptography package writes it): so few rounds slow a guesser down
        little, so only a long random password protects a stolen file.

        Raises:
            IdentityError: naming the path: something is already there, it
                cannot be written, or the password is empty or over 1023 bytes.
        """
        name = os.fspath(path)
        action = f"cannot save the key to {name}"
        # Encoded first: a password that cannot be used leaves no file behind.
        data = self._encode_pem(_password_bytes(password, action), action)
        try:
            _write_new_file(name, data)
        except FileExistsError as error:
            raise IdentityError(
                f"{action}: something is already there, and a key is never overwritten",
                "Choose another path, or load the key that is there",
            ) from error
        except (OSError, ValueError) as error:
            raise IdentityError(
                f"{action}: {_cause(error)}",
                "Check that its directory exists and is writable, and that the disk has room",
            ) from error

    @property
    def did(self) -> Did:
        """The public half: what others call this identity."""
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
            # The one thing left that it refuses.
            raise IdentityError(
                f"{action}: the password is longer than 1023 bytes", "Choose a shorter one"
            ) from None

    def _sign_digest(self, digest: bytes) -> bytes:
        """The 64-byte Ed25519 signature of a 32-byte digest. For `wire/` only.

        Raises:
            ValueError: `digest` is not exactly 32 bytes.
        """
        if len(digest) != _DIGEST_SIZE:
            raise ValueError(f"a digest is {_DIGEST_SIZE} bytes, got {len(digest)}")
        return crypto_sign(digest, self._secret_key)[:_SIGNATURE_SIZE]

    def _sign_labelled(self, label: Label, text: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `label ‖ text`. For `wire/` only.

        The label is one of a closed list, so that a signature made for one
        purpose says nothing for another; and a labelled text is never 32 bytes
        long, so that it is never a v1 digest.
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
    """Whether `signature` is one of `digest` by the DID `public_key`. Strict.

    True only if all of this holds:

    - `public_key` is a usable DID (`types.Did`): canonical, on the curve and in
      the prime-order group. The last is more than libsodium asks of a key.
    - `digest` is 32 bytes and `signature` 64.
    - libsodium accepts (crypto_sign/ed25519/ref10/open.c): S is canonical
      (S < L), neither R nor the key has small order, and the cofactorless
      equation R = S·B − h·A holds for the very bytes of R, so that a
      non-canonical R cannot pass.

    So nobody but the holder of the key can turn one valid signature into
    another, and every verifier that is at least this strict agrees. ("Taming
    the many EdDSAs", Chalkias et al. 2020, https://eprint.iacr.org/2020/1244;
    the outcome for its vectors, and for those of C2SP/CCTV, is in
    tests/test_identity.py.)

    Never raises for wrong bytes. May be called from any thread: about 45 µs, most
    of them without the GIL; for a key not among the last 4096, about 50 µs more.
    """
    return len(digest) == _DIGEST_SIZE and _verify(public_key, digest, signature)


def verify_labelled(public_key: bytes, label: Label, text: bytes, signature: bytes) -> bool:
    """Whether `signature` is one of `label ‖ text` by `public_key`; as strict as the above."""
    return _verify(public_key, label.value + text, signature)


def _verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """`verify_digest` without its length of message, which published vectors do not keep."""
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
    if not password:
        raise IdentityError(
            f"{action}: the password is empty", "Pass None for a key file without a password"
        )
    # surrogateescape gives back the bytes that were typed where a terminal's or
    # an environment's encoding could not decode them.
    return password.encode("utf-8", "surrogateescape") if isinstance(password, str) else password


def _cause(error: OSError | ValueError) -> str:
    # ValueError: a path with a NUL in it.
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _unusable(name: str, why: str, hint: str) -> IdentityError:
    return IdentityError(f"cannot load the key file {name}: {why}", hint)


def _read_key_file(name: str) -> bytes:
    """The bytes of the file, once its kind, permissions and size are accepted."""
    try:
        descriptor = os.open(name, _READ_FLAGS)
    except FileNotFoundError as error:
        raise _unusable(
            name, "there is no such file", "Identity.generate().save(path) makes one"
        ) from error
    except (OSError, ValueError) as error:
        raise _unusable(name, _cause(error), "Check the path and who may read it") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _unusable(name, "it is not a regular file", "Give the path of a key file")
        mode = stat.S_IMODE(status.st_mode)
        if _POSIX and mode & 0o077:
            raise _unusable(
                name,
                f"other users may access it (mode {mode:04o})",
                f"Run `chmod 600 {shlex.quote(name)}`, "
                "and make a new key if somebody may have read this one",
            )
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(_MAX_FILE_SIZE + 1)
    except OSError as error:
        raise _unusable(name, _cause(error), "Check the disk that it is on") from error
    finally:
        os.close(descriptor)
    if len(data) > _MAX_FILE_SIZE:
        raise _unusable(name, "it is larger than 64 KiB", "Give the path of a key file")
    return data


def _decode_key_file(data: bytes, name: str, password: bytes | None) -> bytes:
    """The seed in a key file of any of the three formats."""
    if len(data) == _SEED_SIZE:
        if password is not None:
            raise _superfluous_password(name)
        return data
    if b"PRIVATE KEY-----" in data:
        return _decode_pem(data, name, password)
    if not data:
        raise _unusable(name, "it is empty", "Restore it from a copy, or make a new key")
    if b"PUBLIC KEY-----" in data or data.startswith((b"ssh-", b"ecdsa-", b"sk-")):
        raise _unusable(
            name, "it holds a public key", "Give the path of the private key that belongs to it"
        )
    raise _unusable(
        name,
        f"{len(data)} bytes that are no key in a known format",
        "A key file is PKCS#8 PEM, an OpenSSH private key, or a raw 32-byte seed",
    )


def _decode_pem(data: bytes, name: str, password: bytes | None) -> bytes:
    """The seed in a PKCS#8 PEM or OpenSSH file."""
    from cryptography.exceptions import InternalError, InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    is_openssh = b"-----BEGIN OPENSSH PRIVATE KEY-----" in data
    try:
        # Errors are told apart by class alone: the texts change between
        # releases, and a wrong password is not always recognised as one (it
        # decrypts to a plausible padding once in 256 times).
        key = (
            serialization.load_ssh_private_key(data, password)
            if is_openssh
            else serialization.load_pem_private_key(data, password)
        )
    except TypeError:
        if password is not None:
            raise _superfluous_password(name) from None
        raise _unusable(name, "it is encrypted", "Pass its password") from None
    except (UnsupportedAlgorithm, NotImplementedError) as error:
        if "bcrypt" in str(error):
            raise _unusable(
                name,
                "an encrypted OpenSSH key needs the package bcrypt",
                "Run `pip install bcrypt`",
            ) from None
        raise _unusable(
            name,
            "it uses an algorithm that is not supported",
            "Use an Ed25519 key, in PKCS#8 PEM or OpenSSH format",
        ) from None
    # InternalError: a key of 32 bytes under the identifier of another kind.
    except (ValueError, InvalidTag, InternalError):
        if password is not None:
            raise _unusable(
                name,
                "the password is wrong, or the file is damaged",
                "Try the password again, or restore the file from a copy",
            ) from None
        raise _unusable(name, "it is damaged", "Restore it from a copy") from None
    if not isinstance(key, Ed25519PrivateKey):
        kind = type(key).__name__.removesuffix("PrivateKey")
        raise _unusable(
            name,
            f"it holds a key of type {kind}",
            "Use an Ed25519 key; Identity.generate().save(path) makes one",
        )
    return key.private_bytes_raw()


def _superfluous_password(name: str) -> IdentityError:
    # Not ignored: whoever gives a password believes that the file is protected.
    return _unusable(
        name, "a password was given, but the file is not encrypted", "Load it without a password"
    )


def _write_new_file(name: str, data: bytes) -> None:
    """Create `name` with mode 0600 and make it durable; on an error, leave nothing."""
    descriptor = os.open(name, _CREATE_FLAGS, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if _POSIX:
            _sync_directory(os.path.dirname(name) or os.curdir)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _sync_directory(path: str) -> None:
    """Make a new name in the directory durable, where its file system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # A directory that we may write but not read, or a file system whose
        # directories have no fsync: nothing is wrong with the file itself.
        if error.errno not in (errno.EACCES, errno.EINVAL):
            raise
