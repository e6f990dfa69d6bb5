"""The networks of this package, by their names in a configuration."""

from __future__ import annotations

from typing import Final

from signedwire.config import TransportConfig
from signedwire.errors import ConfigError
from signedwire.transport.memory import MemoryNetwork
from signedwire.transport.network import Network
from signedwire.transport.tcp import TcpNetwork
from signedwire.transport.unix import UnixNetwork

__all__ = ["check_network", "network_of"]

_MEETING_PLACE: Final = MemoryNetwork()
"""The network of all nodes with `network="memory"` that were given no network object."""


def network_of(config: TransportConfig) -> Network:
    """Return the network that the configuration names.

    Raises:
        ConfigError: This platform does not have the network.
    """
    if config.network == "memory":
        return _MEETING_PLACE
    if config.network == "unix":
        try:
            return UnixNetwork()
        except NotImplementedError as error:
            raise ConfigError(f"network='unix' is not allowed: {error}") from None
    return TcpNetwork()


def check_network(network: object) -> None:
    """Check an argument `network`: it must be able to dial and listen.

    Raises:
        TypeError: The object lacks a method.
    """
    lacks = [name for name in ("dial", "listen") if not callable(getattr(network, name, None))]
    if network is not None and lacks:
        raise TypeError(
            f"network is a Network, not {type(network).__name__}, which has no "
            f"{' and no '.join(lacks)}: MemoryNetwork(seed=1), for example"
        )
