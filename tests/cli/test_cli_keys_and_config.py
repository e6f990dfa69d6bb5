"""`signedwire id` and `signedwire config`."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from clikit import LIMIT, expect_one_sentence, isolate, listener, run

from signedwire import Did, Identity, RoutingTable, TransportConfig, load_config, settings
from signedwire.cli import keys
from signedwire.keysources import KeySource, Secrets
from signedwire.settings import IDENTITY_OPTIONS

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
    assert shown == [{"did": str(did), "did_hex": did.hex(), "file": str(key)}]


def test_a_path_and_an_option_win_over_the_variable(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY", str(tmp_path / "c"))
    assert run("id", "new", tmp_path / "a").exit_code == 0
    assert run("id", "new", "--identity", tmp_path / "b").exit_code == 0
    assert not key.exists()
    assert not (tmp_path / "c").exists()
    assert run("id", "show", tmp_path / "a").stdout != run("id", "show", tmp_path / "b").stdout


def test_the_default_is_in_the_folder_of_the_application(tmp_path: Path) -> None:
    (made,) = run("id", "new", "--json").objects
    path = Path(made["file"])
    assert path.name == "identity.pem"
    assert path.is_relative_to(tmp_path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_existing_key_is_never_overwritten(key: Path) -> None:
    run("id", "new")
    before = key.read_bytes()
    expect_one_sentence(run("id", "new"), 3, str(key), "never overwritten", "another path")
    assert key.read_bytes() == before


def test_there_is_nothing_to_show_before_a_key_is_made(key: Path) -> None:
    expect_one_sentence(
        run("id", "show"),
        3,
        f"key file {key}",
        "no such file",
        f"`signedwire id new {key}` makes one.\n",
    )


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
    assert "SIGNEDWIRE_PASSWORD" not in os.environ  # it was read once
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "correct horse")
    assert run("id", "show").stdout == made.stdout


def test_a_password_can_be_typed(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signedwire.cli.id_commands.has_terminal", lambda: True)  # the runner types
    made = run("id", "new", "--ask-password", given="correct\ncorrect\n")
    assert made.exit_code == 0
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "correct")
    assert run("id", "show").stdout == made.stdout.splitlines(True)[-1]


def test_password_options_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    expect_one_sentence(run("id", "new", "--password-env", "NOPE"), 2, "NOPE", "no such variable")
    both = run("id", "new", "--password-env", "HOME", "--ask-password")
    expect_one_sentence(both, 2, "exclude each other")
    monkeypatch.setattr("signedwire.cli.id_commands.has_terminal", lambda: True)
    assert run("id", "new", "--ask-password", given="").exit_code == 130


# -- where the key comes from -----------------------------------------------------


ALL_THAT_USE_A_KEY = [
    ["listen", "--timeout", "0.1"],
    ["send", f"{BOB}@127.0.0.1:9", "x"],
    ["ping", f"{BOB}@127.0.0.1:9", "--own-identity"],
    ["bench", f"{BOB}@127.0.0.1:9", "--own-identity"],
    ["outbox", "list"],
    ["dead", "list"],
    ["id", "show"],
]


@pytest.mark.parametrize("words", ALL_THAT_USE_A_KEY, ids=" ".join)
@pytest.mark.parametrize("where", ["option", "variable", "file"])
def test_no_key_is_made_where_a_path_was_given(
    words: list[str], where: str, tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "no pe.pem"
    if where == "option":
        words = [*words, "--identity", str(path)]
    elif where == "variable":
        monkeypatch.setenv("SIGNEDWIRE_IDENTITY", str(path))
    else:
        config = tmp_path / "node.toml"
        config.write_text(f"identity = {json.dumps(str(path))}\n")
        words = [*words, "--config", str(config)]
    ran = run(*words)
    expect_one_sentence(ran, 3, f"{path}: there is no such file", f"`signedwire id new '{path}'`")
    assert not path.exists()
    assert not key.exists()


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd")
@pytest.mark.parametrize(
    "words",
    [
        *ALL_THAT_USE_A_KEY,
        ["ping", f"{BOB}@127.0.0.1:9"],
        ["id", "new"],
        ["config", "show"],
        ["config", "check"],
    ],
    ids=" ".join,
)
def test_a_configuration_that_comes_by_a_pipe_is_read_once(
    words: list[str], tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--config <(cat node.toml)` a second read is empty, and would give the defaults."""
    read = Mock(wraps=settings.read_toml)
    monkeypatch.setattr(settings, "read_toml", read)
    path, store = tmp_path / "own.pem", tmp_path / "own.db"
    if words != ["id", "new"]:
        Identity.generate().save(path)
    reader, writer = os.pipe()
    os.write(writer, f'identity = "{path}"\nstore = "{store}"\nmax_attempts = 1\n'.encode())
    os.close(writer)
    ran = run(*words, "--config", f"/dev/fd/{reader}")
    os.close(reader)
    assert read.call_count == 1
    assert path.exists()
    assert store.exists() == (words[0] in ("listen", "send"))
    if words[0] in ("outbox", "dead"):
        expect_one_sentence(ran, 3, f"there is no store {store}")
    assert not key.exists()
    assert not (tmp_path / "state").exists()


def test_a_tilde_is_the_home_folder_in_every_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no shell has expanded it: behind a `=`, in quotes, in a unit file."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run("id", "new", "~/k.pem").exit_code == 0
    shown = run("id", "show", "--identity=~/k.pem", "--json").objects[0]
    assert shown["file"] == str(tmp_path / "k.pem")
    (tmp_path / "node.toml").write_text('evidence = "~/e.log"\n')
    (tmp_path / "peers.toml").write_text(f'[peers]\n"{shown["did"]}" = "127.0.0.1:1"\n')
    common = ("--identity=~/k.pem", "--config=~/node.toml", "--peers=~/peers.toml")
    ran = run("listen", *common, "--store=~/s.db", "--timeout", "0.05")
    assert ran.exit_code == 0, ran
    assert {"e.log", "k.pem", "s.db"} <= set(os.listdir(tmp_path))
    with listener() as bob:
        to = (f"{bob.did}@{bob.address}", "--file=~/peers.toml", "--proof=~/p")
        assert run("send", *to, *common, "--no-store").exit_code == 0
    assert run("verify", "~/p").exit_code == 0
    assert run("evidence", "verify", "~/e.log").exit_code == 0
    assert run("outbox", "export", "~/out", *common, "--store=~/s.db").exit_code == 0
    assert (tmp_path / "out").exists()
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY", "~/k.pem")
    monkeypatch.setenv("SIGNEDWIRE_PEERS", "~/none.toml")
    assert run("id", "show").exit_code == 0
    expect_one_sentence(run("peers"), 3, f"cannot read {tmp_path}/none.toml")
    for args in (("id", "new", "~nobody-here/k"), ("verify", "~nobody-here/p")):
        expect_one_sentence(run(*args), 3, "there is no user 'nobody-here'", "or ./~nobody-here")
    assert os.listdir(elsewhere) == []


def test_a_tilde_without_a_home_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/")
    for args in (("id", "new", "~/k.pem"), ("listen", "--identity", "~/k.pem"), ("verify", "~/p")):
        expect_one_sentence(run(*args), 3, "there is no home folder", "or set HOME")
    assert "~" not in os.listdir(tmp_path)


def test_a_path_beside_another_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pem"
    Identity.generate().save(path)
    pem = path.read_text()
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", pem)
    ran = run("listen", "--identity", path)
    expect_one_sentence(ran, 3, str(path), "SIGNEDWIRE_IDENTITY_KEY", "each name a key")
    expect_one_sentence(
        run("listen", "--identity", path, "--identity-fd", "7"), 3, "descriptor 7", "each name"
    )
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", pem)
    assert run("id", "show", path).exit_code == 0  # the file that was asked for
    assert "SIGNEDWIRE_IDENTITY_KEY" not in os.environ


def test_a_key_from_the_environment_has_no_path_and_is_not_shown(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity.generate()
    identity.save(tmp_path / "a.pem")
    pem = (tmp_path / "a.pem").read_text()
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", pem)
    (shown,) = run("id", "show", "--json").objects
    assert shown == {"did": str(identity.did), "did_hex": identity.did.hex(), "file": None}
    body = pem.splitlines()[1]
    for words in (["config", "show"], ["config", "show", "--json"], ["config", "check"]):
        monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", pem)
        ran = run(*words, "-v")
        assert ran.exit_code == 0
        assert body not in ran.stdout + ran.stderr
        assert "SIGNEDWIRE_IDENTITY_KEY" not in os.environ
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", pem.replace("-----END", "-----NED"))
    ran = run("listen", "-v", "--json")
    assert (ran.exit_code, "it is damaged" in ran.stderr) == (3, True)
    assert body not in ran.stderr
    assert not key.exists()


@pytest.mark.parametrize(
    "words", [*ALL_THAT_USE_A_KEY, ["id", "new"], ["config", "show"]], ids=" ".join
)
@pytest.mark.parametrize("fails", [False, True])
def test_secrets_are_forgotten_once_they_are_used(
    words: list[str], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", "no key" if fails else KEYS[0])
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "correct horse")
    kept: list[Secrets] = []

    def watched(source: KeySource, password: str | None = None) -> Identity:
        kept.append(keys._Taken.secrets)
        assert password == "correct horse"
        return loaded(source)

    loaded = KeySource.load
    monkeypatch.setattr(KeySource, "load", watched)
    run(*words)
    assert len(kept) == (words not in (["id", "new"], ["config", "show"]))
    for secrets in (*kept, keys._Taken.secrets):
        assert (secrets.key, secrets.password) == (None, None)


SEED = bytes(range(1, 33))
KEYS = [
    f"ed25519-seed:{SEED.hex()}",
    SEED.hex(),
    base64.b64encode(SEED).decode(),
    base64.b64encode(SEED).decode().rstrip("="),
    json.dumps({"kty": "OKP", "crv": "Ed25519", "d": SEED.hex()}),
    f"-----BEGIN PRIVATE KEY-----\n{base64.b64encode(SEED * 2).decode()}\n",
]


@pytest.mark.parametrize("text", KEYS, ids=range(len(KEYS)))
@pytest.mark.parametrize("has_variable", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        *([*words, "--identity", "KEY"] for words in ALL_THAT_USE_A_KEY),
        ["id", "show", "KEY"],
        ["id", "new", "KEY"],
        ["id", "new", "--identity", "KEY"],
        ["listen", "--identity-fd", "KEY"],
        ["listen", "KEY"],
    ],
    ids=" ".join,
)
def test_a_key_given_where_something_else_belongs_is_not_shown(
    words: list[str],
    has_variable: bool,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if has_variable:
        monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", f"ed25519-seed:{'5b' * 32}")
    before = sorted(tmp_path.rglob("*"))
    # A PEM begins as an option does, and `listen` takes no argument.
    is_usage = words[-2] != "--identity" and (words[0] == "listen" or text[0] == "-")
    ran = run(*(text if word == "KEY" else word for word in words), "-v")
    says = [] if "--identity-fd" in words else ["a key itself", "not shown"]
    expect_one_sentence(ran, 2 if is_usage else 3, *says)
    body = max(re.findall(r"[A-Za-z0-9+/=]+", text), key=len)
    assert body not in ran.stderr
    assert body[:12] not in ran.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name != "posix", reason="descriptors as POSIX has them")
def test_a_key_from_a_descriptor(tmp_path: Path) -> None:
    identity = Identity.generate()
    identity.save(tmp_path / "a.pem")
    script = f'exec "{sys.executable}" -m signedwire id show --identity-fd 7 7< a.pem'
    shown = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )
    assert shown.stdout.strip() == str(identity.did), shown
    expect_one_sentence(run("id", "show", "--identity-fd", "999"), 3, "descriptor 999", "not open")


def test_an_empty_file_at_the_default_path_is_none(key: Path, tmp_path: Path) -> None:
    key.parent.mkdir(parents=True)
    key.touch(0o600)
    ran = run("listen", "--timeout", "0.1", "--no-store")
    assert ran.exit_code == 0
    assert "made a new identity" in ran.stderr
    key.write_bytes(b"")
    assert run("id", "new").exit_code == 0
    assert run("id", "show").exit_code == 0
    other = tmp_path / "other.pem"  # somebody chose that name: it is left
    other.touch(0o600)
    expect_one_sentence(run("id", "new", other), 3, "never overwritten")
    expect_one_sentence(run("listen", "--identity", other), 3, "it is empty", f"`rm {other}`")


def test_a_group_readable_key_needs_the_option(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("id", "new")
    key.chmod(0o440)
    ran = run("id", "show")
    expect_one_sentence(ran, 3, "mode 0440", "key_group_readable", "--key-group-readable")
    # Below /tmp, which is sticky, nobody else can replace it.
    assert run("id", "show", "--key-group-readable").exit_code == 0
    assert run("id", "show", key, "--key-group-readable").exit_code == 0
    monkeypatch.setenv("SIGNEDWIRE_KEY_GROUP_READABLE", "true")
    assert run("id", "show").exit_code == 0
    monkeypatch.setenv("SIGNEDWIRE_KEY_GROUP_READABLE", "perhaps")
    expect_one_sentence(run("id", "show"), 3, "'perhaps' is not allowed", "true or false")
    monkeypatch.delenv("SIGNEDWIRE_KEY_GROUP_READABLE")
    config = tmp_path / "node.toml"
    config.write_text("key_group_readable = true\n")
    assert run("id", "show", "--config", config).exit_code == 0
    config.write_text('key_group_readable = "yes"\n')
    expect_one_sentence(run("id", "show", "--config", config), 3, "Expected true or false")


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
    assert settings["preset"] == {"name": "preset", "value": "production", "origin": str(path)}
    options = {*TransportConfig.__dataclass_fields__, *IDENTITY_OPTIONS}
    assert settings.keys() == {"preset", *options}


def test_config_check_accepts_what_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = tmp_path / "peers.toml"
    RoutingTable({BOB: "10.0.0.7:9001"}).save(peers)
    ran = run("config", "check", "--peers", peers)
    assert ran.stdout == f"ok: the defaults with the environment, 1 peer in {peers}\n"
    checked = run("config", "check", "--peers", peers, "--json").objects
    expected: dict[str, object] = {
        "ok": True,
        "config": None,
        "peers": str(peers),
        "routes": 1,
        "warnings": [],
    }
    assert checked == [expected]
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
