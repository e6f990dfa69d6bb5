"""The age of a received message, by the clock offset of the link to its sender."""

from __future__ import annotations

from signedwire.arguments import as_seconds
from signedwire.delivery.age import age_of, check_age
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.message import Message
from signedwire.types import Reason, unix_time_us
from signedwire.wire.clock_offset import ClockOffset

__all__ = ["age", "check_within"]


def age(endpoint: Endpoint, message: Message) -> float | None:
    """Return the age of a message in seconds; `None`: not known. Any thread."""
    offset = _offset(endpoint, message)
    return None if offset is None else age_of(message.timestamp_us, unix_time_us(), offset)


def check_within(endpoint: Endpoint, message: Message, limit: float) -> Reason | None:
    """Return why a message is not in time, or `None`. Any thread. See `Node.check_within()`."""
    if limit is None:
        raise TypeError("limit=None is no number of seconds: a limit is needed, such as 0.3")
    seconds = as_seconds(limit, "limit")
    now_us, expires_at_us = unix_time_us(), message.expires_at_us
    if expires_at_us is not None and now_us >= expires_at_us:
        return Reason.EXPIRED
    if seconds is None:
        return None
    return check_age(message.timestamp_us, now_us, _offset(endpoint, message), seconds)


def _offset(endpoint: Endpoint, message: Message) -> ClockOffset | None:
    sender = message.proven_sender
    session = None if sender is None else endpoint.sessions.get(sender)
    return None if session is None else session.clock_offset
