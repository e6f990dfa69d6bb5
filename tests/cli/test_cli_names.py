"""Names on the command line: wherever a DID is given, and wherever one is shown to people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clikit import Process, expect_one_sentence, isolate, listener, run, start_listening

from signedwire import Identity
from signedwire.settings import load_config

ROBOT = Identity.from_seed(bytes([7]) * 32)
LABEL = f"robot-1 ({ROBOT.did})"


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    isolate(tmp_path, monkeypatch)
    path = tmp_path / "signedwire.toml"
    path.write_text(f'[names]\nrobot-1 = "{ROBOT.did}"\nbot = "{ROBOT.did}"\n')
    monkeypatch.setenv("SIGNEDWIRE_CONFIG", str(path))
    return path


def test_send_by_name(tmp_path: Path) -> None:
    with listener(ROBOT) as robot:
        ran = run("send", f"robot-1@{robot.address}", "stop")
        assert ran.exit_code == 0, ran
        assert f"by robot-1 ({ROBOT.did.short}) at " in ran.stdout
        assert robot.receive(5).payload == b"stop"
        # The peers file gives the address, by another name of the DID.
        peers = tmp_path / "peers.toml"
        peers.write_text(f'[peers]\nbot = "{robot.address}"\n')
        ran = run("send", "robot-1", "again", "--peers", peers, "--json")
        assert ran.exit_code == 0, ran
        assert ran.objects[0]["recipient"] == str(ROBOT.did)
        assert robot.receive(5).payload == b"again"
        with Process("send", "robot-1", "-", "--peers", str(peers)) as lines:
            lines.write(b"a\nb\n")
            lines.stdin.close()
            assert f"robot-1 ({ROBOT.did.short})" in lines.line()
            assert lines.wait() == 0


def test_ping_and_peers(tmp_path: Path) -> None:
    with listener(ROBOT) as robot:
        peers = tmp_path / "peers.toml"
        peers.write_text(f'[peers]\nrobot-1 = "{robot.address}"\n')
        ran = run("ping", "bot", "--peers", peers)
        assert ran.exit_code == 0, ran
        ran = run("peers", "--peers", peers)
        assert ran.exit_code == 0, ran
        assert LABEL in ran.stdout
    ran = run("ping", "robot-1", "--peers", peers)
    assert ran.exit_code == 6, ran
    assert f"{LABEL} was not reached" in ran.stderr


def test_the_outbox() -> None:
    ran = run("send", "robot-1", "later")
    assert ran.exit_code == 4, ran
    assert f"for robot-1 ({ROBOT.did.short})" in ran.stdout
    id_ = str(run("outbox", "list", "--json").objects[0]["id"])
    for words in (("list",), ("list", "--to", "bot"), ("show", id_)):
        ran = run("outbox", *words)
        assert ran.exit_code == 0, ran
        assert LABEL in ran.stdout
    expect_one_sentence(
        run("outbox", "list", "--to", "robot1"), 2, "'robot1' is not a DID", "Did you mean robot-1"
    )
    ran = run("outbox", "retry", "--to", "bot", "--json")
    assert ran.objects == [{"dids": [str(ROBOT.did)]}]
    assert "dropped 1 message" in run("outbox", "drop", "--to", "robot-1").stdout
    assert run("dead", "list", "--to", "robot-1").exit_code == 0


@pytest.mark.parametrize(
    "words",
    [("send", "robt-1", "x"), ("send", "robt-1"), ("ping", "robt-1"), ("bench", "robt-1@h:1")],
)
def test_an_unknown_name_is_one_sentence(words: tuple[str, ...]) -> None:
    expect_one_sentence(
        run(*words),
        2,
        "'robt-1' is not a DID, and no peer has that name.",
        "Did you mean robot-1? Names are written in the configuration: [names]",
    )


def test_config_show_can_be_used_as_a_configuration(
    configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = run("config", "show", "--explain").stdout
    expected = load_config(configuration, {})
    copied = tmp_path / "copy.toml"
    copied.write_text(shown)
    assert load_config(copied, {}).names == expected.names
    (names,) = (each for each in run("config", "show", "--json").objects if each["name"] == "names")
    assert names["value"] == {"robot-1": str(ROBOT.did), "bot": str(ROBOT.did)}
    monkeypatch.delenv("SIGNEDWIRE_CONFIG")
    assert "names = {}" in run("config", "show").stdout


def test_config_check_reads_files_with_names(configuration: Path, tmp_path: Path) -> None:
    access, peers = tmp_path / "access", tmp_path / "peers.toml"
    access.write_text("allow robot-1\n")
    peers.write_text('[peers]\nbot = "h:1"\n')
    text = configuration.read_text()
    configuration.write_text(f"access_file = {json.dumps(str(access))}\n{text}")
    ran = run("config", "check", "--peers", peers)
    assert ran.exit_code == 0, ran
    access.write_text("allow robot-3\n")
    peers.write_text('[peers]\nbott = "h:1"\n')
    ran = run("config", "check", "--peers", peers)
    assert ran.exit_code == 3, ran
    assert "access, line 1: 'robot-3' is not a DID" in ran.stderr
    assert "peers.bott: 'bott' is not a DID" in ran.stderr
    # A fault elsewhere does not hide the names.
    configuration.write_text(f'max_attempts = 3\nack = "auto"\ncredit_bytes = 1024\n{text}')
    peers.write_text('[peers]\nbot = "h:1"\n')
    ran = run("config", "check", "--peers", peers)
    assert ran.exit_code == 3, ran
    assert "bot" not in ran.stderr


def test_listen_shows_the_name_of_a_sender(tmp_path: Path) -> None:
    listening, peer = start_listening("--count", "2")
    with listening:
        for identity, text in ((ROBOT, "known"), (Identity.generate(), "unknown")):
            key = tmp_path / f"{text}.pem"
            identity.save(key)
            assert run("send", peer, text, "--identity", key).exit_code == 0
        known, unknown = listening.line(), listening.line()
    label = f"robot-1 ({ROBOT.did.short})"
    assert f"  {label}  normal    known" in known
    assert known.index("normal") == unknown.index("normal")  # columns stay columns
