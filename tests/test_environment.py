"""Variables that only look like ours, and where this user's files are."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from signedwire import ConfigError, TransportConfig, load_config
from signedwire.config import OPTIONS
from signedwire.environment import (
    expand_home,
    home_folder,
    looks_like_service_link,
    state_folder,
)
from signedwire.settings import IDENTITY_OPTIONS

# What Kubernetes gives a pod beside a service "signedwire" with the ports 9001 and "metrics",
# and one called "signedwire-relay" with IPv6.
SERVICE_LINKS = {
    "SIGNEDWIRE_SERVICE_HOST": "10.0.0.11",
    "SIGNEDWIRE_SERVICE_PORT": "9001",
    "SIGNEDWIRE_SERVICE_PORT_METRICS": "9100",
    "SIGNEDWIRE_PORT": "tcp://10.0.0.11:9001",
    "SIGNEDWIRE_PORT_9001_TCP": "tcp://10.0.0.11:9001",
    "SIGNEDWIRE_PORT_9001_TCP_PROTO": "tcp",
    "SIGNEDWIRE_PORT_9001_TCP_PORT": "9001",
    "SIGNEDWIRE_PORT_9001_TCP_ADDR": "10.0.0.11",
    "SIGNEDWIRE_PORT_53_UDP": "udp://10.0.0.11:53",
    "SIGNEDWIRE_PORT_53_UDP_PROTO": "udp",
    "SIGNEDWIRE_RELAY_SERVICE_HOST": "fd00::11",
    "SIGNEDWIRE_RELAY_PORT": "tcp://[fd00::11]:9001",
    "SIGNEDWIRE_RELAY_PORT_9001_TCP_ADDR": "fd00::11",
    # A service may have the name of an option: still nothing of ours.
    "SIGNEDWIRE_LISTEN_SERVICE_HOST": "10.0.0.12",
    "SIGNEDWIRE_LISTEN_PORT": "tcp://10.0.0.12:9001",
}


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(environ=environ)
    return str(caught.value)


def test_service_links_are_passed_over() -> None:
    environ = SERVICE_LINKS | {"SIGNEDWIRE_MAX_ATTEMPTS": "7"}
    assert load_config(environ=environ) == TransportConfig(max_attempts=7)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SIGNEDWIRE_PORT", "9001"),  # a person wants a port, and would listen elsewhere
        ("SIGNEDWIRE_PORT", "0.0.0.0:9001"),
        ("SIGNEDWIRE_SERVICE_HOST", "robot.example"),
        ("SIGNEDWIRE_SERVICE_PORT", "http"),
        ("SIGNEDWIRE_PORT_9001_TCP", "yes"),
        ("SIGNEDWIRE_SERVICE", "10.0.0.11"),
        ("SIGNEDWIRE_LISTN", "tcp://10.0.0.11:9001"),
        ("SIGNEDWIRE_PORT_9001_TCP_PROTO", "quic"),
        ("SIGNEDWIRE_SERVICE_HOST_EXTRA", "10.0.0.11"),
    ],
)
def test_what_is_no_service_link_is_an_error(variable: str, value: str) -> None:
    assert f"unknown environment variable {variable}" in refusal({variable: value})


@pytest.mark.parametrize(
    ("variable", "value", "is_told"),
    [
        ("SIGNEDWIRE_PORT_9001_TCP_PROTO", "quic", True),
        ("SIGNEDWIRE_SERVICE_HOST", "robot.example", True),
        ("SIGNEDWIRE_RELAY_ADDRESS", "tcp://10.0.0.11:9001", True),
        ("SIGNEDWIRE_LISTN", "127.0.0.1:9001", False),
        # No option ends as those do, so somebody wrote this.
        ("SIGNEDWIRE_LISTEN", "tcp://10.0.0.11:9001", False),
        ("SIGNEDWIRE_LISTEN", "here", False),
    ],
)
def test_what_may_be_a_service_link_names_the_cause(
    variable: str, value: str, is_told: bool
) -> None:
    text = refusal({variable: value})
    assert variable in text
    assert ("enableServiceLinks: false" in text) == is_told


def test_no_option_ends_as_a_service_link_does() -> None:
    for option in (*OPTIONS, *IDENTITY_OPTIONS):
        assert not looks_like_service_link(f"SIGNEDWIRE_{option.upper()}", "")


# -- no home ----------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["", "/", "//", "relative", "~", "."])
def test_a_home_that_is_none(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    makes: list[Callable[[], object]] = [
        home_folder,
        state_folder,
        lambda: expand_home("~/x.db"),
    ]
    for make in makes:
        with pytest.raises(ConfigError, match="there is no home folder") as caught:
            make()
        assert caught.value.hint == "Give --identity and --store, or set HOME to a folder"


UNKNOWN_USER = """
import os
from signedwire.environment import home_folder
os.setgroups([]); os.setgid(12345); os.setuid(12345)
os.environ.pop("HOME", None)
try:
    print(home_folder())
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_that_the_system_does_not_know() -> None:
    with pytest.raises(KeyError):
        pwd.getpwuid(12345)
    ran = subprocess.run(
        [sys.executable, "-c", UNKNOWN_USER], capture_output=True, text=True, timeout=30
    )
    assert ran.stdout.startswith("ConfigError there is no home folder"), ran


def test_a_relative_xdg_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "state", "./state", "~/state"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert state_folder() == tmp_path / ".local/state/signedwire"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert state_folder() == Path("/var/state/signedwire")
    monkeypatch.setenv("HOME", "/")  # not needed then
    assert state_folder() == Path("/var/state/signedwire")


# -- ~ ------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["store", "evidence"])
def test_a_tilde_is_the_home_folder(
    option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "c.toml"
    file.write_text(f'{option} = "~/x.db"\n')
    there = tmp_path / "x.db"
    assert getattr(load_config("~/c.toml", {}), option) == there
    environ = {f"SIGNEDWIRE_{option.upper()}": "~/x.db"}
    assert getattr(load_config(environ=environ), option) == there
    assert getattr(TransportConfig(**{option: "~/x.db"}), option) == there  # type: ignore[arg-type]
    of_root = {f"SIGNEDWIRE_{option.upper()}": "~root/x.db"}
    expected = Path(pwd.getpwnam("root").pw_dir) / "x.db"
    assert getattr(load_config(environ=of_root), option) == expected
    for plain in ("./~/x.db", "a~b", "x/~"):
        assert getattr(TransportConfig(**{option: plain}), option) == Path(plain)  # type: ignore[arg-type]


def test_a_tilde_that_stands_for_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal({"SIGNEDWIRE_STORE": "~nobody-of-that-name/x.db"})
    assert "there is no user 'nobody-of-that-name' on this system" in text
    monkeypatch.setenv("HOME", "/")
    assert "there is no home folder" in refusal({"SIGNEDWIRE_STORE": "~/x.db"})


@pytest.mark.parametrize(
    "name", [":memory:", "file:x.db", "file:///x.db?mode=memory", "file::memory:"]
)
def test_a_name_for_sqlite_is_no_store(name: str) -> None:
    says = "not a file: leave the option out to use memory"
    with pytest.raises(ConfigError, match=says):
        TransportConfig(store=name)
    with pytest.raises(ConfigError, match=says):
        load_config(environ={"SIGNEDWIRE_STORE": name})
