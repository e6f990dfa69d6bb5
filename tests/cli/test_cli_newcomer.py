"""What somebody meets who uses the command line for the first time, from its texts alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from clikit import isolate, run

from signedwire import Identity
from signedwire.config import OPTIONS

BOB = Identity.from_seed(bytes(range(32)))
AWAY = f"{BOB.did}@127.0.0.1:1"


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


# -- config show -------------------------------------------------------------------


def test_what_config_show_prints_keeps_the_store(tmp_path: Path) -> None:
    """The command line's own default is a store, which no line of the file takes away."""
    shown = run("config", "show")
    assert f"# store: one for each key, in {tmp_path / 'state' / 'signedwire'}" in shown.stdout
    assert "store" not in tomllib.loads(shown.stdout)
    file = tmp_path / "shown.toml"
    file.write_text(shown.stdout)
    ran = run("send", AWAY, "x", "--config", file)
    assert ran.exit_code == 4, ran
    assert list((tmp_path / "state" / "signedwire").glob("*.db"))
    # Where somebody says "none", it is "none".
    file.write_text('store = "none"\n')
    assert "\nstore = " in run("config", "show", "--config", file).stdout
    assert run("send", AWAY, "x", "--config", file).exit_code == 6


def test_config_show_names_the_store_in_json_too(tmp_path: Path) -> None:
    (store,) = (each for each in run("config", "show", "--json").objects if each["name"] == "store")
    folder = str(tmp_path / "state" / "signedwire")
    assert store == {
        "name": "store",
        "value": None,
        "origin": "default",
        "note": f"one for each key, in {folder}",
    }


def test_config_show_without_a_home_folder_still_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.delenv("XDG_STATE_HOME")
    shown = run("config", "show")
    assert shown.exit_code == 0
    assert "# store: one for each key, in the user's state folder" in shown.stdout
    assert set(tomllib.loads(shown.stdout)) >= set(OPTIONS) - {"store"}
