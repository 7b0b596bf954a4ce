"""Text from outside, made fit for a log, a status and a terminal.

Rule 1: every text that an exchange, a proxy, a stranger's server or a library wrote passes through `printable` before
    it is stored, logged or shown. A line break would forge a log line, an escape sequence would drive the terminal.
Rule 2: secrets are removed before a text is shortened, so that no piece of one is left.
"""

import re
from collections.abc import Iterable
from typing import Protocol

TEXT_CHARACTERS_MAX = 300
"""A longer text is cut, and ends with three dots."""

SECRET_CHARACTERS_MIN = 4
"""A shorter secret is removed only where a URL has it, because it occurs in ordinary words."""

_CUT = "..."
_REMOVED = "***"


class Secretive(Protocol):
    """What holds secrets: `ldc.network.proxy.Proxy`."""

    @property
    def host(self) -> str:
        """The host that a URL names after the secrets."""

    @property
    def secrets(self) -> Iterable[str]:
        """The texts that nobody may read, in every spelling in which a library may write them."""


def printable(text: object, limit: int = TEXT_CHARACTERS_MAX) -> str:
    r"""Return a text in one line of at most `limit` characters.

    What Unicode does not call printable becomes an escape sequence: control characters, ESC, line and paragraph
    separators, bidirectional overrides, lone surrogates. A line feed becomes ``\x0a``, U+202E becomes ``\u202e``.
    """
    raw = str(text)
    if len(raw) <= limit and raw.isprintable():
        return raw
    pieces: list[str] = []
    length = 0
    for character in raw:
        piece = character if character.isprintable() else _escaped(ord(character))
        pieces.append(piece)
        length += len(piece)
        if length > limit:
            break
    else:
        return "".join(pieces)
    while pieces and length > limit - len(_CUT):
        length -= len(pieces.pop())
    return "".join(pieces) + _CUT[:limit]


def writable(text: str, encoding: str | None) -> str:
    """Return a text as a stream of that encoding can write it: other characters become escape sequences.

    None: the stream takes every character.
    """
    return text if encoding is None else text.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def without_secrets(text: str, proxy: Secretive | None) -> str:
    """Return a text without the user and the password of the proxy."""
    if proxy is None:
        return text
    # Before the host of a URL stand user and password, in whatever spelling.
    text = re.sub(rf"[^\s/\"'<>]*@(?={re.escape(proxy.host)})", f"{_REMOVED}@", text, flags=re.IGNORECASE)
    for secret in sorted(proxy.secrets, key=len, reverse=True):
        if len(secret) >= SECRET_CHARACTERS_MIN:
            text = text.replace(secret, _REMOVED)
    return text


def described(error: BaseException, proxy: Secretive | None = None, limit: int = TEXT_CHARACTERS_MAX) -> str:
    """Return what an exception of a library says, printable and without secrets; its class if it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return printable(without_secrets(text, proxy), limit)
