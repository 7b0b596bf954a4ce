"""How connections do TLS: names and certificates are checked, by the OpenSSL of Python's `ssl`, with or without Python.

Rule 1: `ldc.network.certificates` decides whom to trust, the same both ways. What `TlsContext` cannot do as `ssl` would
    do it is left to `ssl`, and the log says why.
"""

import os
import ssl
import threading

from ldc.book import TlsContext, has_system_threads, tls_problem
from ldc.consume.log import logger
from ldc.network.certificates import Trusted, bundled_file, new_context, not_loaded, trusted

_lock = threading.Lock()
_contexts: dict[tuple[Trusted, bool], TlsContext | ssl.SSLContext] = {}


def _forget_lock() -> None:
    """In a forked child: a thread that does not exist there may have held it."""
    global _lock  # noqa: PLW0603 - see above
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def tls_context() -> TlsContext | ssl.SSLContext:
    """Return how TLS is done, as websocket-client takes it. It is made once for what the environment names.

    Raises `CertificatesNotLoaded` for certificates that cannot be read. Any thread may call it.
    """
    source = trusted()
    key = source, has_system_threads()
    problem = None
    with _lock:
        context = _contexts.get(key)
        if context is None:
            try:
                context = native_context(source)
            except (RuntimeError, ValueError) as error:
                problem = str(error)
                context = python_context(source)
            _contexts[key] = context
    if problem is not None:
        logger.debug("TLS is done by Python's ssl: %s", problem)
    return context


def native_context(source: Trusted) -> TlsContext:
    """Return TLS without the GIL that trusts what `python_context` trusts.

    Raises `CertificatesNotLoaded`; RuntimeError or ValueError, with the reason as its text, where only `ssl` can do it.
    """
    problem = tls_problem() if has_system_threads() else "its waits would block all greenlets of this thread"
    if problem is not None:
        raise RuntimeError(problem)
    # An empty folder of certificates instead of the defaults, which would be read here to be read again below.
    settings = ssl.create_default_context(capath=os.devnull)
    if source.is_default:
        return TlsContext(settings, files=[bundled_file()], with_defaults=True)
    files = [source.file] if source.file is not None else []
    folders = source.folder.split(os.pathsep) if source.folder is not None else []
    try:
        return TlsContext(settings, files=files, folders=folders)
    except OSError as error:
        raise not_loaded(source, error) from error


def python_context(source: Trusted) -> ssl.SSLContext:
    """Return TLS by Python's `ssl`. Raises `CertificatesNotLoaded`."""
    return new_context(source)
