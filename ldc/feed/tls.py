"""How connections do TLS: names and certificates are checked, by the OpenSSL of Python's `ssl`, with or without Python.

Rule 1: whom to trust is decided once, here, and is the same both ways. What `TlsContext` cannot do as `ssl` would do it
    is left to `ssl`, and the log says why.
"""

import logging
import os
import ssl
import threading
from pathlib import Path

import certifi

from ldc.book import TlsContext, tls_problem

__all__ = ["native_context", "python_context", "tls_context"]

logger = logging.getLogger("binance_local_depth_cache")

_lock = threading.Lock()
_contexts: dict[str | None, TlsContext | ssl.SSLContext] = {}


def _forget_lock() -> None:
    """In a forked child: a thread that does not exist there may have held it."""
    global _lock  # noqa: PLW0603 - see above
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def tls_context() -> TlsContext | ssl.SSLContext:
    """Return how TLS is done, as websocket-client takes it. It is made once for each bundle that the environment names.

    Raises OSError (also as `ssl.SSLError`) if that bundle cannot be read. Any thread may call it.
    """
    trusted = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")  # as requests has it
    problem = None
    with _lock:
        context = _contexts.get(trusted)
        if context is None:
            try:
                context = native_context(trusted)
            except (RuntimeError, ValueError) as error:
                problem = str(error)
                context = python_context(trusted)
            _contexts[trusted] = context
    if problem is not None:
        logger.debug("TLS is done by Python's ssl: %s", problem)
    return context


def native_context(trusted: str | None = None) -> TlsContext:
    """Return TLS without the GIL that trusts what `python_context` trusts.

    Raises RuntimeError or ValueError, with the reason as its text, where only `ssl` can do it.
    """
    problem = tls_problem()
    if problem is not None:
        raise RuntimeError(problem)
    # An empty folder of certificates instead of the defaults, which would be read here to be read again below.
    settings = ssl.create_default_context(capath=os.devnull)
    if trusted is None:
        return TlsContext(settings, files=[certifi.where()], with_defaults=True)
    if Path(trusted).is_dir():
        return TlsContext(settings, folders=[trusted])
    return TlsContext(settings, files=[trusted])


def python_context(trusted: str | None = None) -> ssl.SSLContext:
    """Return TLS by Python's `ssl`.

    websocket-client alone trusts what the system trusts, which is nobody where no certificates are installed; so those
    that requests brings along count as well. A company's own authority goes into REQUESTS_CA_BUNDLE, for both.

    Args:
        trusted: the file or folder with all certificates that are trusted; None: the defaults.
    """
    if trusted is not None:
        is_folder = Path(trusted).is_dir()
        return ssl.create_default_context(cafile=None if is_folder else trusted, capath=trusted if is_folder else None)
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
