"""Policies: rules about which received messages a node accepts, over both wires.

A policy decides about each message whose signature was verified and that was not accepted before.
It does so before the receipt is signed, and before the store, the evidence log and the application
have the message. `AccessList` is the first policy, and each node has one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol

from signedwire.logs import FATAL, EventLog, fields
from signedwire.types import ControlType, Did, Kind, PayloadType, Priority, Reason, known_did
from signedwire.wire.header import (
    MAX_PAYLOAD_TYPE,
    PAYLOAD_TYPE,
    PRIORITY,
    V1_HEADER_SIZE,
    control_type_of,
    expiry_of,
    kind_of,
    payload_start,
    recipient_of,
    sender_of,
    subject_of,
)
from signedwire.wire.link_frames import REASON_CODES

__all__ = ["AdmissionContext", "MessageHeader", "Policies", "Policy", "check_policy", "header_of"]


class MessageHeader(NamedTuple):
    """The header of a received message, for a policy."""

    sender: Did
    """The DID that the message names as its sender; `AdmissionContext.is_proven` tells whether a
    signature proves it."""
    recipient: Did
    """The DID of the recipient, which is this node."""
    priority: Priority
    """The lane that the sender chose."""
    payload_type: PayloadType
    """The type of the payload, as declared by the sender."""
    payload_size: int
    """Size of the payload in bytes."""
    expires_at: float | None
    """The deadline: Unix time in seconds; `None`: the message has none."""
    kind: Kind = Kind.MESSAGE
    """The kind of the message; every v1 message is `Kind.MESSAGE`."""
    subject: str = ""
    """The subject of the message; empty in v1. It may have characters that are not printable."""
    control_type: ControlType | None = None
    """The type of a control message: SUBSCRIBE or UNSUBSCRIBE, for its subject. Else `None`."""


class AdmissionContext(NamedTuple):
    """The way in which a message came."""

    wire: Literal["v1", "v2"]
    """The wire of the connection."""
    is_proven: bool
    """Whether a signature proves the sender. Always true over v2."""


class Policy(Protocol):
    """A rule about received messages. Write one, and pass it to `Node(policy=…)`."""

    def admit(self, header: MessageHeader, context: AdmissionContext) -> Reason | None:
        """Decide about one message: `None` admits it, a reason refuses it.

        The node calls this in its event loop, once for each message, so it must return within
        microseconds and must not block. The sender gets the reason. A reason without a code
        on the wire is sent as "not allowed". If this raises, the message is refused as "not
        allowed" and the error is logged. So is any result but `None` and a `Reason`; each
        type of such a result is logged once.
        """


def check_policy(policy: object) -> None:
    """Check an argument `policy`: an object with a method `admit`, or `None`.

    Raises:
        TypeError: the object has no such method, the method is `async`, or it is a class.
    """
    if policy is None:
        return
    admit = getattr(policy, "admit", None)
    if isinstance(policy, type):
        fault = f"the class {policy.__name__}: make an object of it, {policy.__name__}(…)"
    elif not callable(admit):
        fault = f"{type(policy).__name__}, which has no method admit(header, context)"
    elif inspect.iscoroutinefunction(admit):
        fault = f"{type(policy).__name__}, whose admit() is async: write it with a plain `def`"
    else:
        return
    raise TypeError(f"policy is a Policy, not {fault}")


_V2: Final = AdmissionContext("v2", is_proven=True)


class Policies:
    """The policies of one node, asked in order. The first reason counts.

    Args:
        policies: The policies.
        log: Receives the errors of policies that raise.
    """

    __slots__ = ("_log", "_policies", "_wrong")

    def __init__(self, policies: Sequence[Policy], log: EventLog) -> None:
        self._policies = tuple(policies)
        self._log = log
        self._wrong: set[str] = set()  # names of the types of wrong results

    def __bool__(self) -> bool:
        """Whether there is a policy."""
        return bool(self._policies)

    def admit(self, header: MessageHeader, context: AdmissionContext) -> Reason | None:
        """Return the reason to refuse a message, with a code on the wire; `None` admits it."""
        for policy in self._policies:
            try:
                reason = policy.admit(header, context)
            except FATAL:
                raise
            except BaseException as error:  # noqa: BLE001 - also the CancelledError of asyncio
                extra = fields("policy failed", peer=header.sender, error=type(error).__name__)
                self._log.exception(
                    "policy %r failed, so the message from %s is refused",
                    policy,
                    header.sender,
                    extra=extra,
                )
                return Reason.NOT_ALLOWED
            if reason is None:
                continue
            # Text equals a Reason, so the type is compared.
            if type(reason) is not Reason:
                self._log_wrong(policy, reason)
                return Reason.NOT_ALLOWED
            return reason if reason in REASON_CODES else Reason.NOT_ALLOWED
        return None

    def _log_wrong(self, policy: Policy, result: object) -> None:
        """Log a result that is neither `None` nor a `Reason`, once for each type."""
        kind = type(result).__name__
        if kind not in self._wrong:
            self._wrong.add(kind)
            self._log.error(
                "policy %r returned %s, so the message is refused as not allowed, and so is each "
                "further one with such a result: return None to admit, or a Reason to refuse",
                policy,
                f"a {kind}" if not isinstance(result, bool) else result,
                extra=fields("policy failed", error=kind),
            )

    def admit_v2(self, body: bytes) -> Reason | None:
        """Decide as `admit()` does. `body` is the header and payload of a v2 message."""
        return self.admit(header_of(body, is_v2=True), _V2)


def header_of(body: bytes, *, is_v2: bool = False) -> MessageHeader:
    """Return the header of a verified message, for a policy.

    Args:
        body: Header and payload.
        is_v2: Whether the message came by v2.
    """
    expires_at_us = expiry_of(body) if is_v2 else None
    kind = kind_of(body) if is_v2 else Kind.MESSAGE
    return MessageHeader(
        known_did(sender_of(body)),
        known_did(recipient_of(body)),
        Priority(body[PRIORITY]),
        PayloadType(min(body[PAYLOAD_TYPE], MAX_PAYLOAD_TYPE)),
        len(body) - (payload_start(body) if is_v2 else V1_HEADER_SIZE),
        None if expires_at_us is None else expires_at_us / 1e6,
        kind,
        subject_of(body) if is_v2 else "",
        control_type_of(body) if kind is Kind.CONTROL else None,
    )
