"""The end of a v2 link: the last bytes, the reason that is counted and logged, and who is told."""

from __future__ import annotations

import ssl

from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.ports import LinkPort
from signedwire.errors import Cause, DidProofError, FailureKind
from signedwire.logs import fields
from signedwire.transport import link_errors
from signedwire.transport.inbound import InboundConnection
from signedwire.transport.link_input import LinkInput
from signedwire.transport.link_output import LinkOutput
from signedwire.transport.link_ports import LinkDialerPort
from signedwire.transport.link_socket import LinkSocket
from signedwire.transport.link_state import LinkState
from signedwire.transport.runtime import Runtime
from signedwire.transport.session_timer import SessionTimer
from signedwire.types import Reason, unix_time_us, utc_text
from signedwire.wire.session import Closed

__all__ = ["LinkEnd"]


class LinkEnd:
    """Ends one link.

    The methods take the link. It is no field, or the garbage collector alone could free it.

    Args:
        runtime: The surroundings of all parts of the node.
        endpoint: The sessions of all peers.
        state: The state of the link.
        input_: The receiving side of the link.
        timer: The timer of its session.
        output: The sending side of the link.
        socket: The socket of the link.
        inbound: The admission of an accepted connection.
        dialer: The dialer of the link.
    """

    __slots__ = (
        "_dialer",
        "_endpoint",
        "_inbound",
        "_input",
        "_output",
        "_runtime",
        "_socket",
        "_state",
        "_timer",
    )

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        state: LinkState,
        input_: LinkInput,
        timer: SessionTimer,
        output: LinkOutput,
        socket: LinkSocket,
        inbound: InboundConnection | None,
        dialer: LinkDialerPort | None,
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._state = state
        self._input = input_
        self._timer = timer
        self._output = output
        self._socket = socket
        self._inbound = inbound
        self._dialer = dialer

    # -- ways to end ------------------------------------------------------------------------

    def end_session(self, link: LinkPort, closed: Closed) -> None:
        """Write the answers that are left and the CLOSE, end the link, and hang up."""
        if self._state.is_over:
            return
        self._output.is_held = False
        peer_session = self._state.peer_session
        if peer_session is not None and peer_session.receiver.answers.link is link:
            peer_session.receiver.answers.flush()
        self._output.sign_receipts()
        self._output.flush()
        cause = link_errors.cause_of_close(closed)
        if closed.is_by_peer and cause.kind is FailureKind.CLOCKS_DIFFER:
            self._log_clocks(cause)
        self.end(link, cause, closed)
        self.hang_up()

    def _log_clocks(self, cause: Cause) -> None:
        """Log that the DID proof of this node has expired by the clock of the peer."""
        did, address = self._state.did, self._socket.address
        self._runtime.log.warning(
            "%s (%s) ended a link: %s; our clock says %s",
            did,
            address,
            cause,
            utc_text(unix_time_us()),
            extra=fields("clocks differ", peer=did, address=address),
        )

    def fail_tls(self, link: LinkPort, error: ssl.SSLError | DidProofError) -> None:
        """End the link: the other side has proven no DID, or has broken TLS, or is full."""
        may_be_full = self._state.is_dialed and not self._state.is_open
        cause = link_errors.cause_of_failed_proof(error, may_be_full=may_be_full)
        if cause.kind is FailureKind.FULL:
            self.end(link, cause)
            self.hang_up()
        else:
            reason = Reason.BAD_IDENTITY if self._state.did is None else Reason.PROTOCOL_ERROR
            self.fail(link, reason, cause)

    def fail(self, link: LinkPort, reason: Reason, cause: Cause, *, is_logged: bool = True) -> None:
        """End the link, after the alert that TLS may have to send; count and log what is wrong."""
        host = "" if self._inbound is None else self._inbound.host
        self._runtime.drop(reason, self._state.did, host)
        if host and is_logged:
            self._runtime.drops.log_closed(host, reason, cause)
        self._output.flush()
        self.end(link, cause)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection once its last bytes are sent."""
        self._socket.hang_up(is_node_open=self._runtime.is_open)

    def end(self, link: LinkPort, cause: Cause, closed: Closed | None = None) -> None:
        """Stop the parts, note the end, and tell the peer's session and the dialer. Once.

        Args:
            link: The link.
            cause: Why it ends.
            closed: How its session ended; `None`: the connection was cut, or there was no session.
        """
        state, endpoint = self._state, self._endpoint
        if state.is_over:
            return
        self._input.clear()
        self._timer.cancel()
        was_open, had_session = state.is_open, state.session is not None
        state.note_over(cause, closed, self._socket.address)
        self._output.end()
        if (peer_session := state.peer_session) is None:
            return
        if had_session:
            peer_session.receiver.link_ended(link)
        if was_open:
            ended = endpoint.link_closed(peer_session, link, cause, closed)
            if self._dialer is not None:
                self._dialer.on_link_over(link, cause, closed, is_excused=ended.is_excused)
            endpoint.requeue_after(peer_session, link, ended, cause)
        endpoint.sessions.forget_if_stranger(peer_session)
