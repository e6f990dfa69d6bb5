"""Where a key comes from: the order, that it is read once, and that nothing shows it."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from signedwire import ConfigError, Identity, IdentityError, IdentityProblem, load_config
from signedwire import keysources as sources
from signedwire.keysources import CREDENTIAL, Secrets, default_key_path, load_identity, take_secrets
from signedwire.settings import read_settings
from test_key_inputs import PLAIN, SEED, TEXT, assert_shows_no_secret

posix_only = pytest.mark.skipif(os.name != "posix", reason="descriptors as POSIX has them")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own and no variable of ours."""
    for name in tuple(os.environ):
        if name.startswith("SIGNEDWIRE_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("APPDATA", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def saved(path: Path, password: str | None = None) -> Identity:
    path.parent.mkdir(parents=True, exist_ok=True)
    identity = Identity.generate()
    identity.save(path, password)
    return identity


def opened(data: bytes) -> int:
    """A descriptor of a pipe with `data` in it and its other end closed."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def refused(config: Path | None = None, **options: Any) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        load_identity(config, **options)
    assert_shows_no_secret(caught.value)
    return caught.value


@posix_only
def test_the_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = home / "node.toml"
    default = saved(default_key_path())
    assert load_identity(config=None) == default
    config.write_text(f'identity = "{home / "in-file.pem"}"\n')
    in_file = saved(home / "in-file.pem")
    assert load_identity(config) == in_file
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY", str(home / "named.pem"))
    named = saved(home / "named.pem")
    assert load_identity(config) == named
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", TEXT)
    assert load_identity(config) == Identity.from_seed(SEED)
    assert load_identity(config) == named  # the variable was read once
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", TEXT)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(home / "credentials"))
    credential = saved(home / "credentials" / CREDENTIAL)
    assert load_identity(config) == credential
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", TEXT)
    by_descriptor = Identity.generate()
    by_descriptor.save(home / "fd.pem")
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_FD", str(opened((home / "fd.pem").read_bytes())))
    assert load_identity(config) == by_descriptor
    assert "SIGNEDWIRE_IDENTITY_KEY" not in os.environ  # also where another source had the key


def test_a_source_that_is_there_and_cannot_be_used_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(default_key_path())
    for value in ("", " ", "no key", TEXT[:60]):
        monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", value)
        assert refused().fact.startswith("cannot load the key in SIGNEDWIRE_IDENTITY_KEY: ")
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY", str(home / "nope.pem"))
    for create in (False, True):
        assert refused(create=create).problem is IdentityProblem.ABSENT
        assert not (home / "nope.pem").exists()
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY", "")
    with pytest.raises(ConfigError, match="identity='' is not allowed"):
        load_identity()
    monkeypatch.delenv("SIGNEDWIRE_IDENTITY")
    folder = home / "credentials"
    (folder / CREDENTIAL).mkdir(parents=True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert "it is a folder" in str(refused(create=True))


def test_credentials_for_others_are_passed_over(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = saved(default_key_path())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(home))
    assert load_identity() == default
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(home / "nowhere"))
    assert load_identity() == default


@posix_only
def test_a_credential_may_be_group_readable_as_an_acl_shows(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path("/root" if os.geteuid() == 0 else home)
    if not os.access(folder, os.W_OK):
        pytest.skip("no folder that nobody else may write above")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / CREDENTIAL
        identity = saved(path)
        path.chmod(0o440)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", name)
        assert load_identity() == identity
        path.chmod(0o444)
        assert refused().problem is IdentityProblem.EXPOSED
    assert not caplog.records


def test_an_empty_password_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = saved(default_key_path())
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "")
    assert load_identity() == identity
    assert "SIGNEDWIRE_PASSWORD" not in os.environ


def test_the_password_is_read_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = saved(default_key_path(), "secret")
    error = refused()
    assert error.problem is IdentityProblem.ENCRYPTED
    assert error.hint == "Put its password into SIGNEDWIRE_PASSWORD"
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "secret")
    assert load_identity() == identity
    assert "SIGNEDWIRE_PASSWORD" not in os.environ


def test_an_environment_that_was_given_is_left_alone(home: Path) -> None:
    given = {"SIGNEDWIRE_IDENTITY_KEY": TEXT}
    assert load_identity(environ=given) == Identity.from_seed(SEED)
    assert given == {"SIGNEDWIRE_IDENTITY_KEY": TEXT}
    assert load_config(environ=given) == load_config(environ={})


def test_no_child_inherits_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", TEXT)
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "secret")
    secrets = take_secrets()
    assert (secrets.key, secrets.password) == (TEXT, "secret")
    code = "import os; print([name for name in os.environ if name.startswith('SIGNEDWIRE_')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
    assert ran.stdout.split() == [b"[]"]


def test_nothing_shows_the_secrets(home: Path) -> None:
    secrets = Secrets(TEXT, "correct horse")
    source = sources.choose_key(read_settings(None, {}).identity(), {}, secrets)
    for shown in (repr(secrets), str(secrets), repr(source), f"{source}"):
        assert "PRIVATE KEY" not in shown
        assert "correct horse" not in shown
        assert "MC4C" not in shown
    settings = read_settings(None, {})
    for setting in (*settings.explain(), *settings.identity().values()):
        assert setting.name not in ("identity_key", "password")


@pytest.mark.parametrize(
    "way",
    [pickle.dumps, copy.copy, copy.deepcopy, dataclasses.asdict, dataclasses.astuple, vars],
    ids=lambda way: way.__name__,
)
def test_secrets_do_not_travel(way: Callable[[Any], object]) -> None:
    secrets = Secrets(TEXT, "correct horse")
    source = sources.choose_key(read_settings(None, {}).identity(), {}, secrets)
    for thing in (secrets, source):
        with pytest.raises(TypeError) as caught:
            way(thing)
        assert_shows_no_secret(caught.value)
        if way in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError):
                way([thing])


@pytest.mark.parametrize("name", ["IDENTITY", "IDENTITY_FD", "KEY_GROUP_READABLE"])
@pytest.mark.parametrize("text", [TEXT, SEED.hex()])
def test_a_key_in_the_wrong_variable_is_not_shown(name: str, text: str, home: Path) -> None:
    environ = {f"SIGNEDWIRE_{name}": text}
    for read in (load_config, load_identity, read_settings):
        with pytest.raises(ConfigError, match="is a key itself") as caught:
            read(None, environ)
        assert_shows_no_secret(caught.value)
    config = home / "node.toml"
    for value in (f"'''{text}'''", f"['''{text}''']", f"{{d = '''{text}'''}}"):
        config.write_text(f"{name.lower()} = {value}\n")
        with pytest.raises(ConfigError, match="is a key itself") as caught:
            load_config(config, {})
        assert_shows_no_secret(caught.value)


@pytest.mark.parametrize("size", [43, 64, 86, 128])
@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_path_that_may_be_base64_or_hex_is_a_path(
    size: int, is_absolute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pytest`'s own folders are too long for an absolute one, and have other characters."""
    with tempfile.TemporaryDirectory(prefix="sw", dir="/tmp") as folder:
        monkeypatch.chdir(folder)
        name = f"{folder}/run/".ljust(size, "a") if is_absolute else "a" * size
        identity = saved(Path(name))
        config = Path("c.toml")
        config.write_text(f'identity = "{name}"\n')
        for environ, file in (({"SIGNEDWIRE_IDENTITY": name}, None), ({}, config)):
            assert load_identity(file, environ) == identity
            assert read_settings(file, environ).identity()["identity"].value == Path(name)
            load_config(file, environ)
        Path(name).unlink()
        if is_absolute:  # what is missing is named
            assert str(name) in str(refused(config, environ={}))


# --- descriptors -------------------------------------------------------------------------


def by_descriptor(descriptor: int) -> Identity:
    return load_identity(environ={"SIGNEDWIRE_IDENTITY_FD": str(descriptor)})


def bad_descriptor(descriptor: int) -> str:
    with pytest.raises(IdentityError) as caught:
        by_descriptor(descriptor)
    prefix = f"cannot load the key from descriptor {descriptor}: "
    assert caught.value.fact.startswith(prefix)
    return caught.value.fact.removeprefix(prefix)


@posix_only
def test_descriptor_of_a_pipe_a_file_and_a_socket(home: Path) -> None:
    expected = Identity.from_seed(SEED)
    path = home / "key.pem"
    path.write_bytes(PLAIN)
    here, there = socket.socketpair()
    there.sendall(PLAIN)
    there.close()
    for descriptor in (opened(PLAIN), os.open(path, os.O_RDONLY), here.detach()):
        assert by_descriptor(descriptor) == expected
        assert bad_descriptor(descriptor) == "it is not open"  # it was closed


@posix_only
def test_a_pipe_that_is_written_slowly() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def write() -> None:
        for start in range(0, len(PLAIN), 40):
            os.write(writer, PLAIN[start : start + 40])
        os.close(writer)

    thread = threading.Timer(0.05, write)
    thread.start()
    assert by_descriptor(reader) == Identity.from_seed(SEED)
    thread.join()


@posix_only
def test_descriptors_that_have_no_key(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert bad_descriptor(2**20) == "it is not open"
    assert bad_descriptor(opened(b"")) == "it is at its end"
    null = os.open(os.devnull, os.O_RDONLY)
    assert bad_descriptor(null) == "it is neither a file nor a pipe"
    os.close(null)  # it was left alone
    folder = os.open(home, os.O_RDONLY)
    assert bad_descriptor(folder) == "it is neither a file nor a pipe"
    os.close(folder)
    big = home / "big"
    with big.open("wb") as file:
        file.truncate(2**40)
    assert bad_descriptor(os.open(big, os.O_RDONLY)) == "it has more than 64 KiB"
    monkeypatch.setattr(sources, "_DESCRIPTOR_TIMEOUT", 0.05)
    reader, writer = os.pipe()
    os.write(writer, PLAIN[:20])
    assert "did not write a whole key" in bad_descriptor(reader)
    os.close(writer)


# --- the default path --------------------------------------------------------------------


def test_a_key_is_made_at_the_default_path_alone_and_when_asked(home: Path) -> None:
    assert refused().problem is IdentityProblem.ABSENT
    assert not default_key_path().exists()
    identity = load_identity(create=True)
    assert load_identity() == identity
    assert load_identity(create=True) == identity


@posix_only
def test_an_empty_file_at_the_default_path_is_none(caplog: pytest.LogCaptureFixture) -> None:
    path = default_key_path()
    path.parent.mkdir(parents=True)
    path.touch(0o644)
    assert refused().problem is IdentityProblem.EMPTY
    with caplog.at_level(logging.WARNING):
        identity = load_identity(create=True)
    assert caplog.messages == [f"the key file {path} was empty, so a new key was made in it"]
    assert load_identity() == identity
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


@posix_only
@pytest.mark.parametrize("content", [b"\n", bytes(100), PLAIN[:50]])
def test_a_file_that_is_not_empty_is_never_replaced(content: bytes) -> None:
    path = default_key_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    path.chmod(0o600)
    assert refused(create=True).problem is IdentityProblem.DAMAGED
    assert path.read_bytes() == content


@posix_only
def test_a_link_to_an_empty_file_is_left_alone(home: Path) -> None:
    path = default_key_path()
    path.parent.mkdir(parents=True)
    (home / "real").touch(0o600)
    path.symlink_to(home / "real")
    assert "it is a symbolic link to an empty file" in str(refused(create=True))
    assert path.is_symlink()
    (home / "real").unlink()  # now it dangles
    assert refused(create=True).problem is IdentityProblem.EXISTS


@posix_only
@pytest.mark.parametrize("is_empty", [False, True])
def test_many_at_once_make_one_key(is_empty: bool) -> None:
    """Processes, as the lock is theirs; they begin together."""
    path = default_key_path()
    path.parent.mkdir(parents=True)
    if is_empty:
        path.touch(0o600)
    code = (
        "import sys; from signedwire import load_identity; sys.stdout.write('.'); "
        "sys.stdout.flush(); sys.stdin.read(); print(load_identity(create=True).did)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for _ in range(6)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.read(1) == "."
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    shown = {process.communicate(timeout=30)[0].strip() for process in started}
    assert shown == {str(load_identity().did)}
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="folders as XDG has them")
@pytest.mark.parametrize("value", [None, "", "relative", "/", "//", "~"])
@pytest.mark.parametrize("is_given", [False, True])
def test_no_home_folder(
    value: str | None, is_given: bool, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    def nobody(_: int) -> object:
        raise KeyError("uid not found")

    monkeypatch.chdir(home)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    environ = {"XDG_CONFIG_HOME": "also-relative"} | ({} if value is None else {"HOME": value})
    if not is_given:
        monkeypatch.delenv("HOME")
        for name, text in environ.items():
            monkeypatch.setenv(name, text)
    before = os.listdir(home)
    with pytest.raises(ConfigError) as caught:
        load_identity(environ=environ if is_given else None, create=True)
    assert str(caught.value) == (
        "there is no home folder. Give --identity and --store, or set HOME to a folder"
    )
    assert os.listdir(home) == before


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="folders as XDG has them")
def test_the_default_path_is_of_the_environment_that_is_given(home: Path) -> None:
    for name, where in (("HOME", home / "h" / ".config"), ("XDG_CONFIG_HOME", home / "h")):
        environ = {name: str(home / "h")}
        made = load_identity(environ=environ, create=True)
        assert default_key_path(environ) == where / "signedwire" / "identity.pem"
        assert Identity.load(default_key_path(environ)) == made
        assert load_identity(environ=environ) == made
    assert not default_key_path().exists()


def test_a_folder_that_cannot_be_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "file"))
    monkeypatch.setenv("APPDATA", str(home / "file"))
    if sys.platform == "darwin":
        pytest.skip("its folder is below the home folder")
    error = refused(create=True)
    assert "cannot make the folder" in str(error) or "Not a directory" in str(error)
