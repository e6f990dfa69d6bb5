"""The payloads of `signedwire send`: the given bytes, or a v1 payload around them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from signedwire.cli.errors import BadFile, BadInput
from signedwire.cli.send_options import SendOptions
from signedwire.types import Did

__all__ = ["Wrap", "given_payload", "wrapper"]

Wrap: TypeAlias = Callable[[bytes], bytes]
"""Makes a payload from the given bytes."""


def given_payload(options: SendOptions) -> bytes:
    """Return the bytes of TEXT or of --file.

    Raises:
        BadFile: the file cannot be read.
    """
    if options.file is None:
        # surrogateescape gives back the bytes that were typed.
        return (options.text or "").encode("utf-8", "surrogateescape")
    return _read_file(options.file)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            # One byte more than the largest payload that any configuration allows.
            return file.read(2**28 + 1)
    except OSError as error:
        raise BadFile(
            f"cannot read {path}: {error.strerror}", "Does the file exist, and may you read it?"
        ) from None


def wrapper(options: SendOptions, did: Did) -> Wrap:
    """Return the function that makes payloads, as the options for v1 payloads say.

    Without such an option, it returns the given bytes unchanged.

    Args:
        options: The options of the command.
        did: Our DID, for a heartbeat.

    Raises:
        ImportError: a v1 payload is wanted, and the extra for payloads is not installed.
    """
    is_v1 = options.llm_query or options.heartbeat
    if not is_v1 and options.agent_command is None and options.motion is None:
        return lambda given: given
    from signedwire import payloads

    def wrap(given: bytes) -> bytes:
        message: payloads.Payload
        if options.agent_command is not None:
            message = payloads.AgentCommand(
                command_type=options.agent_command,
                target_did=options.target.encode("utf-8", "surrogateescape"),
                payload=given,
            )
        elif options.llm_query:
            message = payloads.LlmQuery(
                prompt=_text(given), system_prompt=options.system_prompt, model=options.model
            )
        elif options.motion is not None:
            (lx, ly, lz), (ax, ay, az) = options.motion.linear, options.motion.angular
            message = payloads.MotionCommand(
                linear=payloads.Vector3(x=lx, y=ly, z=lz),
                angular=payloads.Vector3(x=ax, y=ay, z=az),
            )
        else:
            uptime_ms = int(time.monotonic() * 1000)
            message = payloads.Heartbeat(sender_did=bytes(did), uptime_ms=uptime_ms)
        return payloads.encode(message)

    return wrap


def _text(given: bytes) -> str:
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        raise BadInput(
            f"a prompt is UTF-8 text, and byte {error.start} of this one is not",
            "Convert it, or send the bytes without --llm-query",
        ) from None
