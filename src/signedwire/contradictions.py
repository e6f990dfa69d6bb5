"""Checks of `TransportConfig` that concern two options: values that contradict each other.

An option that has no effect in one node is allowed, because several commands share one
configuration file, and not each of them listens or has a store. A limit at its default never
contradicts another limit, so that one limit can be set without the others.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from signedwire.arguments import shown
from signedwire.environment import expand_home
from signedwire.errors import ConfigError
from signedwire.types import Address, Target
from signedwire.wire.envelope import ENVELOPE_OVERHEAD
from signedwire.wire.header import MAX_V2_HEADER_SIZE

__all__ = ["PAIRS", "check_given_once", "check_pairs"]

V1_OVERHEAD: Final = ENVELOPE_OVERHEAD
"""Bytes of a v1 frame around an empty payload: header and signature."""
V2_OVERHEAD: Final = MAX_V2_HEADER_SIZE
"""Bytes of the longest v2 header, which count as the envelope's."""


class _Options(Protocol):
    """The options of `TransportConfig` that this module reads as attributes.

    All others are read by `getattr()`, with a name from a table below.
    """

    @property
    def listen(self) -> Target | None: ...

    @property
    def fallback(self) -> Target | None: ...

    @property
    def max_frame_size(self) -> int: ...

    @property
    def max_payload_size(self) -> int: ...

    @property
    def max_v1_payload_size(self) -> int: ...

    @property
    def ping_interval(self) -> float: ...

    @property
    def dead_timeout(self) -> float: ...


def check_pairs(config: _Options, defaults: dict[str, object]) -> None:
    """Refuse two options that contradict each other.

    Args:
        config: The configuration.
        defaults: The default of every option, by name.

    Raises:
        ConfigError: two options do. The text has both names and values, and what is allowed.
    """
    for pair in PAIRS:
        value, limit = getattr(config, pair.name), getattr(config, pair.other)
        if value is None or limit is None or not pair.is_wrong(value, limit):
            continue
        if pair.is_wrong is _is_more and value == defaults[pair.name]:
            continue
        raise ConfigError(
            f"{pair.name}={shown(value, 200)} {pair.why} {pair.other}={shown(limit, 200)}",
            pair.expected,
        )
    _check_v1_payload(config)
    _check_pings(config)
    _check_messages_fit(config, defaults)
    _check_fallback(config)
    _check_files(config)


def check_given_once(name: str, argument: object, option: Path | None) -> None:
    """Refuse an argument of `Node()` that differs from the same option in its configuration.

    Args:
        name: "store" or "evidence".
        argument: The path that was passed to `Node()`, or None.
        option: The path in the configuration, or None.

    Raises:
        ConfigError: the two are different files, or the home folder that `~` means in
            `argument` is unknown.
    """
    if argument is None or option is None or not isinstance(argument, (str, os.PathLike)):
        return
    if expand_home(argument) != option:
        raise ConfigError(
            f"Node() has {name}={str(argument)!r}, and its config has {name}={str(option)!r}",
            "Pass the path in one of the two places",
        )


class Pair(NamedTuple):
    """Two options that can contradict each other."""

    name: str
    other: str
    is_wrong: Callable[..., bool]
    """Function of the two values: whether they contradict each other."""
    why: str
    """Text that stands between the two options in the error."""
    expected: str
    """Text about the allowed values, for the error."""


def _is_more(value: float, limit: float) -> bool:
    return value > limit


def _is_auto_over_v1(ack: str, wire: str) -> bool:
    return ack == "auto" and wire == "v1"


def _within(inner: str, outer: str, one: str, all_of_them: str) -> Pair:
    """Return the rule that the limit `inner` is at most the limit `outer`."""
    why = f"lets {one} have more than {all_of_them},"
    return Pair(inner, outer, _is_more, why, f"Expected at most {outer}")


_ONE_PEER: Final = ("one peer", "all peers together")
_UNMET: Final = ("peers never met", "all peers together")
PAIRS: Final[tuple[Pair, ...]] = (
    Pair(
        *("retry_base_delay", "retry_max_delay", _is_more),
        "is a longer pause than the longest,",
        "Expected a retry_max_delay of at least retry_base_delay",
    ),
    _within("max_unproven_per_host", "max_unproven_connections", "one host", "all hosts together"),
    _within("outbox_peer_limit", "outbox_limit", *_ONE_PEER),
    _within("outbox_peer_bytes", "outbox_bytes", *_ONE_PEER),
    _within("unmet_peer_bytes", "unmet_bytes", *_ONE_PEER),
    _within("unmet_peer_limit", "outbox_peer_limit", "a peer never met", "any other peer"),
    _within("unmet_peer_bytes", "outbox_peer_bytes", "a peer never met", "any other peer"),
    _within("unmet_bytes", "outbox_bytes", *_UNMET),
    _within(
        "max_unacked_peer_messages", "max_unacked_messages", "one sender", "all senders together"
    ),
    Pair(
        *("ack", "wire", _is_auto_over_v1),
        "makes the node answer with receipts, and the only wire has none:",
        'Leave ack at "manual", or wire at "auto"',
    ),
)
"""Every pair, except those whose rule has a number: see the functions below."""
_HOLD_A_MESSAGE: Final = (
    "credit_bytes",
    "inbox_bytes",
    "outbox_bytes",
    "outbox_peer_bytes",
    "max_unacked_bytes",
    "unmet_bytes",
    "unmet_peer_bytes",
)
"""Limits that must be at least the size of one message of `max_payload_size`."""
_UNLESS_DEFAULT: Final = ("unmet_bytes", "unmet_peer_bytes")
"""Limits that are not checked at their default, because only a store uses them and their
default is below the largest allowed `max_payload_size`."""


def _check_v1_payload(config: _Options) -> None:
    most = config.max_frame_size - V1_OVERHEAD
    if config.max_v1_payload_size > most:
        raise ConfigError(
            f"max_v1_payload_size={config.max_v1_payload_size} does not fit into a frame of "
            f"max_frame_size={config.max_frame_size}",
            f"Expected at most {most}, which is max_frame_size - {V1_OVERHEAD}",
        )


def _check_pings(config: _Options) -> None:
    if config.dead_timeout <= config.ping_interval:
        raise ConfigError(
            f"dead_timeout={config.dead_timeout} is not more than "
            f"ping_interval={config.ping_interval}, so a silent link would end before its PING",
            "Expected about three times ping_interval",
        )


def _check_messages_fit(config: _Options, defaults: dict[str, object]) -> None:
    """Each limit in bytes must hold one message of the largest size."""
    least = config.max_payload_size + V2_OVERHEAD
    for name in _HOLD_A_MESSAGE:
        if name in _UNLESS_DEFAULT and getattr(config, name) == defaults[name]:
            continue
        if getattr(config, name) < least:
            raise ConfigError(
                f"{name}={getattr(config, name)} is less than one message of "
                f"max_payload_size={config.max_payload_size} needs, so none could be sent",
                f"Expected at least {least}, "
                f"which is max_payload_size + {V2_OVERHEAD}; or lower max_payload_size",
            )


def _check_fallback(config: _Options) -> None:
    fallback = config.fallback
    if fallback is None:
        return
    if isinstance(fallback, Address) and fallback.port == 0:
        raise ConfigError(
            f"fallback={str(fallback)!r} is not allowed: a node cannot be dialed at port 0",
            "Expected a port from 1 to 65_535",
        )
    if fallback == config.listen:
        raise ConfigError(
            f"fallback={str(fallback)!r} is not allowed: "
            "it is `listen`, so messages would come back to this node",
            "Expected another node's host:port, or None",
        )


_FILES: Final = ("store", "evidence", "access_file")
_BESIDE: Final = {
    "store": re.compile(r"-(wal|shm|journal|unfinished)"),
    "evidence": re.compile(r"\.(new|torn-.*|\d{12,}(\.gz)?)", re.DOTALL),
}
"""Suffixes that a node appends to the path of an option, for further files of its own."""


def _check_files(config: _Options) -> None:
    """Refuse a file that is named by two options, or that the node makes beside another."""
    paths = {name: path for name in _FILES if (path := getattr(config, name)) is not None}
    for name, other in combinations(paths, 2):
        if _is_same_file(paths[name], paths[other]):
            raise ConfigError(
                f"{name}={shown(paths[name], 200)} is the same file as "
                f"{other}={shown(paths[other], 200)}",
                "Give each a file of its own",
            )
    for name, other in permutations(paths, 2):
        path, beside = os.path.realpath(paths[name]), os.path.realpath(paths[other])
        end = _BESIDE.get(name)
        if end and beside.startswith(path) and end.fullmatch(beside, len(path)):
            raise ConfigError(
                f"{other}={shown(paths[other], 200)} has a name that "
                f"the node uses for files beside {name}={shown(paths[name], 200)}",
                "Choose another name",
            )


def _is_same_file(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):  # a file that does not exist yet: compare the paths
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)
