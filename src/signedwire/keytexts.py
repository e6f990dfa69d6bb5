"""Error texts for the bytes of a key that cannot be used. No text has a part of the key."""

from __future__ import annotations

import re
import shlex
from typing import Final

from signedwire.errors import IdentityError, IdentityProblem

__all__ = [
    "FORMATS",
    "NAMES",
    "OPENSSH_CIPHERS",
    "Shown",
    "another_kind",
    "damaged",
    "encrypted",
    "known_text",
    "make_one",
    "named",
    "no_private_key",
    "other_cipher",
    "public",
    "unknown",
]

_PUBLIC_LINE: Final = re.compile(r"(?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+ AAAA")
# Ciphers that the cryptography package can decrypt.
OPENSSH_CIPHERS: Final = frozenset({"aes256-ctr", "aes256-cbc", "aes256-gcm@openssh.com"})
# The only names that errors show, because any other text in a file may be a part of a key.
NAMES: Final = {
    *("EC", "RSA", "DSA", "oct", "OKP", "AKP", "P-256", "P-384", "P-521", "secp256k1"),
    *("Ed25519", "Ed448", "X25519", "X448", "ssh-rsa", "ssh-dss", "ssh-xmss@openssh.com"),
    *("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "3des-cbc"),
    *("aes128-cbc", "aes192-cbc", "aes128-ctr", "aes192-ctr", "aes128-gcm@openssh.com"),
    *("chacha20-poly1305@openssh.com", "SSH2 ENCRYPTED", "CERTIFICATE REQUEST", "X509 CRL"),
    *("DH PARAMETERS", "EC PARAMETERS", *OPENSSH_CIPHERS),
}
FORMATS: Final = (
    "A key file is PKCS#8 (PEM or DER), an OpenSSH private key, a JWK, libsodium's 64-byte "
    "secret key, or a raw 32-byte seed"
)


class Shown:
    """A path in the form in which errors put it into commands."""

    def __init__(self, path: str | None) -> None:
        self.is_no_file = path is None
        self.old = "FILE" if path is None else shlex.quote(path)
        self.new = "NEW" if path is None else shlex.quote(f"{path}.new")


def named(name: object, what: str, otherwise: str) -> str:
    """Return `what` with a name from a file if the name is known, else `otherwise`."""
    return f"{what} {name}".lstrip() if isinstance(name, str) and name in NAMES else otherwise


def no_private_key(labels: list[str], shown: Shown) -> IdentityError:
    for label in labels:
        if label == "PGP PRIVATE KEY BLOCK":
            return another_kind("an OpenPGP key", shown)
        if label.endswith("PUBLIC KEY") or label == "PGP PUBLIC KEY BLOCK":
            return public("a public key", shown)
        if label.endswith("CERTIFICATE"):
            return public("a certificate", shown)
    if labels:
        what = named(labels[0], "a", "something else")
        return IdentityError(
            f"it holds no private key, but {what}", FORMATS, IdentityProblem.UNUSABLE
        )
    return damaged("it is damaged")


def known_text(text: str, core: str, shown: Shown) -> IdentityError | None:
    if _PUBLIC_LINE.match(core) or _PUBLIC_LINE.search(text[:2000]):
        is_certificate = "-cert-v" in core.partition(" ")[0]
        return public("an SSH certificate" if is_certificate else "a public key", shown)
    if core.startswith("did:"):
        return public("a DID, which is a public key", shown)
    if core.startswith("---- BEGIN SSH2 PUBLIC KEY"):
        return public("a public key", shown)
    if core.startswith("PuTTY-User-Key-File-"):
        return IdentityError(
            "it is a key of PuTTY",
            f"`puttygen {shown.old} -O private-openssh -o {shown.new}` converts it",
            IdentityProblem.UNUSABLE,
        )
    if core.upper().startswith("AGE-SECRET-KEY-"):
        return another_kind("an age key (X25519)", shown)
    if core.startswith("untrusted comment:"):
        return another_kind("a key of minisign or signify", shown)
    return None


def public(what: str, shown: Shown) -> IdentityError:
    near = ""
    if shown.old.rstrip("'").endswith(".pub"):
        near = ", mostly the file of this name without .pub"
    return IdentityError(
        f"it holds {what}",
        f"Give the path of the private key that belongs to it{near}",
        IdentityProblem.NOT_PRIVATE,
    )


def another_kind(what: str, shown: Shown) -> IdentityError:
    return IdentityError(
        f"it holds {what}",
        f"signedwire uses Ed25519 private keys alone: {make_one(shown)}",
        IdentityProblem.UNUSABLE,
    )


def make_one(shown: Shown) -> str:
    return f"`signedwire id new {shown.new}` makes one"


def encrypted() -> IdentityError:
    return IdentityError("it is encrypted", "Pass its password", IdentityProblem.ENCRYPTED)


def damaged(what: str) -> IdentityError:
    return IdentityError(what, "Restore it from a copy", IdentityProblem.DAMAGED)


def unknown(size: int, shown: Shown | None = None, *, is_text: bool = False) -> IdentityError:
    what = "characters of text" if is_text else "bytes"
    hint = FORMATS if shown is None else f"{FORMATS}; {make_one(shown)}"
    return IdentityError(
        f"it holds {size} {what} that are no key in a known format", hint, IdentityProblem.UNUSABLE
    )


def other_cipher(cipher: str, shown: Shown) -> IdentityError:
    shown_cipher = named(cipher, "", "an unknown cipher")
    return IdentityError(
        f"it is an OpenSSH Ed25519 key, encrypted with {shown_cipher}, which is not supported",
        f"`ssh-keygen -p -Z aes256-ctr -f {shown.old}` encrypts it anew, in place",
        IdentityProblem.UNUSABLE,
    )
