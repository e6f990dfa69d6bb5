"""`signedwire send`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from signedwire.cli import keys
from signedwire.cli.addresses import allow_v1, find_route, forbid_v1, is_v1_allowed, no_address
from signedwire.cli.errors import BadInput
from signedwire.cli.line_sender import LineSender
from signedwire.cli.message_sender import MessageSender
from signedwire.cli.proof_file import proof_file
from signedwire.cli.send_options import SendOptions
from signedwire.cli.send_outcomes import too_long_for_v1
from signedwire.cli.send_payloads import given_payload, wrapper
from signedwire.cli.store_choice import NO_STORE, Chosen, choose, lock_of, open_or_do_without
from signedwire.config import TransportConfig
from signedwire.errors import DeliveryFailedError, FailureKind
from signedwire.identity import Identity
from signedwire.routing import RoutingTable
from signedwire.sync import Node
from signedwire.types import DeliveryState, Did, parse_peer

__all__ = ["send"]

_LEAST_TIMEOUT: Final = 0.05
"""Minimum seconds that are left of --timeout after waiting for the lock of the key."""


def send(options: SendOptions) -> int:
    """Send one message, or the lines of standard input."""
    v1_option = _check_usage(options)
    config = options.load_config().replace(listen=None, evidence=None)
    did, routing = find_route(options.to, options, config.fallback)
    address = routing.resolve(did)
    if address is None and options.no_store:
        raise no_address(did, options)
    if options.v1 or v1_option is not None:
        config = allow_v1(config, did)
    identity = keys.load_or_create(options)
    store = choose(options, identity.did)
    if store.path is None and options.until is DeliveryState.PERSISTED:
        raise BadInput("--until persisted needs a store", "Leave --no-store away")
    if address is None and store.path is None:
        raise no_address(did, options)
    with lock_of(identity.did, options.timeout) as lock:
        if options.timeout is not None and lock.waited > _LEAST_TIMEOUT:
            left = max(_LEAST_TIMEOUT, round(options.timeout - lock.waited, 2))
            options = dataclasses.replace(options, timeout=left)
        return _send(options, identity, config, did, routing, store)


def _send(
    options: SendOptions,
    identity: Identity,
    config: TransportConfig,
    did: Did,
    routing: RoutingTable,
    store: Chosen,
) -> int:
    wrap, address = wrapper(options, identity.did), routing.resolve(did)

    def make(path: Path | None) -> Node:
        # Without a store, a message that a peer has for this DID would be accepted and lost.
        credit = 0 if path is None else config.credit_messages
        return Node(identity, config.replace(store=path, credit_messages=credit), routing)

    if options.text == "-":
        node, store = open_or_do_without(store, make)
        return LineSender(MessageSender(options, node, did, address, store)).send(wrap)
    payload = wrap(given_payload(options))
    is_too_long = is_v1_allowed(config, did) and len(payload) > config.max_v1_payload_size
    # Live v1 peers drop such a payload silently, so it is sent over v2 or not at all.
    if is_too_long:
        config, store = forbid_v1(config), NO_STORE
    try:
        with proof_file(options.proof) as save:
            node, store = open_or_do_without(store, make)
            return MessageSender(options, node, did, address, store).send(payload, save)
    except DeliveryFailedError as error:
        has_hung_up = error.receipt.detail_kind is FailureKind.HUNG_UP_ON_TLS
        if is_too_long and address is not None and has_hung_up:
            raise too_long_for_v1(len(payload), config, address) from None
        raise


def _check_usage(options: SendOptions) -> str | None:
    """Return the option that chooses a v1 payload, if there is one.

    Raises:
        BadInput: options contradict each other, or there is nothing to send.
        DidError, AddressError: there is nothing to send, and no recipient either.
    """
    kinds = {
        "--agent-command": options.agent_command is not None,
        "--heartbeat": options.heartbeat,
        "--motion": options.motion is not None,
        "--llm-query": options.llm_query,
    }
    chosen = [name for name, is_given in kinds.items() if is_given]
    if len(chosen) > 1:
        raise BadInput(f"{' and '.join(chosen)} exclude each other", "Send them one by one")
    is_given = options.text is not None or options.file is not None
    if options.text is not None and options.file is not None:
        raise BadInput("TEXT and --file exclude each other", "Give one of them")
    if chosen and chosen[0] in ("--heartbeat", "--motion"):
        if is_given:
            raise BadInput(f"{chosen[0]} takes no TEXT and no --file", "Leave them away")
    elif not is_given and chosen != ["--agent-command"]:
        parse_peer(
            options.to, options.names.did_of
        )  # raises if the one word is the text, and the DID is missing
        raise BadInput(
            "there is nothing to send", "Give TEXT, --file FILE, or - for the lines of stdin"
        )
    if options.target and options.agent_command is None:
        raise BadInput("--target is the target of --agent-command", "Give both, or neither")
    if (options.system_prompt or options.model) and not options.llm_query:
        raise BadInput("--system-prompt and --model belong to --llm-query", "Add --llm-query")
    if options.proof is not None:
        _check_proof(options)
    return chosen[0] if chosen else None


def _check_proof(options: SendOptions) -> None:
    if options.text == "-":
        raise BadInput("--proof is for one message, and - sends many", "Send them one by one")
    if options.until not in (None, DeliveryState.ACCEPTED, DeliveryState.HANDLED):
        raise BadInput(
            f"--proof needs a receipt, and --until {options.until} does not wait for one",
            "Leave --until away",
        )
