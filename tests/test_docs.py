"""What README and docs show is run: Python blocks as programs, shell blocks in terminals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = sorted({*DOCUMENTS, *ROOT.glob("*.md"), *ROOT.glob("examples/*.md")})
TIMEOUT = 30.0
# Long enough to hold a port, and to be found by its own prefix.
SEND_LINE = re.compile(r"(?:signedwire send|python hello_sender\.py) (\S+@127\.0\.0\.1:\d+)")
BENCH_LINE = re.compile(r"signedwire bench (\S+)@127\.0\.0\.1:\d+")
TARGET = re.compile(r"DID@\S+")


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    language: str
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for path in DOCUMENTS:
        lines = path.read_text().splitlines()
        start = None
        for number, line in enumerate(lines, 1):
            if not line.startswith("```"):
                continue
            if start is None:
                start = number
                continue
            language, _, info = lines[start - 1].removeprefix("```").partition(" ")
            text = "\n".join(lines[start : number - 1]) + "\n"
            found.append(Block(path.name, start + 1, language, info, text))
            start = None
        assert start is None, f"{path.name}: a block that begins at line {start} does not end"
    return found


ALL = blocks()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A fresh home, and the commands of this environment first."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SIGNEDWIRE")},
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.mark.parametrize(
    "block", [b for b in ALL if b.language == "python" and not b.info], ids=str
)
def test_python_blocks_run(block: Block, tmp_path: Path, environment: dict[str, str]) -> None:
    program = tmp_path / "block.py"
    program.write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, f"{block}:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "sh" and not b.info], ids=str)
def test_shell_blocks_run(block: Block, tmp_path: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euc", block.text],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, f"{block}:\n{done.stdout}{done.stderr}"
    assert done.stdout


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [("1", "2", "says: hello"), ("3", "4", "hello"), ("5", "6", "agent_command")],
)
def test_two_terminals(
    first: str, second: str, shown: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    """The first terminal prints the line that the reader pastes into the second."""
    if first == "5":
        omnimesh = pytest.importorskip("omnimesh", reason="omnimesh is not installed here")
        assert omnimesh
    for block in ALL:
        if block.language == "python" and block.info.startswith("file="):
            (tmp_path / block.info.removeprefix("file=")).write_text(block.text)
    (listening,) = [b for b in ALL if b.info == f"terminal {first}"]
    (sending,) = [b for b in ALL if b.info == f"terminal {second}"]
    listener = subprocess.Popen(
        ["bash", "-euc", f"exec {listening.text}"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(TIMEOUT, listener.kill)
    watchdog.start()
    try:
        assert listener.stdout is not None
        seen = []
        for line in listener.stdout:
            seen.append(line)
            if (match := SEND_LINE.search(line)) is not None:
                break
        else:
            pytest.fail(f"no line to paste in: {''.join(seen)}")
        done = subprocess.run(
            ["bash", "-euc", TARGET.sub(match[1], sending.text)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        rest = listener.stdout.read()
        assert listener.wait() == 0, rest
        assert shown in rest
    finally:
        watchdog.cancel()
        listener.kill()
        listener.communicate()


def test_a_bench_in_two_terminals(tmp_path: Path, environment: dict[str, str]) -> None:
    """As it is shown, but for its length."""
    (serving,) = [b for b in ALL if b.info == "terminal 7"]
    (measuring,) = [b for b in ALL if b.info == "terminal 8"]
    server = subprocess.Popen(
        ["bash", "-euc", f"exec {serving.text}"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(TIMEOUT, server.kill)
    watchdog.start()
    try:
        assert server.stderr is not None
        match = next(filter(None, map(BENCH_LINE.search, server.stderr)))
        command = measuring.text.replace("DID@", f"{match[1]}@").rstrip()
        done = subprocess.run(
            ["bash", "-euc", f"{command} --seconds 0.1 --rounds 1"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "messages lost: 0 of " in done.stdout
        server.send_signal(signal.SIGINT)
        assert "received" in server.stderr.read()
        assert server.wait() == 130
    finally:
        watchdog.cancel()
        server.kill()
        server.communicate()


def test_every_block_is_of_a_kind_that_is_run() -> None:
    for block in ALL:
        known = {"python", "sh", "toml", "text"}
        assert block.language in known, f"{block} is {block.language!r}"
    assert {b.info for b in ALL if b.language == "sh"} >= {"", "install", "terminal 1"}


@pytest.mark.parametrize("name", ["hello_listener.py", "hello_sender.py"])
def test_the_programs_of_the_readme_are_those_of_the_examples(name: str) -> None:
    (block,) = [b for b in ALL if b.info == f"file={name}"]
    assert block.text == (ROOT / "examples" / name).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not heading or heading in anchors(file), target
