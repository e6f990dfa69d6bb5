"""The file that OpenSSL takes a key from: in memory if it can be, encrypted, gone at once."""

from __future__ import annotations

import errno
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any

import pytest

from signedwire import Identity, SignedWireError
from signedwire.transport.tls import TlsIdentity


class Loads:
    """The paths that keys were loaded from, and what they held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        self.modes: list[int] = []
        load = ssl.SSLContext.load_cert_chain

        def noting(context: ssl.SSLContext, path: str, **options: Any) -> None:
            assert b"BEGIN ENCRYPTED PRIVATE KEY" in Path(path).read_bytes()
            load(context, path, **options)
            self.paths.append(path)
            self.modes.append(os.stat(Path(path).parent).st_mode & 0o077)

        monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", noting)


def refuse(*_: object, **__: object) -> Any:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def works(identity: TlsIdentity) -> bool:
    return identity.channel(is_server=False) is not None


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")
def test_no_folder_is_needed_where_there_are_files_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads = Loads(monkeypatch)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    before = os.listdir("/proc/self/fd")
    assert works(TlsIdentity(Identity.generate()))
    assert len(loads.paths) == 2
    assert all(path.startswith("/proc/self/fd/") for path in loads.paths)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("missing", ["memfd", "proc"])
@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs /dev/shm")
def test_then_the_file_is_in_shared_memory(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_files_in_memory(monkeypatch, missing)
    loads = Loads(monkeypatch)
    assert works(TlsIdentity(Identity.generate()))
    assert all(path.startswith("/dev/shm/signedwire-") for path in loads.paths)
    assert loads.modes == [0, 0]
    assert not any(Path(path).parent.exists() for path in loads.paths)


def test_then_in_the_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _without_files_in_memory(monkeypatch, "memfd")
    make = tempfile.mkdtemp

    def elsewhere(suffix: Any, prefix: Any, dir: Any) -> str:
        return refuse() if dir == "/dev/shm" else make(suffix, prefix, tmp_path)

    monkeypatch.setattr(tempfile, "mkdtemp", elsewhere)
    loads = Loads(monkeypatch)
    assert works(TlsIdentity(Identity.generate()))
    assert all(path.startswith(str(tmp_path)) for path in loads.paths)
    assert loads.modes == [0, 0]
    assert list(tmp_path.iterdir()) == []


def test_without_any_place_it_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = TlsIdentity(Identity.generate())
    _without_files_in_memory(monkeypatch, "memfd")
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(SignedWireError, match="OpenSSL takes a key from a file alone") as caught:
        TlsIdentity(Identity.generate())
    assert "TMPDIR" in caught.value.hint
    # One that runs goes on with the proof that it has.
    monkeypatch.setattr(fine, "_renew_at_us", 0)
    assert works(fine)


def _without_files_in_memory(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "memfd":
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
        return
    load = ssl.SSLContext.load_cert_chain

    def blind(context: ssl.SSLContext, path: str, **options: Any) -> None:
        if path.startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        load(context, path, **options)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", blind)
