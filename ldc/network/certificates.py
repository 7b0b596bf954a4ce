"""Whose certificates TLS trusts: one answer for websockets and for REST.

Rule 1: names and certificates are always checked.
Rule 2: the first of these that is set says whom to trust, and nobody else is trusted then. ``SSL_CERT_FILE`` and
    ``SSL_CERT_DIR`` count together, as they do for OpenSSL.

    REQUESTS_CA_BUNDLE            a file or a folder
    CURL_CA_BUNDLE                a file or a folder
    SSL_CERT_FILE, SSL_CERT_DIR   a file; a folder, or several as in PATH
    none                          what the system trusts, and what certifi brings along

Rule 3: a path that is not there is an error, which names the variable. Otherwise nobody would be trusted, or everybody.
"""

import functools
import os
import ssl
from pathlib import Path
from typing import NamedTuple

import certifi

from ldc.network.text import printable

VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""The environment variables that say whom to trust, the first before the others."""

ADVICE = (
    "see whether something intercepts the connection; a company's own authority is trusted when "
    f"{', '.join(VARIABLES[:-1])} or {VARIABLES[-1]} names its certificates"
)
"""What to do about a certificate that is not trusted."""


class CertificatesNotLoaded(OSError):
    """The certificates that the environment names cannot be loaded."""


class Trusted(NamedTuple):
    """Where the certificates are; both None: the system's and certifi's."""

    file: str | None = None
    folder: str | None = None
    named_by: str = ""
    """The environment variables, for an error."""

    @property
    def is_default(self) -> bool:
        """Whether the system's certificates and those of certifi are trusted."""
        return self.file is None and self.folder is None


def trusted() -> Trusted:
    """Return what the environment says now. Raises `CertificatesNotLoaded` for a path that is not there."""
    for name in VARIABLES[:2]:
        path = os.environ.get(name)
        if path:
            place = Path(path)
            if not place.exists():
                raise _gone(name, path)
            return Trusted(folder=path, named_by=name) if place.is_dir() else Trusted(file=path, named_by=name)
    file, folder = (os.environ.get(name) or None for name in VARIABLES[2:])
    if file is not None and not Path(file).is_file():
        raise _gone("SSL_CERT_FILE", file)
    if folder is not None and not any(Path(each).is_dir() for each in folder.split(os.pathsep)):
        raise _gone("SSL_CERT_DIR", folder)
    names = [name for name, path in zip(VARIABLES[2:], (file, folder), strict=True) if path]
    return Trusted(file, folder, " and ".join(names))


def _gone(name: str, path: str) -> CertificatesNotLoaded:
    return CertificatesNotLoaded(
        f"the environment variable {name} names {printable(path)!r}, where there are no certificates: "
        f"correct it, or remove it to trust what the system trusts"
    )


def tls_context(user: str) -> ssl.SSLContext:
    """Return how TLS is done now. Raises `CertificatesNotLoaded`.

    `user`: each has a context of its own, because urllib3 changes the one that it gets. A context is kept; the
    certificates in its files are read once.
    """
    return _context(trusted(), user)


@functools.lru_cache(maxsize=8)
def _context(source: Trusted, user: str) -> ssl.SSLContext:
    del user  # a part of the key only
    return new_context(source)


def new_context(source: Trusted) -> ssl.SSLContext:
    """Return a new context that trusts these certificates. Raises `CertificatesNotLoaded`."""
    if source.is_default:
        context = ssl.create_default_context()
        # Where the system has no certificates, nobody would be trusted.
        context.load_verify_locations(bundled_file())
        return context
    try:
        return ssl.create_default_context(cafile=source.file, capath=source.folder)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise not_loaded(source, error) from error


def bundled_file() -> str:
    """Return the file of certificates that certifi brings along."""
    return certifi.where()


def not_loaded(source: Trusted, error: Exception) -> CertificatesNotLoaded:
    """Return the error for certificates that cannot be loaded, which names the variable and the path."""
    paths = " and ".join(printable(path) for path in (source.file, source.folder) if path)
    names = f", which {source.named_by} names," if source.named_by else ""
    return CertificatesNotLoaded(f"the certificates of {paths}{names} cannot be loaded: {printable(error)}")
