"""What stands for `TlsContext` and `TlsSocket` where there is no extension. Python's `ssl` does TLS there."""

from typing import Any, Final, Never

__all__ = ["TlsContext", "TlsSocket", "tls_problem"]

PROBLEM: Final = "the order book is in plain Python, and TLS without the GIL needs the extension"


def tls_problem() -> str | None:
    """Return why TLS cannot be done without the GIL here."""
    return PROBLEM


class TlsContext:
    """Cannot be made: see `tls_problem`."""

    def __new__(cls, *_arguments: Any, **_named: Any) -> Never:
        """Raise RuntimeError."""
        raise RuntimeError(f"there is no TLS without the GIL: {PROBLEM}")


class TlsSocket(TlsContext):
    """Cannot be made, so that no socket is one."""
