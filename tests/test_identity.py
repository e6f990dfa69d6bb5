"""Keys and key files: what is written, what is read, what is refused in which
words; and exactly which signatures the strict rule accepts."""

from __future__ import annotations

import base64
import copy
import errno
import hashlib
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_sign_open,
)

from signedwire import identity as identity_module
from signedwire import keyfiles, keyformats
from signedwire.errors import IdentityError
from signedwire.identity import Identity, Label, _verify, verify_digest, verify_labelled
from signedwire.keyformats import decode_key
from signedwire.types import Did
from test_types import ORDER_8, SMALL_ORDER
from vectors import load_vectors

SEED = bytes(range(32))
DIGEST = hashlib.sha256(b"digest").digest()
L = 2**252 + 27742317777372353535851937790883648493
PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
OPENSSH = serialization.PrivateFormat.OpenSSH
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")

HONEST_KEY = bytes(Identity.from_seed(SEED).did)

type_of_key = Any  # any private key of the cryptography package


def encode(
    key: type_of_key,
    form: serialization.PrivateFormat = PKCS8,
    password: bytes | None = None,
) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    data: bytes = key.private_bytes(PEM, form, encryption)
    return data


def our_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(SEED)


def openssh_blob(data: bytes) -> bytes:
    return base64.b64decode(b"".join(data.splitlines()[1:-1]))


def openssh_pem(blob: bytes) -> bytes:
    lines = base64.encodebytes(blob)
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n%s-----END OPENSSH PRIVATE KEY-----\n" % lines


def ssh_string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def encrypted_openssh() -> bytes:
    """The shape of an encrypted OpenSSH key (PROTOCOL.key), around bytes that decrypt to nothing.

    Built by hand because the cryptography package needs bcrypt to encrypt one.
    """
    public = ssh_string(b"ssh-ed25519") + ssh_string(bytes(Identity.from_seed(SEED).did))
    kdf_options = ssh_string(bytes(16)) + (1).to_bytes(4, "big")
    return openssh_pem(
        b"openssh-key-v1\0"
        + ssh_string(b"aes256-ctr")
        + ssh_string(b"bcrypt")
        + ssh_string(kdf_options)
        + (1).to_bytes(4, "big")
        + ssh_string(public)
        + ssh_string(bytes(144))
    )


def plus_torsion(point: bytes, multiple: int) -> bytes:
    """`point` + `multiple` · T8, with T8 of order 8."""
    for _ in range(multiple):
        point = crypto_core_ed25519_add(point, ORDER_8)
    return point


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write a private key file with these bytes."""

    def put(data: bytes) -> Path:
        path = tmp_path / "key"
        path.write_bytes(data)
        path.chmod(0o600)
        return path

    return put


def load_error(path: str | Path, password: str | bytes | None = None) -> str:
    """What `load` says about the file, after the prefix that names it."""
    with pytest.raises(IdentityError) as caught:
        Identity.load(path, password)
    text = str(caught.value)
    prefix = f"cannot load the key file {path}: "
    assert text.startswith(prefix)
    return text.removeprefix(prefix)


def save_error(path: str | Path, password: str | bytes | None = None) -> str:
    with pytest.raises(IdentityError) as caught:
        Identity.from_seed(SEED).save(path, password)
    text = str(caught.value)
    prefix = f"cannot save the key to {path}: "
    assert text.startswith(prefix)
    return text.removeprefix(prefix)


class TestIdentity:
    def test_seed_gives_the_rfc_8032_key(self) -> None:
        # RFC 8032, section 7.1, test 1
        seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
        key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        assert Identity.from_seed(bytes.fromhex(seed)).did == Did.parse(key)

    @pytest.mark.parametrize("length", [0, 31, 33, 64])
    def test_seed_of_another_length(self, length: int) -> None:
        with pytest.raises(IdentityError) as caught:
            Identity.from_seed(bytes(length))
        assert str(caught.value) == (
            f"an Ed25519 seed is 32 bytes, got {length}. "
            "Use Identity.generate() for a new key, or Identity.load() for a key file"
        )

    def test_generated_identities_differ(self) -> None:
        assert len({Identity.generate() for _ in range(20)}) == 20

    def test_equal_by_did(self) -> None:
        a, b = Identity.from_seed(SEED), Identity.from_seed(SEED)
        assert a == b
        assert hash(a) == hash(b)
        assert a != Identity.from_seed(bytes(32))
        assert a != a.did

    def test_public_names_are_exactly_these_so_none_signs(self) -> None:
        public = {name for name in dir(Identity) if not name.startswith("_")}
        assert public == {"generate", "from_seed", "load", "save", "did"}
        assert identity_module.__all__ == ["Identity", "Label", "verify_digest", "verify_labelled"]
        defined_here = {
            name
            for name, value in vars(identity_module).items()
            if not name.startswith("_") and inspect.getmodule(value) is identity_module
        }
        assert defined_here == set(identity_module.__all__)

    def test_labels_are_distinct_and_the_reserved_ones_sign_nothing(self) -> None:
        used = [label.value for label in Label]
        reserved = identity_module.RESERVED_LABELS
        every = [*used, *reserved]
        assert reserved == {
            b"signedwire/%s/1\0" % name
            for name in (b"charter", b"succession", b"relay-key", b"seal-key")
        }
        assert len(every) == len(set(every)) == 8
        assert not any(a != b and a.startswith(b) for a in every for b in every)
        for label in reserved:
            with pytest.raises(ValueError, match="is not a valid Label"):
                Identity.from_seed(SEED)._sign_labelled(label, bytes(64))  # type: ignore[arg-type]
            with pytest.raises(AttributeError):
                verify_labelled(bytes(32), label, bytes(64), bytes(64))  # type: ignore[arg-type]

    def test_a_signature_fits_its_own_label_alone(self) -> None:
        identity = Identity.from_seed(SEED)
        for label in Label:
            signature = identity._sign_labelled(label, bytes(64))
            fitting = [
                each
                for each in Label
                if verify_labelled(bytes(identity.did), each, bytes(64), signature)
            ]
            assert fitting == [label]

    @given(st.binary(min_size=32, max_size=32))
    @settings(deadline=None, max_examples=30)
    def test_shows_its_did_and_nothing_secret(self, seed: bytes) -> None:
        identity = Identity.from_seed(seed)
        assert repr(identity) == f"<Identity {identity.did}>"
        expanded = hashlib.sha512(seed).digest()
        for text in (repr(identity), str(identity), f"{identity}", f"{[identity]}"):
            for secret in (seed, expanded[:32], expanded[32:], identity._secret_key):
                assert secret.hex() not in text
                assert repr(secret)[2:-1] not in text
                assert base64.b64encode(secret).decode() not in text

    @pytest.mark.parametrize(
        "carry",
        [
            copy.copy,
            copy.deepcopy,
            *(lambda i, v=v: pickle.dumps(i, v) for v in range(pickle.HIGHEST_PROTOCOL + 1)),
        ],
    )
    def test_neither_copied_nor_pickled(self, carry: Callable[[Identity], object]) -> None:
        with pytest.raises(TypeError, match="can be neither pickled nor copied"):
            carry(Identity.from_seed(SEED))

    def test_has_no_dict_to_look_into(self) -> None:
        with pytest.raises(TypeError):
            vars(Identity.from_seed(SEED))

    def test_import_leaves_the_slow_package_alone(self) -> None:
        code = (
            "import sys, signedwire.identity as i; i.Identity.generate()._sign_digest(bytes(32));"
            "sys.exit('cryptography' in sys.modules)"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=30)


class TestSave:
    @pytest.mark.parametrize("password", [None, "päss", b"\xff\x00raw", "\udcff"])
    def test_round_trip(self, tmp_path: Path, password: str | bytes | None) -> None:
        identity = Identity.generate()
        identity.save(tmp_path / "key", password)
        assert Identity.load(tmp_path / "key", password) == identity
        assert Identity.load(str(tmp_path / "key"), password)._secret_key == identity._secret_key

    def test_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Identity.from_seed(SEED).save("key")
        assert Identity.load("key") == Identity.from_seed(SEED)

    def test_str_password_is_utf_8(self, tmp_path: Path) -> None:
        Identity.from_seed(SEED).save(tmp_path / "key", "päss")
        assert Identity.load(tmp_path / "key", "päss".encode()) == Identity.from_seed(SEED)

    @pytest.mark.parametrize(
        ("password", "label"), [(None, b"PRIVATE KEY"), ("secret", b"ENCRYPTED PRIVATE KEY")]
    )
    def test_is_pkcs8_pem(self, tmp_path: Path, password: str | None, label: bytes) -> None:
        Identity.from_seed(SEED).save(tmp_path / "key", password)
        data = (tmp_path / "key").read_bytes()
        assert data.startswith(b"-----BEGIN %s-----\n" % label)
        key = serialization.load_pem_private_key(data, password.encode() if password else None)
        assert isinstance(key, Ed25519PrivateKey)
        assert key.private_bytes_raw() == SEED

    @posix_only
    @pytest.mark.parametrize("umask", [0, 0o022, 0o077])
    def test_mode_is_0600_from_the_first_byte(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
    ) -> None:
        created: list[tuple[int, int]] = []
        real_open = os.open

        def watching_open(path: str, flags: int, mode: int = 0o777) -> int:
            descriptor = real_open(path, flags, mode)
            if flags & os.O_CREAT:
                status = os.fstat(descriptor)
                created.append((status.st_mode & 0o7777, status.st_size))
            return descriptor

        monkeypatch.setattr(os, "open", watching_open)
        old = os.umask(umask)
        try:
            Identity.from_seed(SEED).save(tmp_path / "key")
        finally:
            os.umask(old)
        assert created == [(0o600, 0)]
        assert (tmp_path / "key").stat().st_mode & 0o7777 == 0o600

    @pytest.mark.parametrize("content", [b"", b"another key", encode(our_key())])
    def test_never_overwrites(self, put: Callable[[bytes], Path], content: bytes) -> None:
        path = put(content)
        path.chmod(0o640)
        before = path.stat()
        assert save_error(path) == (
            "something is already there, and a key is never overwritten. "
            "Choose another path, or load the key that is there"
        )
        after = path.stat()
        assert path.read_bytes() == content
        assert (after.st_mode, after.st_mtime_ns, after.st_ino) == (
            before.st_mode,
            before.st_mtime_ns,
            before.st_ino,
        )

    @posix_only
    def test_never_writes_through_a_symlink(self, tmp_path: Path) -> None:
        (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
        assert "never overwritten" in save_error(tmp_path / "key")
        assert not (tmp_path / "elsewhere").exists()

    def test_no_directory(self, tmp_path: Path) -> None:
        assert save_error(tmp_path / "none" / "key") == (
            "No such file or directory. "
            "Check that its directory exists and is writable, and that the disk has room"
        )

    def test_path_with_a_nul(self) -> None:
        assert save_error("a\0b").startswith("embedded null byte. ")

    @pytest.mark.parametrize("password", ["", b""])
    def test_empty_password(self, tmp_path: Path, password: str | bytes) -> None:
        assert save_error(tmp_path / "key", password) == (
            "the password is empty. Pass None for a key file without a password"
        )
        assert os.listdir(tmp_path) == []

    def test_too_long_password(self, tmp_path: Path) -> None:
        assert save_error(tmp_path / "key", "p" * 1024) == (
            "the password is longer than 1023 bytes. Choose a shorter one"
        )
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("failing_call", [1, 2])
    def test_full_disk_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
    ) -> None:
        # call 1 syncs the file, call 2 its directory
        calls = 0

        def fsync(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == failing_call:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fsync)
        assert save_error(tmp_path / "key").startswith("No space left on device. ")
        assert calls == failing_call
        assert os.listdir(tmp_path) == []

    def test_interrupt_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fsync(descriptor: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(KeyboardInterrupt):
            Identity.from_seed(SEED).save(tmp_path / "key")
        assert os.listdir(tmp_path) == []

    def test_file_and_directory_are_synced_in_that_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[tuple[int, int]] = []

        def fsync(descriptor: int) -> None:
            status = os.fstat(descriptor)
            synced.append((status.st_ino, status.st_size))

        monkeypatch.setattr(os, "fsync", fsync)
        Identity.from_seed(SEED).save(tmp_path / "key")
        # the size shows that the file was synced after it was written
        status = (tmp_path / "key").stat()
        assert synced[0] == (status.st_ino, status.st_size)
        assert [inode for inode, _ in synced[1:]] == [tmp_path.stat().st_ino]

    def test_directory_that_cannot_be_synced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fsync(descriptor: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(os, "fsync", fsync)
        Identity.from_seed(SEED).save(tmp_path / "key")
        assert Identity.load(tmp_path / "key") == Identity.from_seed(SEED)


class TestLoad:
    @pytest.mark.parametrize(
        "data",
        [
            encode(our_key()),
            encode(our_key()).replace(b"\n", b"\r\n"),
            b"Bag Attributes\n    friendlyName: node\n" + encode(our_key()),
            encode(our_key(), OPENSSH),
            SEED,
        ],
        ids=["pkcs8", "pkcs8-crlf", "pkcs8-preamble", "openssh", "raw"],
    )
    def test_plain_formats(self, put: Callable[[bytes], Path], data: bytes) -> None:
        path = put(data)
        assert Identity.load(path)._secret_key == Identity.from_seed(SEED)._secret_key
        assert load_error(path, "secret") == (
            "a password was given, but the file is not encrypted. Load it without a password"
        )

    def test_encrypted_pkcs8(self, put: Callable[[bytes], Path]) -> None:
        path = put(encode(our_key(), password=b"secret"))
        assert Identity.load(path, "secret") == Identity.from_seed(SEED)
        assert Identity.load(path, b"secret") == Identity.from_seed(SEED)
        assert load_error(path) == "it is encrypted. Pass its password"
        assert load_error(path, "Secret") == (
            "the password is wrong, or the file is damaged. "
            "Try the password again, or restore the file from a copy"
        )

    def test_encrypted_openssh(self, put: Callable[[bytes], Path]) -> None:
        pytest.importorskip("bcrypt", reason="encrypted OpenSSH keys need bcrypt")
        path = put(encode(our_key(), OPENSSH, b"secret"))
        assert Identity.load(path, "secret") == Identity.from_seed(SEED)
        assert load_error(path) == "it is encrypted. Pass its password"
        assert "the password is wrong" in load_error(path, "Secret")

    def test_encrypted_openssh_with_or_without_bcrypt(self, put: Callable[[bytes], Path]) -> None:
        path = put(encrypted_openssh())
        assert load_error(path) == "it is encrypted. Pass its password"
        says = "the password is wrong" if find_spec("bcrypt") else "needs the package bcrypt"
        assert says in load_error(path, "secret")

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (
                UnsupportedAlgorithm("Unsupported cipher"),
                "it is an OpenSSH Ed25519 key, encrypted with aes256-ctr, which is not supported. "
                "`ssh-keygen -p -Z aes256-ctr -f {path}` encrypts it anew, in place",
            ),
            (  # what an OpenSSH key under aes256-gcm gives
                InvalidTag(),
                "the password is wrong, or the file is damaged. "
                "Try the password again, or restore the file from a copy",
            ),
        ],
    )
    def test_openssh_errors_that_are_hard_to_provoke(
        self,
        put: Callable[[bytes], Path],
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        text: str,
    ) -> None:
        def load_ssh_private_key(data: bytes, password: bytes | None) -> None:
            raise error

        monkeypatch.setattr(serialization, "load_ssh_private_key", load_ssh_private_key)
        path = put(encrypted_openssh())
        assert load_error(path, "secret") == text.format(path=path)

    def test_encrypted_openssh_without_bcrypt(
        self, put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keyformats, "find_spec", lambda name: None)
        assert load_error(put(encrypted_openssh()), "secret") == (
            "an encrypted OpenSSH key needs the package bcrypt. Run `pip install bcrypt`"
        )

    @pytest.mark.parametrize("form", [PKCS8, OPENSSH])
    def test_truncated(
        self, put: Callable[[bytes], Path], form: serialization.PrivateFormat
    ) -> None:
        data = encode(our_key(), form)
        assert load_error(put(data[: len(data) // 2])) == "it is damaged. Restore it from a copy"

    @given(data=st.data())
    @settings(deadline=None, max_examples=100)
    @pytest.mark.parametrize("form", [PKCS8, OPENSSH])
    def test_damage_is_an_identity_error_or_harmless(
        self, form: serialization.PrivateFormat, data: st.DataObject
    ) -> None:
        key_file = bytearray(encode(our_key(), form))
        position = data.draw(st.integers(0, len(key_file) - 1))
        key_file[position] = data.draw(st.integers(0, 255))
        try:
            seed = decode_key(bytes(key_file), None, "key")
        except IdentityError:
            return
        assert len(seed) == 32

    @pytest.mark.parametrize(
        "data",
        [
            our_key()
            .public_key()
            .public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            our_key()
            .public_key()
            .public_bytes(
                serialization.Encoding.OpenSSH,
                serialization.PublicFormat.OpenSSH,
            ),
        ],
        ids=["pem", "openssh"],
    )
    def test_public_key(self, put: Callable[[bytes], Path], data: bytes) -> None:
        assert load_error(put(data)) == (
            "it holds a public key. Give the path of the private key that belongs to it"
        )

    @pytest.mark.parametrize("password", ["", b""])
    def test_empty_password(self, put: Callable[[bytes], Path], password: str | bytes) -> None:
        assert load_error(put(SEED), password) == (
            "the password is empty. Pass None for a key file without a password"
        )

    def test_size_limit(self, put: Callable[[bytes], Path]) -> None:
        pem = encode(our_key())
        assert Identity.load(put(b"\n" * (65536 - len(pem)) + pem)) == Identity.from_seed(SEED)
        assert load_error(put(b"\n" * (65537 - len(pem)) + pem)) == (
            "it is larger than 64 KiB. Give the path of a key file"
        )

    def test_absent(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        assert load_error(path) == (f"there is no such file. `signedwire id new {path}` makes one")

    def test_path_with_a_nul(self) -> None:
        assert load_error("a\0b") == "embedded null byte. Check the path and who may read it"

    @pytest.mark.parametrize("code", [errno.ELOOP, errno.EMFILE])
    def test_cannot_be_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        def refusing_open(path: str, flags: int) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "open", refusing_open)
        assert load_error(tmp_path / "key") == (
            f"{os.strerror(code)}. Check the path and who may read it"
        )

    def test_cannot_be_read(
        self, put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = put(SEED)

        def failing_fstat(descriptor: int) -> os.stat_result:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", failing_fstat)
            text = load_error(path)
        assert text == "Input/output error. Check the disk that it is on"

    @posix_only
    def test_leaks_no_descriptor(self, put: Callable[[bytes], Path], tmp_path: Path) -> None:
        before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        Identity.load(put(SEED))
        load_error(put(b""))
        load_error(tmp_path)
        put(SEED).chmod(0o644)
        load_error(tmp_path / "key")
        Identity.generate().save(tmp_path / "new")
        after = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        assert len(after) == len(before)


@posix_only
class TestPermissions:
    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
    def test_accepted(self, put: Callable[[bytes], Path], mode: int) -> None:
        path = put(SEED)
        path.chmod(mode)
        assert Identity.load(path) == Identity.from_seed(SEED)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o660, 0o666, 0o777])
    def test_refused(self, put: Callable[[bytes], Path], mode: int) -> None:
        path = put(SEED)
        path.chmod(mode)
        assert load_error(path).startswith(
            f"other users may access it (mode {mode:04o}). "
            f"Run `chmod 600 {path}`, and make a new key if somebody may have read this one"
        )

    def test_hint_can_be_pasted_into_a_shell(self, tmp_path: Path) -> None:
        path = tmp_path / "it's a key"
        path.write_bytes(SEED)
        path.chmod(0o644)
        hint = load_error(path).split("`")[1]
        subprocess.run(hint, shell=True, check=True, timeout=30)
        assert Identity.load(path) == Identity.from_seed(SEED)

    def test_the_opened_file_is_checked_not_the_path(
        self, put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = put(SEED)
        path.chmod(0o644)
        real_open = os.open

        def open_then_swap(name: str, flags: int) -> int:
            descriptor = real_open(name, flags)
            path.unlink()
            put(bytes(32))
            return descriptor

        monkeypatch.setattr(os, "open", open_then_swap)
        assert "other users may access it" in load_error(path)

    def test_symlink_to_a_private_file(self, put: Callable[[bytes], Path], tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(put(SEED))
        assert Identity.load(tmp_path / "link") == Identity.from_seed(SEED)

    def test_modes_mean_nothing_elsewhere(
        self, put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(keyfiles, "_POSIX", False)
        path = put(SEED)
        path.chmod(0o644)
        assert Identity.load(path) == Identity.from_seed(SEED)
        Identity.from_seed(SEED).save(tmp_path / "new")
        assert Identity.load(tmp_path / "new") == Identity.from_seed(SEED)


class TestSignAndVerify:
    @given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
    @settings(deadline=None, max_examples=30)
    def test_agrees_with_an_independent_implementation(self, seed: bytes, digest: bytes) -> None:
        identity = Identity.from_seed(seed)
        signature = identity._sign_digest(digest)
        assert signature == Ed25519PrivateKey.from_private_bytes(seed).sign(digest)
        assert verify_digest(bytes(identity.did), digest, signature) is True

    @pytest.mark.parametrize("length", [0, 31, 33, 64])
    def test_signs_only_32_bytes(self, length: int) -> None:
        with pytest.raises(ValueError, match=f"a digest is 32 bytes, got {length}"):
            Identity.from_seed(SEED)._sign_digest(bytes(length))

    @given(st.integers(0, 128 * 8 - 1))
    @settings(deadline=None, max_examples=60)
    def test_any_flipped_bit_is_refused(self, bit: int) -> None:
        identity = Identity.from_seed(SEED)
        proof = bytearray(bytes(identity.did) + DIGEST + identity._sign_digest(DIGEST))
        proof[bit // 8] ^= 1 << bit % 8
        data = bytes(proof)
        assert verify_digest(data[:32], data[32:64], data[64:]) is False

    def test_wrong_lengths_are_refused_without_an_error(self) -> None:
        identity = Identity.from_seed(SEED)
        key, signature = bytes(identity.did), identity._sign_digest(DIGEST)
        for cut in (0, 1, 31):
            assert not verify_digest(key[:cut], DIGEST, signature)
            assert not verify_digest(key, DIGEST[:cut], signature)
            assert not verify_digest(key, DIGEST, signature[:cut])
        assert not verify_digest(key + b"\0", DIGEST, signature)
        assert not verify_digest(key, DIGEST + b"\0", signature)
        assert not verify_digest(key, DIGEST, signature + b"\0")

    def test_a_byte_cannot_move_between_signature_and_message(self) -> None:
        identity = Identity.from_seed(SEED)
        key, signature = bytes(identity.did), identity._sign_digest(DIGEST)
        whole = signature + DIGEST
        assert _verify(key, whole[64:], whole[:64])
        for cut in (63, 65):
            assert not _verify(key, whole[cut:], whole[:cut])

    def test_signature_of_a_longer_message_is_no_signature_of_a_digest(self) -> None:
        key = our_key()
        for message in (b"", DIGEST[:31], DIGEST + b"\0"):
            signature = key.sign(message)
            public = key.public_key().public_bytes_raw()
            assert _verify(public, message, signature)
            assert not verify_digest(public, message, signature)

    def test_unsigned_is_no_signature(self) -> None:
        # 64 zero bytes is what v1 writes for "unsigned"
        assert not verify_digest(bytes(Identity.from_seed(SEED).did), DIGEST, bytes(64))

    @pytest.mark.parametrize(
        ("key", "message", "signature"),
        [  # RFC 8032, section 7.1, tests 1 to 3
            (
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
                "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
                "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ],
    )
    def test_rfc_8032(self, key: str, message: str, signature: str) -> None:
        assert _verify(bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature))


class TestStrictness:
    """Signatures that verifiers disagree on. Each is refused, for the reason that it names."""

    def _signature(
        self, torsion: int = 0, add_to_s: int = 0, key: bytes | None = None, digest: bytes = DIGEST
    ) -> tuple[bytes, int]:
        """A signature with SEED's secret, and its h.

        R has `torsion` · T8 added, S `add_to_s` · L, and h is made with `key`.
        """
        expanded = bytearray(hashlib.sha512(SEED).digest()[:32])
        expanded[0] &= 248
        expanded[31] = expanded[31] & 63 | 64
        secret = crypto_core_ed25519_scalar_reduce(bytes(expanded) + bytes(32))
        nonce = crypto_core_ed25519_scalar_reduce(hashlib.sha512(b"nonce").digest())
        r = plus_torsion(crypto_scalarmult_ed25519_base_noclamp(nonce), torsion)
        h = crypto_core_ed25519_scalar_reduce(
            hashlib.sha512(r + (key or HONEST_KEY) + digest).digest()
        )
        s = crypto_core_ed25519_scalar_add(nonce, crypto_core_ed25519_scalar_mul(h, secret))
        total = int.from_bytes(s, "little") + add_to_s * L
        return r + total.to_bytes(32, "little"), int.from_bytes(h, "little")

    def test_the_construction_is_right(self) -> None:
        assert verify_digest(HONEST_KEY, DIGEST, self._signature()[0])

    @pytest.mark.parametrize("torsion", range(1, 8))
    def test_torsion_in_r_fails_the_cofactorless_equation(self, torsion: int) -> None:
        assert not verify_digest(HONEST_KEY, DIGEST, self._signature(torsion)[0])

    @pytest.mark.parametrize("multiple", range(1, 15))
    def test_s_that_is_not_reduced(self, multiple: int) -> None:
        assert not verify_digest(HONEST_KEY, DIGEST, self._signature(0, multiple)[0])

    @pytest.mark.parametrize("key", SMALL_ORDER)
    @pytest.mark.parametrize("r", SMALL_ORDER)
    def test_small_order_key_proves_nothing(self, key: str, r: str) -> None:
        # With S = 0 and R, A of small order, one message in eight or fewer verifies
        # under the bare equation: here 16 digests are tried on each pair.
        for n in range(16):
            digest = hashlib.sha256(bytes([n])).digest()
            assert not verify_digest(bytes.fromhex(key), digest, bytes.fromhex(r) + bytes(32))

    @pytest.mark.parametrize("torsion", range(1, 8))
    def test_key_with_torsion_that_libsodium_alone_accepts(self, torsion: int) -> None:
        # Whoever holds a secret has eight keys for it. Where 8 divides h, the
        # torsion drops out of the equation, so that one digest in eight verifies
        # under a second key: only the DID check stands against it.
        key = plus_torsion(HONEST_KEY, torsion)
        for n in range(1000):
            digest = hashlib.sha256(b"%d" % n).digest()
            signature, h = self._signature(key=key, digest=digest)
            if h % 8 == 0:
                break
        assert crypto_sign_open(signature + digest, key) == digest
        assert not verify_digest(key, digest, signature)


# "Taming the many EdDSAs" (Chalkias et al. 2020), table 5, and
# https://github.com/novifinancial/ed25519-speccheck. For each vector, why it is
# refused. The orders were checked against the bytes: "mixed" is a point with both a
# prime-order and a small-order component.
SPECCHECK = [
    (False, "A is small order, R too, S = 0: verifies for any message"),
    (False, "A is small order, R mixed"),
    (False, "A is mixed, R is small order"),
    (False, "A and R are mixed; both equations hold, so libsodium alone accepts it"),
    (False, "A and R are mixed; only the cofactored equation holds"),
    (False, "A is mixed, R of prime order; only the cofactored equation holds"),
    (False, "A and R are of prime order, but S > L"),
    (False, "A and R are of prime order, but S is so far above L that its top bits show it"),
    (False, "A is mixed; R is small order and not canonical"),
    (False, "A is mixed; R is small order and not canonical; h from the reduced R"),
    (False, "A is small order and not canonical"),
    (False, "A is small order and not canonical; h from the reduced A"),
]


class TestPublishedVectors:
    @pytest.mark.parametrize("number", range(len(SPECCHECK)))
    def test_speccheck(self, number: int) -> None:
        vectors = load_vectors("ed25519-speccheck")
        assert len(vectors) == len(SPECCHECK)
        key, message, signature = (
            bytes.fromhex(vectors[number][field]) for field in ("pub_key", "message", "signature")
        )
        accepted, why = SPECCHECK[number]
        assert verify_digest(key, message, signature) is accepted, why

    def test_speccheck_keys_of_prime_order(self) -> None:
        # All but these two fall to the DID check; these two to S < L.
        usable = []
        for number, vector in enumerate(load_vectors("ed25519-speccheck")):
            try:
                Did.parse(vector["pub_key"])
            except ValueError:
                continue
            usable.append(number)
        assert usable == [6, 7]

    def test_cctv(self) -> None:
        """C2SP/CCTV ed25519vectors: every combination of edge cases, 914 of them.

        886 have a key with a low-order component or not in canonical form: no
        DID. The other 28 have one honest key; 27 of them an R with a low-order
        component, which the cofactorless equation or the small-order check
        refuses. What is left is the one without any flag: the honest signature.
        """
        vectors = load_vectors("ed25519-cctv")
        assert len(vectors) == 914
        bad_key = {"low_order_A", "low_order_component_A", "non_canonical_A"}
        bad_r = {"low_order_R", "low_order_component_R"}
        refused_for = {"key": 0, "R": 0}
        for vector in vectors:
            flags = set(vector["flags"] or [])
            key, signature = bytes.fromhex(vector["key"]), bytes.fromhex(vector["sig"])
            accepted = _verify(key, vector["msg"].encode(), signature)
            assert accepted is (vector["number"] == 305), vector
            assert accepted is (not flags), vector
            if flags & bad_key:
                refused_for["key"] += 1
                with pytest.raises(ValueError):
                    Did(key)
            elif flags:
                assert flags & bad_r, vector
                refused_for["R"] += 1
                Did(key)
        assert refused_for == {"key": 886, "R": 27}

    def test_cctv_shows_that_verifiers_disagree(self) -> None:
        # OpenSSL, which has no check of the key, accepts many that we refuse: the
        # vectors are read rightly, and what refuses them is our rule.
        accepted = 0
        for vector in load_vectors("ed25519-cctv"):
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(vector["key"]))
            try:
                key.verify(bytes.fromhex(vector["sig"]), vector["msg"].encode())
            except InvalidSignature:
                continue
            accepted += 1
        assert accepted > 100
