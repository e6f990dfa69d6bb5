"""Where a peer is reached, and over which wire; where we are."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

from signedwire.cli.errors import BadInput
from signedwire.config import TransportConfig
from signedwire.errors import ConfigError
from signedwire.routing import RoutingTable
from signedwire.types import Address, Did, Target, parse_peer

if TYPE_CHECKING:
    from signedwire.cli.surface import Command

__all__ = [
    "allow_v1",
    "find_peer",
    "find_route",
    "forbid_v1",
    "is_v1_allowed",
    "listening_config",
    "no_address",
    "reachable",
]

_WILDCARDS: Final = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}
# Documentation addresses (RFC 5737, 3849): connecting a UDP socket there sends nothing, but
# the kernel chooses the address that we are reached at.
_SOMEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def find_peer(to: str, options: Command, fallback: Target | None) -> tuple[Did, Target]:
    """The DID and the address in `to`; the address else from the peers file, or the fallback."""
    did, address = find_route(to, options, fallback)
    if address is None:
        raise no_address(did, options)
    return did, address


def find_route(to: str, options: Command, fallback: Target | None) -> tuple[Did, Target | None]:
    """As `find_peer`, where a store may keep a message until there is an address."""
    did, address = parse_peer(to)
    if address is None and options.peers is not None:
        address = RoutingTable.load(options.peers).resolve(did)
    address = address or fallback
    if isinstance(address, Address) and address.port == 0:
        raise BadInput(f"nobody listens on port 0, as in {address}", "Write the peer's port")
    return did, address


def no_address(did: Did, options: Command) -> BadInput:
    """The error for a peer that there is no way to."""
    where = "and there is no peers file" if options.peers is None else f"nor in {options.peers}"
    return BadInput(
        f"no address is known for {did}: none was given, {where}",
        "Write DID@host:port, or name the peer in a file given with --peers",
    )


def is_v1_allowed(config: TransportConfig, did: Did) -> bool:
    """Whether this DID may be spoken to over v1."""
    # Where v1 is the only wire, naming nobody means everybody.
    is_all = config.v1_peers == "all" or (config.wire == "v1" and not config.v1_peers)
    return is_all or did in config.v1_peers


def allow_v1(config: TransportConfig, did: Did) -> TransportConfig:
    """The configuration, with v1 allowed for this DID too."""
    if is_v1_allowed(config, did) or config.v1_peers == "all":
        return config
    return config.replace(v1_peers=[*config.v1_peers, did])


def forbid_v1(config: TransportConfig) -> TransportConfig:
    """The configuration, with v1 for nobody; where v1 is the only wire, as it is."""
    return config if config.wire == "v1" else config.replace(v1_peers=())


def listening_config(options: Command, listen: str | None) -> TransportConfig:
    """The configuration of a command that listens, there if it is given."""
    config = options.load_config()
    if listen is not None:
        try:
            config = config.replace(listen=listen)
        except ConfigError as error:
            raise BadInput(error.fact, error.hint) from None
    if config.listen is None:
        raise BadInput(
            "the configuration says listen = none, so there is nothing to listen on",
            "Give --listen HOST:PORT",
        )
    return config


def reachable(address: Target) -> Target:
    """An address that others can dial, where we listen on all of this machine's."""
    if not isinstance(address, Address) or address.host not in _WILDCARDS:
        return address
    family = _WILDCARDS[address.host]
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_SOMEWHERE[family], 9))
        return Address(probe.getsockname()[0], address.port)
    return Address("127.0.0.1" if family is socket.AF_INET else "::1", address.port)
