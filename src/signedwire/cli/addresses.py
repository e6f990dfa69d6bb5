"""The addresses of peers and of this node, and which peers may be spoken to over v1."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from signedwire.cli.common_options import CommonOptions
from signedwire.cli.errors import HOW_TO_NAME_PEER, BadInput
from signedwire.config import TransportConfig
from signedwire.errors import ConfigError
from signedwire.routing import RoutingTable
from signedwire.types import Address, Did, Target, parse_peer

__all__ = [
    "allow_v1",
    "command",
    "find_peer",
    "find_route",
    "forbid_v1",
    "is_v1_allowed",
    "listening_config",
    "no_address",
    "reachable",
]

_WILDCARDS: Final = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}
# Documentation addresses (RFC 5737, RFC 3849). Connecting a UDP socket to one sends nothing,
# but the kernel chooses the local address of the route.
_SOMEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def find_peer(to: str, options: CommonOptions, fallback: Target | None) -> tuple[Did, Target]:
    """Return the DID in `to`, which may be a name, and the peer's address.

    The address is the one in `to`, else that of the peers file, else `fallback`.

    Raises:
        BadInput: no address is known, or its port is 0.
        DidError, AddressError: `to` is malformed.
        ConfigError: the peers file cannot be used.
    """
    did, routing = find_route(to, options, fallback)
    address = routing.resolve(did)
    if address is None:
        raise no_address(did, options)
    return did, address


def find_route(
    to: str, options: CommonOptions, fallback: Target | None
) -> tuple[Did, RoutingTable]:
    """Return the DID in `to`, which may be a name, and a table with the route to the peer alone.

    The table is empty if no address is known: a store can keep the message. The route has the cap
    of the peers file if its address is that of the file.

    Raises:
        BadInput: the port of the address is 0.
        DidError, AddressError: `to` is malformed.
        ConfigError: the peers file cannot be used.
    """
    (did, address), max_rate = parse_peer(to, options.names.did_of), None
    if address is None and options.peers is not None:
        known = RoutingTable.load(options.peers, options.names)
        address, max_rate = known.resolve(did), known.max_rate(did)
    address = address or fallback
    if isinstance(address, Address) and address.port == 0:
        raise BadInput(f"nobody listens on port 0, as in {address}", "Write the peer's port")
    routing = RoutingTable()
    if address is not None:
        routing.update(did, address, max_rate=max_rate)
    return did, routing


def no_address(did: Did, options: CommonOptions) -> BadInput:
    """Return the error for a peer without a known address."""
    where = "and there is no peers file" if options.peers is None else f"nor in {options.peers}"
    return BadInput(
        f"no address is known for {options.names.in_words(did)}: none was given, {where}",
        HOW_TO_NAME_PEER,
    )


def is_v1_allowed(config: TransportConfig, did: Did) -> bool:
    """Return whether the configuration allows v1 with this peer."""
    # With v1 as the only wire, an empty list means all peers.
    is_all = config.v1_peers == "all" or (config.wire == "v1" and not config.v1_peers)
    return is_all or did in config.v1_peers


def allow_v1(config: TransportConfig, did: Did) -> TransportConfig:
    """Return the configuration with v1 allowed for this DID too."""
    if is_v1_allowed(config, did) or config.v1_peers == "all":
        return config
    return config.replace(v1_peers=[*config.v1_peers, did])


def forbid_v1(config: TransportConfig) -> TransportConfig:
    """Return the configuration with v1 for nobody; unchanged where v1 is the only wire."""
    return config if config.wire == "v1" else config.replace(v1_peers=())


def listening_config(options: CommonOptions, listen: str | None) -> TransportConfig:
    """Return the configuration of a command that listens.

    Args:
        options: The options of the command.
        listen: The value of --listen; `None`: listen where the configuration says.

    Raises:
        BadInput: there is no address to listen on, or it cannot be used.
    """
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


def command(config: TransportConfig) -> str:
    """Return the beginning of a command for a shell that uses the network of `config`."""
    if config.network == "tcp":
        return "signedwire"
    return f"SIGNEDWIRE_NETWORK={config.network} signedwire"


def reachable(address: Target) -> Target:
    """Return an address that others can dial, for a listener on all addresses of this machine."""
    if not isinstance(address, Address) or address.host not in _WILDCARDS:
        return address
    family = _WILDCARDS[address.host]
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_SOMEWHERE[family], 9))
        return Address(probe.getsockname()[0], address.port)
    return Address("127.0.0.1" if family is socket.AF_INET else "::1", address.port)
