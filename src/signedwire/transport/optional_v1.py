"""The v1 wire, if this installation has it. An installation for v2 alone has no package `v1`.

This is the one module outside of the package that imports it.
"""

from __future__ import annotations

from signedwire.delivery.endpoint import Endpoint
from signedwire.errors import ConfigError
from signedwire.transport.runtime import Runtime

try:
    from signedwire.transport.v1 import V1Wire
except ModuleNotFoundError as error:
    if error.name != "signedwire.transport.v1":
        raise  # a module that v1 itself needs
    V1Wire = None  # type: ignore[assignment, misc]

__all__ = ["new_v1_wire"]


def new_v1_wire(runtime: Runtime, endpoint: Endpoint) -> V1Wire:
    """Make the parts of v1 for a node that has peers of v1.

    Args:
        runtime: The surroundings of the parts of the node.
        endpoint: The sessions of all peers.

    Raises:
        ConfigError: this installation speaks v2 alone.
    """
    if V1Wire is None:
        raise ConfigError(
            "v1_peers is set, and this installation speaks v2 alone",
            "Remove v1_peers, or install signedwire with its package transport.v1",
        )
    return V1Wire(runtime, endpoint)
