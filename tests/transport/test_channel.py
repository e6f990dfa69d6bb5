"""`TlsChannel` alone: what it holds, and what it does once TLS is broken."""

from __future__ import annotations

import contextlib
import ssl

import pytest

from signedwire.transport.tls import TlsIdentity
from signedwire.transport.tls_channel import TlsChannel
from wirekit import ALICE, BOB


def linked() -> tuple[TlsChannel, TlsChannel]:
    """A client and a server that have completed their handshake."""
    client = TlsIdentity(ALICE).channel(is_server=False)
    server = TlsIdentity(BOB).channel(is_server=True)
    client.start()
    while not (client.is_ready and server.is_ready):
        server.receive_data(client.data_to_send())
        client.receive_data(server.data_to_send())
    assert server.receive_data(client.data_to_send()) == b""
    return client, server


def test_nothing_is_sent_once_tls_is_broken() -> None:
    """A link that still has receipts to send ends in order, and not with an exception."""
    client, server = linked()
    client.send(b"hello")
    record = bytearray(client.data_to_send())
    record[-1] ^= 1
    with pytest.raises(ssl.SSLError):
        server.receive_data(bytes(record))
    alert = server.data_to_send()
    assert alert
    server.send(b"a receipt")
    assert server.data_to_send() == b""
    with pytest.raises(ssl.SSLError):
        client.receive_data(alert)


def test_openssl_has_no_part_before_the_first_byte_and_after_the_last() -> None:
    _, server = linked()
    fresh = TlsIdentity(BOB).channel(is_server=True)
    assert fresh._tls is None
    assert fresh.data_to_send() == b""
    server.release()
    assert server._tls is None
    server.send(b"x")  # nobody is there
    assert server.data_to_send() == b""


def test_nothing_is_collected_behind_the_end() -> None:
    client, server = linked()
    with contextlib.suppress(ssl.SSLError):
        client.tls.unwrap()
    server.receive_data(client.data_to_send())
    for _ in range(16):
        server.receive_data(b"\x17\x03\x03\x40\x00" + bytes(65_531))
    assert server._incoming.pending == 0
