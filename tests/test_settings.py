"""Loading a configuration: which source wins, and the text of every refusal."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signedwire import Identity, load_identity
from signedwire import settings as settings_module
from signedwire.config import OPTIONS, TransportConfig
from signedwire.errors import ConfigError
from signedwire.names import Names
from signedwire.routing import RoutingTable
from signedwire.settings import (
    COMMAND_LINE_VARIABLES,
    IDENTITY_OPTIONS,
    Setting,
    load_config,
    read_settings,
)
from signedwire.subject_options import SubjectOptions
from signedwire.types import Address, Did
from test_config import DIDS, valid_changes


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "signedwire.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {})
    return str(caught.value)


def as_toml(value: object) -> str:
    if isinstance(value, Names):
        pairs = ", ".join(f"{json.dumps(name)} = {json.dumps(str(value[name]))}" for name in value)
        return f"{{ {pairs} }}"
    if isinstance(value, frozenset) or type(value) is tuple:
        return json.dumps([str(did) for did in value])
    if isinstance(value, SubjectOptions):
        value = value.as_table()
    if isinstance(value, Mapping):
        lines = [f"{json.dumps(key)} = {as_toml(each)}" for key, each in value.items()]
        return f"{{ {', '.join(lines)} }}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps("none" if value is None else str(value))


def as_variable(value: object) -> str:
    if isinstance(value, Names):
        return ", ".join(f"{name} = {did}" for name, did in value.items())
    if isinstance(value, frozenset):
        return " , ".join(str(did) for did in value)
    if isinstance(value, Mapping):
        return as_toml(value)
    return str(value)  # None is "None", which reads as "none" does


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


@given(changes=valid_changes(), in_file=st.sets(st.sampled_from(list(OPTIONS))))
def test_any_configuration_survives_file_and_environment(
    folder: Path, changes: dict[str, Any], in_file: set[str]
) -> None:
    toml = "".join(f"{k} = {as_toml(v)}\n" for k, v in changes.items() if k in in_file)
    environ = {
        f"SIGNEDWIRE_{k.upper()}": as_variable(v) for k, v in changes.items() if k not in in_file
    }
    path = write(folder, toml)
    assert load_config(path, environ) == TransportConfig(**changes)
    for setting in read_settings(path, environ).explain():
        if setting.name not in changes:
            assert setting == Setting(setting.name, OPTIONS[setting.name].default, "default")
        elif setting.name in in_file:
            assert setting.origin == str(path)
        else:
            assert setting.origin == f"environment SIGNEDWIRE_{setting.name.upper()}"


def test_nothing_given_is_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_config(environ={}) == TransportConfig()
    assert [setting.name for setting in read_settings(environ={}).explain()] == list(OPTIONS)
    monkeypatch.setenv("SIGNEDWIRE_MAX_ATTEMPTS", "9")
    assert load_config().max_attempts == 9


def test_a_later_source_wins_and_each_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'preset = "production"\nlisten = "0.0.0.0:9001"\nmax_attempts = 4\nnetwork = "tcp"\n',
    )
    environ = {"SIGNEDWIRE_LISTEN": "none", "PATH": "/bin", "SIGNEDWIREX": "of somebody else"}
    assert load_config(path, environ) == TransportConfig.production(listen=None, max_attempts=4)
    found = {setting.name: setting for setting in read_settings(path, environ).explain()}
    assert found["listen"] == Setting("listen", None, "environment SIGNEDWIRE_LISTEN")
    assert found["max_attempts"] == Setting("max_attempts", 4, str(path))
    assert found["network"] == Setting("network", "tcp", str(path))
    assert found["v1_peers"] == Setting("v1_peers", frozenset(), "preset production")
    assert found["signatures"].origin == "preset production"
    assert found["max_connections"] == Setting("max_connections", 10, "default")

    environ = {"SIGNEDWIRE_PRESET": "lightweight", "SIGNEDWIRE_V1_PEERS": ""}
    assert load_config(path, environ) == TransportConfig.lightweight(
        listen="0.0.0.0:9001", max_attempts=4, v1_peers=()
    )


def test_spellings(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        b'\xef\xbb\xbfconnect_timeout = "None"\r\nclose_timeout = 3\r\nv1_peers = "all"\r\n',
    )
    config = load_config(
        path,
        {
            "SIGNEDWIRE_LISTEN": " [::1]:9001 ",
            "SIGNEDWIRE_FRAME_TIMEOUT": "NONE",
            "SIGNEDWIRE_V1_PEERS": f"{DIDS[0]}, {DIDS[1].hex()},",
            "SIGNEDWIRE_REPLAY_MEMORY": "65_536",
        },
    )
    assert (config.connect_timeout, config.close_timeout, config.frame_timeout) == (None, 3.0, None)
    assert config.listen == Address("::1", 9001)
    assert config.v1_peers == frozenset({DIDS[0], Did.parse(DIDS[1].hex())})
    assert config.replay_memory == 65_536
    assert load_config(environ={"SIGNEDWIRE_V1_PEERS": "all"}).v1_peers == "all"


def test_the_variables_of_the_command_line_are_no_options() -> None:
    environ = dict.fromkeys(COMMAND_LINE_VARIABLES, "anything") | {"SIGNEDWIRE_CONFIG": ""}
    assert load_config(environ=environ) == TransportConfig()


def test_a_call_without_a_path_reads_the_file_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As RoutingTable.load() does."""
    Identity.generate().save(tmp_path / "a.pem")
    identity = Identity.load(tmp_path / "a.pem")
    path = write(tmp_path, f'max_attempts = 7\nidentity = "{tmp_path}/a.pem"\n')
    other = tmp_path / "other.toml"
    other.write_text("max_attempts = 8\n")
    environ = {"SIGNEDWIRE_CONFIG": str(path)}
    assert load_config(environ=environ).max_attempts == 7
    assert load_identity(environ=environ) == identity
    assert load_config(other, environ).max_attempts == 8
    assert read_settings(None, environ).explain()[0].name == "listen"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SIGNEDWIRE_CONFIG", f"~/{path.name}")
    assert load_config().max_attempts == 7
    assert load_identity() == identity
    assert load_config(environ={}) == TransportConfig()
    for bad in ("~/none.toml", "a\0b", "\ud800"):
        assert "cannot read" in refusal(environ={"SIGNEDWIRE_CONFIG": bad})
        with pytest.raises(ConfigError, match="cannot read"):
            load_identity(environ={"SIGNEDWIRE_CONFIG": bad})


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ("lisen = 'a:1'", "unknown key 'lisen'. Did you mean listen?"),
        ("[transport]\nlisten = 'a:1'", "unknown key 'transport'. Known are preset, listen, "),
        (
            "max_attempts = '3'",
            "max_attempts='3' is not allowed. Expected a whole number of attempts from 1 to 65_535",
        ),
        (
            "connect_timeout = 1979-05-27",
            "connect_timeout=datetime.date(1979, 5, 27) is not allowed. "
            "Expected a number of seconds from 0.001 to 86_400, or None",
        ),
        (
            "retry_jitter = nan",
            "retry_jitter=nan is not allowed. Expected a number from 0 to 1",
        ),
        (
            "close_timeout = 'none'",
            "close_timeout='none' is not allowed. "
            "Expected a number of seconds from 0.001 to 86_400",
        ),
        (
            "preset = 'prod'",
            "preset='prod' is not allowed. Expected development or lightweight or production",
        ),
        (
            "v1_peers = ['z6MkX']",
            "v1_peers=['z6MkX'] is not allowed: 'z6MkX' is not a DID: ",
        ),
        ("v1_peers = [[1]]", "v1_peers=[[1]] is not allowed: [1] is not a DID. Expected all, or "),
    ],
)
def test_a_refusal_names_file_key_and_value(tmp_path: Path, toml: str, text: str) -> None:
    path = write(tmp_path, toml)
    assert refusal(path).startswith(f"{path}: {text}")
    # Also where the environment would replace it.
    if toml.startswith("max_attempts"):
        assert refusal(path, {"SIGNEDWIRE_MAX_ATTEMPTS": "3"}).startswith(f"{path}: {text}")


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        (
            "SIGNEDWIRE_MAX_ATTEMPTS",
            "three",
            "environment SIGNEDWIRE_MAX_ATTEMPTS: max_attempts='three' is not allowed. "
            "Expected a whole number of attempts from 1 to 65_535",
        ),
        (
            "SIGNEDWIRE_MAX_ATTEMPTS",
            "",
            "environment SIGNEDWIRE_MAX_ATTEMPTS: max_attempts='' is not allowed. "
            "Expected a whole number of attempts from 1 to 65_535",
        ),
        (
            "SIGNEDWIRE_CONNECT_TIMEOUT",
            "inf",
            "environment SIGNEDWIRE_CONNECT_TIMEOUT: connect_timeout=inf is not allowed. "
            "Expected a number of seconds from 0.001 to 86_400, or None",
        ),
        (
            "SIGNEDWIRE_LISTEN",
            "9001",
            "environment SIGNEDWIRE_LISTEN: listen='9001' is not allowed: "
            "'9001' is not an address. Expected host:port, or None. "
            "Write host:port, for example 127.0.0.1:9001 or [::1]:9001",
        ),
        (
            "SIGNEDWIRE_LISTEN",
            "*:9001",
            "environment SIGNEDWIRE_LISTEN: listen='*:9001' is not allowed: "
            "'*:9001' is not an address: * is no host. Expected host:port, or None. For all of "
            "this machine's addresses write 0.0.0.0:9001, or [::]:9001 for those of IPv6",
        ),
        (
            "SIGNEDWIRE_NETWORK",
            "udp",
            "environment SIGNEDWIRE_NETWORK: network='udp' is not allowed. "
            "Expected tcp or unix or memory",
        ),
        (
            "SIGNEDWIRE_SIGNATURES",
            "no",
            "environment SIGNEDWIRE_SIGNATURES: signatures='no' is not allowed. "
            "Expected required or if-present",
        ),
        (
            "SIGNEDWIRE_V1_PEERS",
            "none",
            "environment SIGNEDWIRE_V1_PEERS: v1_peers=['none'] is not allowed: "
            "'none' is not a DID. Expected all, or a list of DIDs or names. A DID is "
            "did:key:z6Mk…, z6Mk… or 64 hex digits; `signedwire id show` prints yours",
        ),
        (
            "SIGNEDWIRE_PRESET",
            "none",
            "environment SIGNEDWIRE_PRESET: preset='none' is not allowed. "
            "Expected development or lightweight or production",
        ),
        (
            "SIGNEDWIRE_LISTN",
            "a:1",
            "unknown environment variable SIGNEDWIRE_LISTN. Did you mean SIGNEDWIRE_LISTEN?",
        ),
        (
            "SIGNEDWIRE_PASWORD",
            "secret",
            "unknown environment variable SIGNEDWIRE_PASWORD. Did you mean SIGNEDWIRE_PASSWORD?",
        ),
    ],
)
def test_a_refusal_names_the_variable(variable: str, value: str, text: str) -> None:
    assert refusal(environ={variable: value}) == text


def test_an_unknown_variable_with_nothing_near_lists_all() -> None:
    text = refusal(environ={"SIGNEDWIRE_QQQ": ""})
    assert text.startswith("unknown environment variable SIGNEDWIRE_QQQ. Known are SIGNEDWIRE_")
    for name in [*(f"SIGNEDWIRE_{name.upper()}" for name in OPTIONS), *COMMAND_LINE_VARIABLES]:
        assert name in text


def test_values_that_do_not_fit_together_name_their_sources(tmp_path: Path) -> None:
    path = write(tmp_path, "max_frame_size = 1000")
    environ = {"SIGNEDWIRE_PRESET": "production", "SIGNEDWIRE_MAX_V1_PAYLOAD_SIZE": "2000"}
    assert refusal(path, environ) == (
        f"preset production, {path}, environment SIGNEDWIRE_MAX_V1_PAYLOAD_SIZE: "
        "max_v1_payload_size=2000 does not fit into a frame of max_frame_size=1000. "
        "Expected at most 830, which is max_frame_size - 170"
    )
    found = {setting.name: setting.value for setting in read_settings(path, environ).explain()}
    assert (found["max_v1_payload_size"], found["max_frame_size"]) == (2000, 1000)


HUGE = "0x" + "f" * 4500


@pytest.mark.parametrize("option", [*OPTIONS, *IDENTITY_OPTIONS, "preset"])
@pytest.mark.parametrize("toml", [HUGE, f"[{HUGE}]", f"{{a = {HUGE}}}"], ids=["", "list", "table"])
def test_a_number_without_a_text_is_refused_as_any_other(
    tmp_path: Path, option: str, toml: str
) -> None:
    """Python makes no decimal text of it."""
    text = refusal(write(tmp_path, f"{option} = {toml}"))
    is_hidden = option in IDENTITY_OPTIONS and toml != HUGE
    says = f"{option} is a key itself" if is_hidden else f"{option}=<"
    if option in ("subjects", "roles") and toml.startswith("{"):
        says = f"{option}.a: <"  # the table of a subject, the members of a role
    assert says in text
    assert "a number of 18000 bits" in text or toml != HUGE


def test_a_route_to_a_number_without_a_text_is_refused(tmp_path: Path) -> None:
    for value in (HUGE, f"[{HUGE}]", f"{{'{DIDS[0]}' = {HUGE}}}", f"{{'{DIDS[0]}' = [{HUGE}]}}"):
        with pytest.raises(ConfigError, match="<"):
            RoutingTable.load(write(tmp_path, f"peers = {value}"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = 1\nb = \n", "Invalid value (at line 2, column 5)"),
        (b"a = 1\nb = [1,\n", "(at end of document) (line 3 is the last)"),
        (b"a = 1\nb = '\xff'\n", "not UTF-8 (at line 2)"),
        (b"a = " + b"9" * 5000, "(line 1 is the last)"),
        (b"a = " + b"[" * 5000, "(line 1 is the last)"),
    ],
)
def test_a_file_that_is_no_toml_names_file_and_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = write(tmp_path, content)
    text = refusal(path)
    assert text.startswith(f"{path} is not TOML: ")
    assert text.endswith(reason)


def test_a_file_that_cannot_be_read_names_its_path(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert refusal(missing) == (
        f"cannot read {missing}: No such file or directory. "
        "Does the file exist, and may this user read it?"
    )
    assert refusal(tmp_path).startswith(
        f"cannot read {tmp_path}: it is a folder, not a regular file. "
    )


@pytest.mark.skipif(os.name != "posix", reason="pipes with names")
@pytest.mark.parametrize("read", [load_config, RoutingTable.load])
def test_a_pipe_is_read_and_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    monkeypatch.setattr(settings_module, "_PIPE_TIMEOUT", 0.2)

    def error_with(*parts: bytes, ends: bool = True) -> str:
        # Open for both, so that it does not wait for the reader.
        descriptor = os.open(path, os.O_RDWR)
        for part in parts:
            os.write(descriptor, part)
        timer = threading.Timer(0.05, os.close, (descriptor,))
        if ends:
            timer.start()
        try:
            read(path)
        except ConfigError as error:
            return str(error)
        finally:
            if ends:
                timer.join()
            else:
                os.close(descriptor)
        return ""

    with pytest.raises(ConfigError, match=r"its writer did not close it within 0\.2 s"):
        read(path)
    assert "its writer did not close it" in error_with(b"[peers]", ends=False)
    assert "the pipe was empty" in error_with()
    assert "unknown key 'lisen'" in error_with(b"li", b"sen = 1")
    assert error_with(b"#", b" nothing") == ""
    read(Path(os.devnull))
    with pytest.raises(ConfigError, match="is larger than 16 MiB"):
        read(Path("/dev/zero"))


def test_a_file_without_an_end_is_not_read_to_it(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    with path.open("wb") as file:
        file.truncate(2**40)  # zeros that take no place
    for read in (load_config, RoutingTable.load):
        with pytest.raises(ConfigError, match=r"large\.toml is larger than 16 MiB"):
            read(path)


@pytest.mark.parametrize("folder", ["Users", "xray", "data", "new"])
def test_a_windows_path_in_double_quotes(tmp_path: Path, folder: str) -> None:
    path = write(tmp_path, f'listen = "127.0.0.1:1"\nstore = "C:\\{folder}\\node.db"\n')
    if folder == "new":  # "\n" is a line end to TOML: no error there, but no path either
        with pytest.raises(ConfigError, match="a control character"):
            load_config(path, {})
        return
    text = refusal(path)
    assert "at line 2" in text
    assert r"put a path in single quotes, as in 'C:\data\x.db'" in text
    single = write(tmp_path, f"store = 'C:\\{folder}\\node.db'\n")
    assert load_config(single, {}).store == Path(f"C:\\{folder}\\node.db")


def test_utf_16_is_named(tmp_path: Path) -> None:
    assert "it is UTF-16. Save it as UTF-8" in refusal(
        write(tmp_path, 'listen = "127.0.0.1:1"'.encode("utf-16"))
    )
