"""`signedwire id` and `signedwire config`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from clikit import expect_one_sentence, isolate, run

from signedwire import Did, Identity, RoutingTable, TransportConfig, load_config

BOB = Identity.from_seed(bytes(range(32))).did


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


def test_a_new_identity_is_shown_again(key: Path) -> None:
    made = run("id", "new")
    assert made.exit_code == 0
    assert str(key) in made.stderr
    did = Did.parse(made.stdout)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert run("id", "show").stdout == made.stdout
    shown = run("id", "show", "--json").objects
    assert shown == [{"did": str(did), "did_hex": did.hex(), "path": str(key)}]


def test_a_path_and_an_option_win_over_the_variable(tmp_path: Path, key: Path) -> None:
    assert run("id", "new", tmp_path / "a").exit_code == 0
    assert run("id", "new", "--identity", tmp_path / "b").exit_code == 0
    assert not key.exists()
    assert run("id", "show", tmp_path / "a").stdout != run("id", "show", tmp_path / "b").stdout


def test_the_default_is_in_the_folder_of_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIGNEDWIRE_IDENTITY")
    (made,) = run("id", "new", "--json").objects
    path = Path(made["path"])
    assert path.name == "identity.pem"
    assert path.is_relative_to(tmp_path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_existing_key_is_never_overwritten(key: Path) -> None:
    run("id", "new")
    before = key.read_bytes()
    expect_one_sentence(run("id", "new"), 3, str(key), "never overwritten", "another path")
    assert key.read_bytes() == before


def test_there_is_nothing_to_show_before_a_key_is_made(key: Path) -> None:
    expect_one_sentence(run("id", "show"), 3, f"no key file {key}", f"`signedwire id new {key}`")


def test_an_encrypted_key_needs_its_password(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "correct horse")
    made = run("id", "new", "--password-env", "MY_SECRET")
    assert "encrypted" in made.stderr
    assert b"ENCRYPTED" in key.read_bytes()
    expect_one_sentence(run("id", "show"), 3, "it is encrypted", "SIGNEDWIRE_PASSWORD")
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "wrong")
    expect_one_sentence(run("id", "show"), 3, str(key), "the password is wrong")
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "correct horse")
    assert run("id", "show").stdout == made.stdout


def test_the_password_that_will_open_it_also_encrypts_it(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "correct horse")
    made = run("id", "new")
    assert b"ENCRYPTED" in key.read_bytes()
    assert run("id", "show").stdout == made.stdout


def test_a_password_can_be_typed(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run("id", "new", "--ask-password", given="correct\ncorrect\n")
    assert made.exit_code == 0
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "correct")
    assert run("id", "show").stdout == made.stdout.splitlines(True)[-1]


def test_password_options_that_cannot_be_used() -> None:
    expect_one_sentence(run("id", "new", "--password-env", "NOPE"), 2, "NOPE", "no such variable")
    both = run("id", "new", "--password-env", "HOME", "--ask-password")
    expect_one_sentence(both, 2, "exclude each other")
    assert run("id", "new", "--ask-password", given="").exit_code == 130


# -- config -----------------------------------------------------------------------


def test_config_show_says_where_each_value_is_from_and_is_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f'preset = "production"\nv1_peers = ["{BOB}"]\nconnect_timeout = "none"\n')
    monkeypatch.setenv("SIGNEDWIRE_MAX_ATTEMPTS", "7")
    ran = run("config", "show", "--config", path)
    assert ran.exit_code == 0
    lines = ran.stdout.splitlines()
    assert any(line.startswith("max_attempts = 7 ") and "_MAX_ATTEMPTS" in line for line in lines)
    assert any(line.startswith("signatures = ") and "# preset production" in line for line in lines)
    assert any(line.startswith("v1_peers = ") and f"# {path}" in line for line in lines)
    assert any(line.startswith("inbox_limit = ") and "# default" in line for line in lines)
    saved = tmp_path / "saved.toml"
    saved.write_text(ran.stdout)
    assert load_config(saved, {}) == load_config(path)
    settings = {s["name"]: s for s in run("config", "show", "--config", path, "--json").objects}
    assert settings["max_attempts"]["value"] == 7
    assert settings["max_attempts"]["origin"] == "environment SIGNEDWIRE_MAX_ATTEMPTS"
    assert settings["connect_timeout"]["value"] is None
    assert settings["v1_peers"]["value"] == [str(BOB)]
    assert len(settings) == len(TransportConfig.__dataclass_fields__)


def test_config_check_accepts_what_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = tmp_path / "peers.toml"
    RoutingTable({BOB: "10.0.0.7:9001"}).save(peers)
    ran = run("config", "check", "--peers", peers)
    assert ran.stdout == f"ok: the defaults with the environment, 1 peers in {peers}\n"
    checked = run("config", "check", "--peers", peers, "--json").objects
    assert checked == [{"ok": True, "config": None, "peers": str(peers), "routes": 1}]
    monkeypatch.setenv("SIGNEDWIRE_PRESET", "development")
    assert "stays inside one process" in run("config", "check").stderr


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("max_atempts = 1", ["unknown key 'max_atempts'", "Did you mean max_attempts?"]),
        ("max_attempts = 0", ["max_attempts=0 is not allowed", "from 1 to 65_535"]),
        ("max_frame_size = 500", ["does not fit into a frame", "Expected at most 330"]),
        ("listen = ", ["is not TOML", "line 1"]),
    ],
)
def test_config_check_names_what_is_wrong(tmp_path: Path, content: str, parts: list[str]) -> None:
    path = tmp_path / "node.toml"
    path.write_text(content)
    ran = run("config", "check", "--config", path)
    expect_one_sentence(ran, 3, str(path), *parts)


def test_config_check_reads_the_peers_and_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = tmp_path / "peers.toml"
    peers.write_text('[peers]\nbob = "h:1"\n')
    expect_one_sentence(run("config", "check", "--peers", peers), 3, "peers.bob", "not a DID")
    monkeypatch.setenv("SIGNEDWIRE_LISTN", "h:1")
    ran = run("config", "check", "--json")
    assert ran.exit_code == 3
    assert "SIGNEDWIRE_LISTEN" in json.loads(ran.stderr)["hint"]
