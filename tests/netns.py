"""A network namespace for one test: it has loopback and addresses that are not loopback.

    with namespace("192.0.2.1") as name:
        subprocess.run(inside(name, sys.executable, "-c", "…"))

Whatever runs inside reaches nothing outside. Connections from 192.0.2.1 to itself count
as those of one host, as loopback connections do not.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator

__all__ = ["inside", "namespace", "why_not"]


def why_not() -> str | None:
    """Why no namespace can be made here; `None`: one can."""
    if shutil.which("ip") is None:
        return "needs iproute2"
    if os.geteuid() != 0:
        return "needs root"
    name = f"signedwire-{secrets.token_hex(4)}"
    tried = _ip("netns", "add", name)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return None


@contextlib.contextmanager
def namespace(*addresses: str) -> Iterator[str]:
    """Make a namespace with these addresses; it is gone afterwards, whatever happens."""
    name = f"signedwire-{secrets.token_hex(4)}"
    _ip("netns", "add", name).check_returncode()
    try:
        _ip("-n", name, "link", "set", "lo", "up").check_returncode()
        for address in addresses:
            _ip("-n", name, "address", "add", f"{address}/32", "dev", "lo").check_returncode()
        yield name
    finally:
        _ip("netns", "del", name)


def inside(name: str, *command: str) -> list[str]:
    """The command line that runs `command` in a namespace."""
    return ["ip", "netns", "exec", name, *command]


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)
