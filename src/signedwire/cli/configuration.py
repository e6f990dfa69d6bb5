"""`signedwire config`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from signedwire.cli.output import emit, escape, result, say
from signedwire.cli.redaction import value_without_keys, without_keys
from signedwire.routing import RoutingTable
from signedwire.types import Address

if TYPE_CHECKING:
    from signedwire.cli.surface import ConfigCheck, ConfigShow

__all__ = ["check", "show"]


def show(options: ConfigShow) -> int:
    """`signedwire config show`: TOML, the origins as comments."""
    settings = [*options.settings.explain(), *options.settings.identity().values()]
    if options.json:
        for setting in settings:
            value = _plain(setting.value)
            origin = without_keys(setting.origin)
            emit({"name": setting.name, "value": value, "origin": origin})
        return 0
    # TOML has no null; the settings read "none" as None.
    lines = [
        (f"{s.name} = {json.dumps('none' if s.value is None else _plain(s.value))}", s.origin)
        for s in settings
    ]
    width = min(44, max(len(text) for text, _ in lines))
    for text, origin in lines:
        result(f"{text:<{width}}  # {escape(without_keys(origin))}")
    return 0


def check(options: ConfigCheck) -> int:
    """`signedwire config check`."""
    config = options.settings.config()
    routes = None if options.peers is None else len(RoutingTable.load(options.peers))
    if options.json:
        emit(
            {
                "ok": True,
                "config": None if options.config is None else str(options.config),
                "peers": None if options.peers is None else str(options.peers),
                "routes": routes,
            }
        )
        return 0
    source = "the defaults" if options.config is None else escape(str(options.config))
    peers = "" if routes is None else f", {routes} peers in {escape(str(options.peers))}"
    result(f"ok: {source} with the environment{peers}")
    if config.carrier == "memory":
        say("carrier = memory stays inside one process: `listen` and `send` will refuse it")
    return 0


def _plain(value: object) -> object:
    """`value` as JSON and TOML both have it; where it is a key, it is not shown."""
    if isinstance(value, (str, Address, Path)):
        return value_without_keys(str(value))
    if isinstance(value, Iterable):
        return sorted(str(item) for item in value)
    return value
