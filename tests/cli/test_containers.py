"""Each command and the library, in surroundings such as containers and init systems make."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import pytest
from clikit import LIMIT, isolate

from signedwire import Identity
from signedwire.sync import Node

ROOT = os.name == "posix" and os.geteuid() == 0
PYTHON = sys.executable
SERVICE_LINKS = {
    "SIGNEDWIRE_SERVICE_HOST": "10.0.0.11",
    "SIGNEDWIRE_SERVICE_PORT": "9001",
    "SIGNEDWIRE_PORT": "tcp://10.0.0.11:9001",
    "SIGNEDWIRE_PORT_9001_TCP": "tcp://10.0.0.11:9001",
    "SIGNEDWIRE_PORT_9001_TCP_ADDR": "10.0.0.11",
}
# Reading is left to it, as the Python of a test may be where only root can; writing is not.
STRANGER = (
    *("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
    *("--bounding-set=-all,+dac_read_search", "env", "-u", "HOME"),
)
READ_ONLY = 'for each in / /tmp /var/tmp /dev/shm "$HOME"; do mount --bind "$each" "$each" && '
READ_ONLY += 'mount -o remount,bind,ro "$each" || exit 99; done; cd /proc; exec "$@"'
NO_TEMP = "for each in /tmp /var/tmp /usr/tmp /dev/shm; do [ -d $each ] || continue; mount --bind "
NO_TEMP += '$each $each && mount -o remount,bind,ro $each || exit 99; done; cd /proc; exec "$@"'


def without(number: int) -> tuple[str, ...]:
    return ("sh", "-c", f'exec "$@" {number}<&-', "sh")


class Surroundings(NamedTuple):
    """Where something runs, and what is expected of it there."""

    before: tuple[str, ...] = ()
    """The command that starts the process."""
    variables: Mapping[str, str] = MappingProxyType({})
    codes: Mapping[str, int] = MappingProxyType({})
    """The exit codes that are not 0."""
    says: tuple[str, ...] = ()
    """One of these is what they say."""
    mode: int = 0o600
    """The mode of the key file."""


IN_NAMESPACE = ("unshare", "--mount", "--propagation=private", "sh", "-c")
STORING = {"listen": 3, "send": 3}
NO_HOME: Final = "there is no home folder. Give --identity and --store, or set HOME"
PLACES = {
    "plain": Surroundings(),
    "no home": Surroundings(variables={"HOME": ""}, codes=STORING, says=(NO_HOME,)),
    "home is /": Surroundings(variables={"HOME": "/"}, codes=STORING, says=(NO_HOME,)),
    "home is a file": Surroundings(
        variables={"HOME": "/dev/null"}, codes=STORING, says=("cannot make the folder",)
    ),
    "unknown uid": Surroundings(
        STRANGER,
        codes={**STORING, "id new": 3},
        says=(NO_HOME, "Permission denied"),
    ),
    "read-only root": Surroundings(
        (*IN_NAMESPACE, READ_ONLY, "sh"),
        codes={**STORING, "id new": 3},
        says=("Read-only file system",),
    ),
    "no temp folder": Surroundings(
        (*IN_NAMESPACE, NO_TEMP, "sh"),
        codes={**STORING, "id new": 3},
        says=("Read-only file system",),
    ),
    "stdin closed": Surroundings(without(0)),
    "stdout closed": Surroundings(without(1)),
    "stderr closed": Surroundings(without(2)),
    "all closed": Surroundings(("sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh")),
    "service links": Surroundings(variables=SERVICE_LINKS),
    "0440 key": Surroundings(
        mode=0o440, codes={**STORING, "id show": 3, "library": 2}, says=("0440",)
    ),
    "PID 1": Surroundings(("unshare", "--pid", "--fork", "--kill-child")),
}
NEEDS_ROOT = {"unknown uid", "read-only root", "no temp folder", "PID 1"}

LIBRARY = """
import sys
from signedwire import Identity, SignedWireError, load_config
from signedwire.sync import Node
try:
    identity = Identity.load(sys.argv[1])
    with Node(identity, load_config()) as a, Node(Identity.generate()) as b:
        a.routing.update(b.did, b.address)
        a.send(b.did, b"x", until="accepted")
        b.receive().ack()
except SignedWireError as error:
    sys.stderr.write(f"library: {error}\\n")
    sys.exit(2)
"""


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with Node(Identity.generate()) as node:
        yield f"{node.did}@{node.address}"


def why_not(name: str) -> str | None:
    """Why these surroundings cannot be made here."""
    if name in NEEDS_ROOT and not ROOT:
        return "needs root"
    program = PLACES[name].before[:1]
    if program and shutil.which(program[0]) is None:
        return f"needs {program[0]}"
    return None


COMMANDS: dict[str, Callable[[str, Path], list[str]]] = {
    "listen": lambda peer, folder: ["listen", "--timeout", "0.2"],
    "send": lambda peer, folder: ["send", peer, "hi"],
    "id show": lambda peer, folder: ["id", "show"],
    "id new": lambda peer, folder: ["id", "new", str(folder / "other.pem")],
    "library": lambda peer, folder: [],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", PLACES)
def test_it_works_or_says_in_one_sentence_why_not(
    place: str,
    command: str,
    peer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if (reason := why_not(place)) is not None:
        pytest.skip(reason)
    at = PLACES[place]
    isolate(tmp_path, monkeypatch)
    # Every user may look into it, as into no folder of pytest's.
    folder = Path(tempfile.mkdtemp(prefix="signedwire-test-"))
    request.addfinalizer(lambda: shutil.rmtree(folder))
    folder.chmod(0o755)
    key = folder / "key.pem"
    Identity.generate().save(key)
    key.chmod(at.mode)
    if at.before == STRANGER:
        os.chown(key, 12345, 12345)
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY", str(key))
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in at.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    arguments = COMMANDS[command](peer, folder)
    what = ["-m", "signedwire", *arguments] if arguments else ["-c", LIBRARY, str(key)]
    ran = subprocess.run(
        [*at.before, PYTHON, *what],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        stdin=subprocess.DEVNULL,
    )
    if ran.returncode == 99 or ran.stderr.startswith(("unshare:", "setpriv:")):
        pytest.skip(f"this system does not let us: {ran.stderr.strip()}")
    assert "Traceback" not in ran.stderr, ran
    assert "internal error" not in ran.stderr, ran
    assert ran.returncode == at.codes.get(command, 0), ran
    if ran.returncode:
        assert ran.stderr.count("\n") == 1, ran
        assert any(text in ran.stderr for text in at.says), ran
        assert ran.stdout == "", ran
    assert not (tmp_path / "~").exists()


@pytest.mark.skipif(not ROOT or not shutil.which("unshare"), reason="needs root and unshare")
@pytest.mark.parametrize("command", ["listen", "send"])
def test_sigterm_ends_the_first_process_of_a_container(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives PID 1 no default action for it."""
    key = isolate(tmp_path, monkeypatch)
    key.parent.mkdir(mode=0o755, parents=True)
    Identity.generate().save(key)
    away = f"{Identity.generate().did}@192.0.2.1:9"
    arguments = {
        "listen": ["listen", "--no-store", "--json"],
        "send": ["send", away, "-", "--no-store", "--json"],
    }[command]
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", PYTHON, "-m", "signedwire", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            until = time.monotonic() + LIMIT
            while not (found := children.read_text().split()):
                assert time.monotonic() < until
                time.sleep(0.02)
            if command == "listen":
                assert process.stdout is not None
                assert json.loads(process.stdout.readline())["event"] == "listening"
            else:
                caught = Path(f"/proc/{found[0]}/status")
                mask = 1 << (signal.SIGTERM - 1)
                while not _caught(caught) & mask:
                    assert time.monotonic() < until
                    time.sleep(0.02)
            os.kill(int(found[0]), signal.SIGTERM)
            assert process.wait(LIMIT) == 143
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def _caught(status: Path) -> int:
    """The signals that a process handles itself."""
    line = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
    return int(line.split()[1], 16)


@pytest.mark.skipif(
    not ROOT or not (shutil.which("unshare") and shutil.which("nsenter")),
    reason="needs root, unshare and nsenter",
)
def test_the_first_process_of_a_container_lets_orphans_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that `docker exec` starts and leaves behind become children of PID 1."""
    key = isolate(tmp_path, monkeypatch)
    key.parent.mkdir(mode=0o755, parents=True)
    Identity.generate().save(key)
    command = [PYTHON, "-m", "signedwire", "listen", "--no-store", "--json"]
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "listening"
            first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
            inside = ["nsenter", "--target", first, "--pid", "--mount", "sh", "-c"]
            orphans = subprocess.run(
                [*inside, "for i in 1 2 3; do (true & true &); done"], capture_output=True
            )
            if orphans.returncode:
                pytest.skip(f"this system does not let us: {orphans.stderr.decode()}")
            left = Path(f"/proc/{first}/task/{first}/children")
            until = time.monotonic() + LIMIT
            while left.read_text().split():
                assert time.monotonic() < until, "zombies are left"
                time.sleep(0.02)
            os.kill(int(first), signal.SIGTERM)
            assert process.wait(LIMIT) == 143
        finally:
            process.kill()
