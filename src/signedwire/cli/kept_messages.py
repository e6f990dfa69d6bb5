"""Messages of `signedwire send` that stay in the store, because their peer is away."""

from __future__ import annotations

from typing import Final

from signedwire.cli.errors import About, NotDone, hint_about, hint_about_name, sentences
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.output import escape, say
from signedwire.cli.send_options import SendOptions
from signedwire.cli.store_choice import Chosen
from signedwire.delivery.receipt import Receipt
from signedwire.sync import Node
from signedwire.types import DeliveryState, Did, PeerState, Target

__all__ = ["KeptMessages"]

_NO_ADDRESS: Final = "no address is known for the peer yet"
_HOW_IT_GOES: Final = (
    "It is sent when `signedwire send DID@{form}` to this peer runs next, or with --peers FILE "
    "that has its address; after {days:g} days (`unmet_max_age`) it is given up"
)
_DAY: Final = 86_400.0


class KeptMessages:
    """The messages of one run that are left in the store for a later one.

    Args:
        options: The options of the command.
        node: The node that sends.
        did: The peer.
        address: The peer's address; `None`: it is not known.
        store: The store of the node.
    """

    def __init__(
        self, options: SendOptions, node: Node, did: Did, address: Target | None, store: Chosen
    ) -> None:
        self._options = options
        self._node = node
        self._did = did
        self._address = address
        self._store = store
        self._failed_before = 0
        self.receipts: list[Receipt] = []

    def keeps(self, receipt: Receipt, until: DeliveryState) -> bool:
        """Return whether a message is left in the store, because its peer is away.

        Raises:
            NotDone: the message is only stored, and the options require more.
        """
        if self._address is None:
            return self._keeps_without_address(receipt, until)
        status = self._node.peers()[self._did]
        if status.state is PeerState.CONNECTED:
            self._failed_before = status.failed_attempts
        failed = status.failed_attempts - self._failed_before
        if receipt.state is not DeliveryState.PERSISTED or failed < self._node.config.max_attempts:
            return False
        why = status.last_error or ""
        hint = hint_about(status.last_error_kind)
        if status.denies_us:
            fact = f"the peer does not let us in ({why})"
            hint = f"Ask its owner to let {self._node.did} in: it is sent when that is so"
            raise self._only_stored(receipt, until, fact, hint)
        if hint or self._options.until is not None or self._options.proof is not None:
            fact = f"the peer was not reached ({why})"
            raise self._only_stored(receipt, until, fact, hint or "It is sent when it can be")
        self._keep(receipt)
        return True

    def _keeps_without_address(self, receipt: Receipt, until: DeliveryState) -> bool:
        if receipt.state is not DeliveryState.PERSISTED:
            return False
        if self._options.until is not None or self._options.proof is not None:
            raise self._only_stored(receipt, until, _NO_ADDRESS, self._how_it_goes())
        self._keep(receipt)
        return True

    def _keep(self, receipt: Receipt) -> None:
        if receipt not in self.receipts:
            self.receipts.append(receipt)

    def _only_stored(self, receipt: Receipt, until: DeliveryState, why: str, hint: str) -> NotDone:
        return NotDone(
            f"message {receipt.message_id[:8]} to {self._did} is {receipt.state}, and not yet "
            f"{until}: {why}",
            sentences(hint, self._store.how_to_see_it),
            ExitCode.STORED,
            self._about(receipt),
        )

    def late(self, receipt: Receipt, until: DeliveryState, timeout: float) -> NotDone:
        """Return the error for a message that is not in state `until` after --timeout."""
        fact = (
            f"message {receipt.message_id[:8]} to {self._did} is {receipt.state} "
            f"after {timeout:g} s, and not yet {until}"
        )
        about = self._about(receipt)
        if about.store is not None:
            hint = f"It stays in the store and is sent later. {self._store.how_to_see_it}"
            return NotDone(fact, hint, ExitCode.STORED, about)
        hint = "Give it a longer --timeout, or see whether `signedwire ping` reaches it"
        return NotDone(fact, hint, ExitCode.NO_ANSWER, about)

    def _about(self, receipt: Receipt) -> About:
        """Return the data of a message for JSON; it is in the store until the peer answers."""
        is_answered = receipt.is_final or receipt.has_reached(DeliveryState.ACCEPTED)
        store = None if is_answered or self._store.path is None else str(self._store.path)
        return About(self._did, receipt.reason, self.last_error(), receipt.state, store)

    def last_error(self) -> str | None:
        """Return why the peer was not reached, as text; `None`: there was no error."""
        if self._address is None:
            return _NO_ADDRESS
        return self._node.peers()[self._did].last_error or None

    def say_when_sent(self) -> None:
        """Say on stderr when the messages in the store will be sent; nothing if there is none."""
        if not any(each.state is DeliveryState.PERSISTED for each in self.receipts):
            return
        if self._address is None:
            say(f"{_NO_ADDRESS}. {self._how_it_goes()}. {self._store.how_to_see_it}")
            return
        why, address = escape(self.last_error() or "it is away"), escape(str(self._address))
        fact = (
            f"the peer was not reached ({why}); the message is sent when `signedwire send "
            f"DID@{address}` to this peer, or `signedwire listen --peers FILE`, runs next"
        )
        name = hint_about_name(self._node.peers()[self._did].last_error_kind)
        say(sentences(fact, name, self._store.how_to_see_it).removesuffix("."))

    def _how_it_goes(self) -> str:
        config = self._node.config
        form = "unix:/path" if config.network == "unix" else "host:port"
        return _HOW_IT_GOES.format(form=form, days=config.unmet_max_age / _DAY)
