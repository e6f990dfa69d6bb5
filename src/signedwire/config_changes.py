"""The options of `TransportConfig` as a type, for calls that take some of them by name.

So a type checker knows every option of `TransportConfig.production(…)` and `replace(…)`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict

from signedwire.subject_options import Subjects
from signedwire.types import Did, SignaturePolicy, Target

__all__ = ["ConfigChanges"]


class ConfigChanges(TypedDict, total=False):
    """Options by name, each with the type that `TransportConfig()` accepts.

    `**changes: Unpack[ConfigChanges]` gives these types to the arguments of a function of yours.
    All options may be missing.
    """

    listen: Target | str | None
    fallback: Target | str | None
    network: Literal["tcp", "unix", "memory"]
    signatures: SignaturePolicy | Literal["required", "if-present"]
    v1_peers: Literal["all"] | Iterable[Did | str]
    names: Mapping[str, Did | str]
    roles: Mapping[str, Iterable[Did | str]]
    allow: Iterable[Did | str] | None
    deny: Iterable[Did | str]
    access_file: str | os.PathLike[str] | None
    wire: Literal["auto", "v1"]
    max_payload_size: int
    credit_messages: int
    credit_bytes: int
    inbox_bytes: int
    ping_interval: float
    dead_timeout: float
    answer_timeout: float
    max_connections: int
    max_inbound_connections: int
    max_unproven_connections: int
    max_unproven_per_host: int
    send_queue_limit: int
    critical_reserve: int
    subjects: Subjects
    inbox_limit: int
    max_frame_size: int
    max_v1_payload_size: int
    store: str | os.PathLike[str] | None
    evidence: str | os.PathLike[str] | None
    evidence_max_bytes: int | None
    evidence_max_age: float | None
    evidence_keep: int | None
    ack: Literal["manual", "auto"]
    outbox_limit: int
    outbox_bytes: int
    outbox_peer_limit: int
    outbox_peer_bytes: int
    unmet_peer_limit: int
    unmet_peer_bytes: int
    unmet_bytes: int
    unmet_max_age: float
    dead_letter_limit: int
    dead_letter_bytes: int
    max_unacked_messages: int
    max_unacked_bytes: int
    max_unacked_peer_messages: int
    max_attempts: int
    retry_base_delay: float
    retry_max_delay: float
    retry_jitter: float
    connect_timeout: float | None
    handshake_timeout: float | None
    frame_timeout: float | None
    close_timeout: float
    replay_memory: int
    verify_threads: int | None
