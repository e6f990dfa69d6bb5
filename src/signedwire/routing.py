"""`RoutingTable`: the address of each DID, its cap, and the peers file that keeps them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any, Final, Self

from signedwire.arguments import as_rate, did_you_mean, rate_text, shown
from signedwire.environment import expand_home
from signedwire.errors import AddressError, ConfigError, DidError
from signedwire.names import Names
from signedwire.options import read_did, read_target
from signedwire.settings import read_toml
from signedwire.types import Address, Did, Target

__all__ = ["RoutingTable"]

_NO_NAMES: Final = Names()


class RoutingTable:
    """A map from DID to address. Any thread may read and change it at any time.

    A route may have a cap on the rate at which the node sends to the peer.
    Iterating yields pairs of DID and address, as they are when the iteration begins.

    Args:
        routes: The first routes, as a mapping or as pairs of DID and address. A DID is a `Did`
            or its text. An address is an `Address` or "host:port", or, for a network without
            hosts and ports, a `Location` or "scheme:/path". Port 0 is refused. Another table also
            gives its caps.

    Raises:
        DidError, AddressError: a DID or an address cannot be used. Every method with such an
            argument raises this, except `in`, which is then `False`.
    """

    def __init__(
        self,
        routes: Mapping[Did, Target | str]
        | Mapping[str, Target | str]
        | Iterable[tuple[Did | str, Target | str]] = (),
    ) -> None:
        self._lock = threading.Lock()
        self._routes: dict[Did, Target] = {}
        self._max_rates: dict[Did, float] = {}
        self._version = 0
        self._watchers: list[weakref.WeakMethod[Callable[[], None]]] = []
        for did, address in routes.items() if isinstance(routes, Mapping) else routes:
            self.update(did, address)
        if isinstance(routes, RoutingTable):
            self._max_rates = {did: rate for did, rate in routes._caps().items() if did in self}

    @property
    def version(self) -> int:
        """Number of changes so far. An update to the same address and cap is not a change."""
        return self._version

    def update(
        self,
        did: Did | str,
        address: Target | str,
        *,
        max_rate: float | str | EllipsisType | None = ...,
    ) -> None:
        """Set the address of `did`. A link that is open stays in use.

        Args:
            did: The DID of the peer.
            address: Its address.
            max_rate: The most bytes of messages per second that the node sends to the peer over
                v2, whichever side dialed. It is a number, or a text such as "2MB/s", "300 kB/s"
                or "64KiB/s", from 1 kB/s to 1000 GB/s. `None` means no cap. By default the cap
                stays as it was. A change also counts for an open link.

        Raises:
            DidError, AddressError: the DID or the address cannot be used.
            TypeError, ValueError: `max_rate` cannot be used.
        """
        did, address = read_did(did), _read_route(address)
        rate = max_rate if max_rate is ... else as_rate(max_rate)
        with self._lock:
            old = self._max_rates.get(did)
            new = old if rate is ... else rate
            if self._routes.get(did) == address and new == old:
                return
            self._routes[did] = address
            self._set_max_rate(did, new)
            self._version += 1
        self._tell()

    def _set_max_rate(self, did: Did, rate: float | None) -> None:
        if rate is None:
            self._max_rates.pop(did, None)
        else:
            self._max_rates[did] = rate

    def max_rate(self, did: Did | str) -> float | None:
        """Return the cap on what is sent to `did`, in bytes per second; `None`: no cap."""
        did = read_did(did)
        with self._lock:
            return self._max_rates.get(did)

    def _caps(self) -> dict[Did, float]:
        with self._lock:
            return dict(self._max_rates)

    def watch(self, method: Callable[[], None]) -> None:
        """Call a bound method after each change, in the thread of the change.

        The table has only a weak reference to the object of the method.
        """
        with self._lock:
            self._watchers.append(weakref.WeakMethod(method))

    def _tell(self) -> None:
        with self._lock:
            methods = [reference() for reference in self._watchers]
            if None in methods:
                self._watchers = [one for one in self._watchers if one() is not None]
        for method in methods:
            if method is not None:
                method()

    def remove(self, did: Did | str) -> bool:
        """Remove the route to `did`, and its cap. Returns whether there was one."""
        did = read_did(did)
        with self._lock:
            if self._routes.pop(did, None) is None:
                return False
            self._max_rates.pop(did, None)
            self._version += 1
        self._tell()
        return True

    def resolve(self, did: Did | str) -> Target | None:
        """Return the address of `did`, or `None` if it has no route."""
        did = read_did(did)
        with self._lock:
            return self._routes.get(did)

    def __iter__(self) -> Iterator[tuple[Did, Target]]:
        """Yield the routes as they are now; later changes have no effect."""
        with self._lock:
            return iter(list(self._routes.items()))

    def __contains__(self, did: object) -> bool:
        try:
            return isinstance(did, (Did, str)) and self.resolve(did) is not None
        except DidError:
            return False

    def __reduce__(self) -> tuple[type[Self], tuple[list[tuple[Did, Target]]], dict[str, Any]]:
        # A copy has the present routes and caps, a new lock, and no watchers.
        with self._lock:
            routes, caps = list(self._routes.items()), dict(self._max_rates)
        return type(self), (routes,), {"_max_rates": caps}

    def __len__(self) -> int:
        return len(self._routes)

    def __repr__(self) -> str:
        return f"<RoutingTable routes={len(self)} version={self.version}>"

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        names: Mapping[str, Did | str] = _NO_NAMES,
    ) -> Self:
        """Read the table `[peers]` of a TOML file, with lines `"DID" = "host:port"`.

        For a network without ports, an address is "scheme:/path". With a cap, a line is
        `"DID" = { address = "host:port", max_rate = "2MB/s" }`. The call blocks.

        Args:
            path: The file. By default the one that the variable SIGNEDWIRE_PEERS names, as for
                the command line; if it names none, the result is an empty table.
            names: Names that a line may have in place of a DID, such as `config.names`. By
                default there are none.

        Raises:
            ConfigError: the file cannot be used; the text has its path, the key and the cause.
        """
        path = path or os.environ.get("SIGNEDWIRE_PEERS")
        if not path:
            return cls()
        path = Path(path)
        document = read_toml(path)
        for key in document:
            if key != "peers":
                raise ConfigError(f"{path}: unknown key {key!r}", did_you_mean(key, ["peers"]))
        peers = document.get("peers", {})
        if not isinstance(peers, dict):
            raise ConfigError(
                f"{path}: peers={shown(peers)} is not a table",
                'Expected [peers], then "DID" = "host:port"',
            )
        table, find = cls(), Names(names).did_of
        for key, value in peers.items():
            try:
                did, (address, max_rate) = find(key), _read_peer(value, f"peers.{key}")
            except (DidError, AddressError) as error:
                raise ConfigError(f"{path}: peers.{key}: {error.fact}", error.hint) from None
            except ConfigError as error:
                raise ConfigError(f"{path}: {error.fact}", error.hint) from None
            if did in table:
                raise ConfigError(
                    f"{path}: peers.{key}: this DID has a route already, in another spelling "
                    "or by a name",
                    "Keep one of them",
                )
            table.update(did, address, max_rate=max_rate)
        return table

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the routes to a file for `load()`, sorted by DID. The call blocks.

        The file is replaced in one step: it has the old routes or the new ones, also after a
        crash. An existing file keeps its permissions.

        Raises:
            ConfigError: the file cannot be written, and is unchanged.
        """
        with self._lock:
            routes, caps = sorted(self._routes.items()), dict(self._max_rates)
        lines = [f'"{did}" = {_peer_text(address, caps.get(did))}\n' for did, address in routes]
        try:
            file = Path(os.path.realpath(expand_home(path)))
            _replace_file(file, "".join(["[peers]\n", *lines]).encode())
        except OSError as error:
            raise ConfigError(
                f"cannot write {path}: {error.strerror or error}",
                "Does the folder exist, and may this user write to it?",
            ) from None


def _replace_file(path: Path, content: bytes) -> None:
    # In the same folder, because os.replace is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_route(value: object) -> Target:
    target = read_target(value)
    if isinstance(target, Address) and target.port == 0:
        raise AddressError(
            f"'{target}' cannot be a route: no peer listens on port 0",
            "Write the port on which the peer listens",
        )
    return target


def _read_peer(value: object, key: str) -> tuple[Target, float | None]:
    """Return the address and the cap of one value of the peers file.

    Raises:
        AddressError: the address cannot be used.
        ConfigError: something else cannot; the text has the key.
    """
    if not isinstance(value, dict):
        return _read_route(value), None
    for name in value:
        if name not in ("address", "max_rate"):
            hint = did_you_mean(name, ["address", "max_rate"])
            raise ConfigError(f"{key}: unknown key {shown(name)}", hint)
    if "address" not in value:
        raise ConfigError(f"{key}: it has no address", 'Write address = "host:port"')
    try:
        max_rate = as_rate(value.get("max_rate"), f"{key}.max_rate")
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None
    return _read_route(value["address"]), max_rate


def _peer_text(address: Target, max_rate: float | None) -> str:
    """Return the value of one line of the peers file."""
    # JSON's escapes are a subset of those of a TOML basic string.
    text = json.dumps(str(address), ensure_ascii=False)
    if max_rate is None:
        return text
    rate = rate_text(max_rate)
    shown_rate = repr(max_rate) if rate is None else f'"{rate}"'
    return f"{{ address = {text}, max_rate = {shown_rate} }}"
