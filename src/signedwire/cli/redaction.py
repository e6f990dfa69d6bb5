"""Removal of private keys from texts that are shown.

People give keys by mistake where a path or a name belongs, and errors repeat such values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from signedwire.keyformats import KEY_IN_BASE64, SEED_PREFIX, looks_like_a_key

__all__ = ["HIDDEN", "key_as_path", "value_without_keys", "without_keys"]

HIDDEN: Final = "[a key, not shown]"
"""Text that is shown in place of a key."""
_WORD: Final = r"[A-Za-z0-9+/=_-]"
_LEFT: Final = r"(?:(?<![A-Za-z0-9+/_=.~-])|(?<=\\[nrt])|(?<=\\x0[ad]))"
"""Matches the start of a word that is no part of a path; `repr()` may have escaped a line end
before it."""
_KEYS: Final = re.compile(
    "|".join(
        [
            # PEM to its last line; if that is cut off, to the quote or to the end.
            r"-----BEGIN(?:.*?-----END[A-Z0-9 ]*(?:-----)?|[^'\"…]*)",
            # PKCS#8 and OpenSSH without their first lines, by the start of an Ed25519 key.
            rf"(?:M[A-Za-z0-9]{{2,3}}CAQ[AE]wBQYDK2Vw|b3BlbnNzaC1rZXkt)"
            rf"(?:{_WORD}|\\[nr]|\\x0[ad]|[\r\n])*",
            # JWK: whole, and its secret member by itself.
            r"\{[^{}]*kty[^{}]*\}?",
            r"(?<![A-Za-z0-9])d\\*[\"']\s*:\s*\\*[\"'][A-Za-z0-9_=-]+",
            rf"(?i:{re.escape(SEED_PREFIX)}\s*{_WORD}{{16,}}|age-secret-key-[a-z0-9]+)",
            # Base64 of 32 or 64 bytes; 64 hex digits are excluded, as DIDs and hashes have them.
            # A key has letters of both cases. A path from the root is no key.
            rf"{_LEFT}(?!/)(?=[A-Z0-9+/_-]*[a-z])(?=[a-z0-9+/_-]*[A-Z])"
            rf"{KEY_IN_BASE64}(?!{_WORD})",
            rf"{_LEFT}[0-9A-Fa-f]{{128}}(?!{_WORD})",
            # A text that an error has shortened, whose whole length is unknown.
            rf"{_LEFT}(?!/){_WORD}{{32,}}(?=…)",
        ]
    ),
    re.DOTALL,
)


_HEX: Final = re.compile(rf"{_LEFT}[0-9A-Fa-f]{{64}}(?!{_WORD})")


def without_keys(text: str) -> str:
    """Return `text` with each part that looks like a private key replaced by `HIDDEN`.

    Formats with a marker are found for certain: PEM, JWK, `ed25519-seed:`. Base64 is
    guessed by its length. 64 hex digits stay, because DIDs and hashes look the same.
    """
    shown = _KEYS.sub(HIDDEN, text)
    # An error may show a seed in parts, such as the port behind the colon.
    return _HEX.sub(HIDDEN, shown) if SEED_PREFIX in text.lower() else shown


def value_without_keys(text: str) -> str:
    """Like `without_keys()`, for a whole value, which may be 64 hex digits of a key."""
    if looks_like_a_key(text) and not text.startswith(("/", "~")):
        return HIDDEN
    return without_keys(text)


def key_as_path(path: Path, what: str) -> str | None:
    """Return an error text if the path of a missing file is a key, else `None`.

    Args:
        path: The path.
        what: The kind of file that it should name.
    """
    if HIDDEN not in value_without_keys(str(path)):
        return None
    return (
        f"what was given as the path of the {what} is a key itself, or looks like one, "
        "so it is not shown, and no file is called so"
    )
