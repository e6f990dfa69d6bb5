"""The writing side of the record layer of TLS 1.3 (RFC 8446, 5 and 7).

It makes the records that OpenSSL makes for nobody. The handshake is OpenSSL's; the keys
come from its key log, by the random of the client.
"""

from __future__ import annotations

import hmac
import os
import tempfile
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from .stranger import Link, Who

__all__ = [
    "ALERT",
    "DATA",
    "HANDSHAKE",
    "KeyLog",
    "RecordWriter",
]

ALERT: Final = 21
HANDSHAKE: Final = 22
DATA: Final = 23
_TAG: Final = 16
_LABEL: Final = "CLIENT_TRAFFIC_SECRET_0"


class KeyLog:
    """The traffic secrets of this process' handshakes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hostile-")
        self._path = Path(self._folder.name, "keys")
        self._path.touch()
        self._size = 0
        self._secrets: dict[str, str] = {}

    def watch(self, who: Who) -> None:
        """Have the handshakes of `who` logged from now on."""
        if not who.context.keylog_filename:
            who.context.keylog_filename = os.fspath(self._path)

    def writer(self, link: Link) -> RecordWriter:
        """Goes on where the handshake of `link` has ended; nothing else may write after it."""
        with self._path.open(encoding="ascii") as file:
            file.seek(self._size)
            for line in file:
                label, _, rest = line.partition(" ")
                if label == _LABEL:
                    random, _, secret = rest.strip().partition(" ")
                    self._secrets[random] = secret
            self._size = file.tell()
        cipher = link.tls.cipher()
        assert cipher is not None
        return RecordWriter(cipher[0], bytes.fromhex(self._secrets.pop(link.client_random.hex())))


class RecordWriter:
    """Seals records one after another.

    Args:
        cipher: The suite that was agreed on, by OpenSSL's name.
        secret: The traffic secret of this side.
    """

    def __init__(self, cipher: str, secret: bytes) -> None:
        self._hash = "sha384" if cipher.endswith("SHA384") else "sha256"
        self._key_size = 16 if "AES_128" in cipher else 32
        self._is_chacha = "CHACHA20" in cipher
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        key = self._expand(b"key", self._key_size)
        self._iv = int.from_bytes(self._expand(b"iv", 12), "big")
        self._seal = (ChaCha20Poly1305(key) if self._is_chacha else AESGCM(key)).encrypt
        self._number = 0

    def _expand(self, label: bytes, size: int) -> bytes:
        """HKDF-Expand-Label with an empty context, of at most one block."""
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0\x01"
        return hmac.digest(self._secret, info, self._hash)[:size]

    def seal(self, content: bytes, kind: int = DATA, padding: int = 0) -> bytes:
        """One record."""
        inner = content + bytes((kind,)) + bytes(padding)
        header = b"\x17\x03\x03" + (len(inner) + _TAG).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return header + self._seal(nonce, inner, header)

    def update_key(self, *, is_requested: bool = False) -> bytes:
        """A KeyUpdate, which may ask the other side for one, too."""
        record = self.seal(b"\x18\0\0\x01" + bytes((is_requested,)), HANDSHAKE)
        self._use(self._expand(b"traffic upd", len(self._secret)))
        return record
