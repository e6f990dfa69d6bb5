"""A private key that is given where something else belongs is never shown: {form} × {place}."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from clikit import Ran, isolate, run
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from signedwire import Identity
from signedwire.cli.app import _LogFormatter
from signedwire.cli.redaction import HIDDEN, value_without_keys, without_keys

# Its base64 begins with a letter or a digit: with / it would be a path from the root, which
# stays, and with - an option. Two slashes follow each other in it: a path loses one of them.
SEED = bytes([os.urandom(1)[0] % 248]) + os.urandom(11) + b"\xff\xff" + os.urandom(18)
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
IDENTITY = Identity.from_seed(SEED)
OTHER = Identity.from_seed(bytes(range(32)))
NO_PASSWORD = serialization.NoEncryption()
WINDOW = 10
# What a node makes where it is not there.
MADE = ("SIGNEDWIRE_STORE", "SIGNEDWIRE_EVIDENCE")


def private(encoding: serialization.Encoding, form: serialization.PrivateFormat) -> bytes:
    return KEY.private_bytes(encoding, form, NO_PASSWORD)


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


PEM = private(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8).decode()
SSH = private(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH).decode()
DER = base64.b64encode(
    private(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8)
).decode()
JWK = json.dumps({"kty": "OKP", "crv": "Ed25519", "d": url64(SEED), "x": url64(b"x" * 32)})
NAMED = {
    "PEM": PEM,
    "PEM with \\n as text": PEM.replace("\n", "\\n"),
    "PEM on one line": PEM.replace("\n", " "),
    "OpenSSH": SSH,
    "OpenSSH with \\n as text": SSH.replace("\n", "\\n"),
    "OpenSSH without its first line": SSH.partition("\n")[2],
    "JWK": JWK,
    "JWK of one member": json.dumps({"d": url64(SEED)}),
    "base64 of DER": DER,
    "a named seed": f"ed25519-seed:{SEED.hex()}",
    "a named seed in base64": f"Ed25519-Seed: {base64.b64encode(SEED).decode()}",
}
BARE = {
    "base64": base64.b64encode(SEED).decode(),
    "base64 for URLs": url64(SEED),
    "base64 of a pair": base64.b64encode(SEED + bytes(IDENTITY.did)).decode(),
    "hex of a pair": (SEED + bytes(IDENTITY.did)).hex(),
}
FORMS = NAMED | BARE
# 64 hex digits are hidden where they are a value by themselves.
VALUES = FORMS | {"hex": SEED.hex()}
SECRETS = [
    PEM.splitlines()[1][24:],
    "".join(SSH.splitlines()[3:-1])[:60],
    url64(SEED)[:-1],
    base64.b64encode(SEED).decode()[:-2],
    SEED.hex(),
]


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


def expect_no_secret(text: str) -> None:
    """Assert that a text has no ten characters of a secret, in any spelling."""
    plain = text.replace("\\n", "").replace("\\\\n", "").replace("\n", "")
    for secret in SECRETS:
        for start in range(len(secret) - WINDOW + 1):
            part = secret[start : start + WINDOW]
            assert part not in text, (SEED.hex(), part, text)
            assert part not in plain, (SEED.hex(), part, text)


def settings(name: str) -> Callable[[str, list[str]], list[Ran]]:
    def place(text: str, json_: list[str]) -> list[Ran]:
        os.environ[name] = text
        try:
            ran = [run("config", "show", *json_), run("config", "check", *json_)]
            if name in MADE:
                ran.append(run("listen", "--timeout", "0.1", *json_))
            return ran
        finally:
            del os.environ[name]

    return place


PLACES: dict[str, Callable[[str, list[str]], list[Ran]]] = {
    "a path": lambda text, json_: [run("id", "show", text, *json_)],
    "a peer": lambda text, json_: [run("send", text, "x", *json_)],
    "too many arguments": lambda text, json_: [run("send", "a", "b", text, *json_)],
    "a number": lambda text, json_: [run("send", "a", "b", "--deadline", text, *json_)],
    "--config": lambda text, json_: [run("config", "show", "--config", text, *json_)],
    "--store": lambda text, json_: [
        run("outbox", "list", "--store", text, *json_),
        run("send", f"{OTHER.did}@127.0.0.1:1", "x", "--store", text, *json_),
    ],
    "--peers": lambda text, json_: [run("config", "check", "--peers", text, *json_)],
    "a command": lambda text, json_: [run(text, *json_)],
    **{
        name: settings(f"SIGNEDWIRE_{name}")
        for name in ("STORE", "LISTEN", "EVIDENCE", "ACCESS_FILE", "ALLOW", "PRESET", "IDENTITY_FD")
    },
}


@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_a_key_in_a_wrong_place_is_not_shown(
    place: str, form: str, json_: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ran in PLACES[place](FORMS[form], json_):
        expect_no_secret(ran.stdout)
        expect_no_secret(ran.stderr)
        for line in (ran.stdout + ran.stderr).splitlines() if json_ else ():
            if line.startswith("{") or line in ran.stdout:
                json.loads(line)
    assert not [each for each in tmp_path.iterdir() if FORMS[form][:9] in each.name]


@pytest.mark.parametrize("form", VALUES)
def test_config_show_says_where_the_key_stands(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = VALUES[form].replace("\n", "\\n")
    monkeypatch.setenv("SIGNEDWIRE_STORE", text)
    lines = run("config", "show").stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("store =")]
    assert HIDDEN in line
    assert line.endswith("# environment SIGNEDWIRE_STORE")
    expect_no_secret(line)


def test_a_message_keeps_what_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_LISTEN", PEM)
    ran = run("config", "check")
    assert ran.stderr.startswith(
        f"signedwire: environment SIGNEDWIRE_LISTEN: listen='{HIDDEN}… is not allowed: "
        f"'{HIDDEN}…' is not an address."
    ), ran


@pytest.mark.parametrize("form", FORMS)
def test_a_key_in_a_record_of_the_log_is_not_shown(form: str) -> None:
    text = FORMS[form]
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("signedwire", 40, "f", 1, "cannot open %s", (text,), info)
    told = _LogFormatter("%(message)s").format(record)
    expect_no_secret(told)
    assert HIDDEN in told
    assert "Traceback" in told


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("size", [40, 60, 80])
def test_a_key_that_is_cut_off_is_not_shown(name: str, size: int) -> None:
    for cut in (NAMED[name][:size], repr(NAMED[name])[:size], json.dumps(NAMED[name])[:size]):
        expect_no_secret(without_keys(f"x={cut}… is not allowed"))


@pytest.mark.parametrize(
    "text",
    [
        str(IDENTITY.did),
        f"{IDENTITY.did}@127.0.0.1:9001",
        IDENTITY.did.hex(),
        "a" * 43,
        "/run/secrets/Signedwire-Identity-Key-Of-Al.pem",
        f"/{'Ab' * 21}",
        f"/tmp.x/{'Ab' * 21}",
        "what follows ed25519-seed: is not 32 bytes as hex or base64",
        "`(umask 077; (printf ed25519-seed:; cat FILE) > NEW)`",
        '{"error": "UsageError", "message": "no such option"}',
    ],
    ids=range(10),
)
def test_what_is_no_key_stays(text: str) -> None:
    assert without_keys(f"cannot open {text}: no such file") == (
        f"cannot open {text}: no such file"
    )
    assert without_keys(text) == text


def test_a_path_from_the_root_is_a_path() -> None:
    for path in (f"/{'Ab' * 21}", f"/run/secrets/{'a' * 30}", "x.db", "~/x.db"):
        assert value_without_keys(path) == path
    assert value_without_keys(SEED.hex()) == HIDDEN
