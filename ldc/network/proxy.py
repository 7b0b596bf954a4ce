"""Which proxy leads to a host: one answer for websockets and for REST.

Rule 1: no text of a proxy is repeated, in no error and no ``repr``: it may hold a password.
Rule 2: the environment is read by the rules of requests, for ``wss`` as for ``https`` and for ``ws`` as for ``http``.
    The result goes to both libraries as an argument, so that neither reads the environment by rules of its own.

The rules, by example: ``https_proxy`` before ``HTTPS_PROXY`` before ``all_proxy``; a host that ``no_proxy`` or
``NO_PROXY`` names (a host, a suffix, an address, a network such as ``10.0.0.0/8``, ``*``) is reached directly;
``host:port`` without a scheme is an HTTP proxy; ``socks5h://host`` in ``http_proxy`` is a SOCKS proxy. On Windows and
macOS the system's settings count where no variable is set.
"""

import base64
import importlib.util
import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

import requests

from ldc.network.libraries import require_library

require_library(requests, "requests", "Session", "adapters", "utils")

_DEFAULT_PORTS = {"http": 80, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_SOCKS_MODULES = ("python_socks", "socks")  # what websocket-client and requests need of the extra "socks"

# Nothing may follow the port: an unescaped #, / or ? of a password would be taken for it, and the rest for the host.
_PROXY_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z0-9+.\-]+)://)?(?:(?P<user>[^/?#\s:]*)(?::(?P<password>[^/?#\s]*))?@)?"
    r"(?P<host>[^/?#\s@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?"
)


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """A proxy. Neither ``repr`` nor ``str`` shows the user or the password."""

    scheme: str
    """http, socks4, socks4a, socks5 or socks5h; with the last and with socks4a the proxy resolves names."""
    host: str
    """In lower case, without the brackets of IPv6."""
    port: int
    user: str | None = None
    """Without percent-encoding; None: the proxy gets neither a user nor a password."""
    password: str | None = None

    def __repr__(self) -> str:
        return f"Proxy({self!s})"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}"

    @property
    def place(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_socks(self) -> bool:
        """Whether it is a SOCKS proxy."""
        return self.scheme != "http"

    @property
    def url(self) -> str:
        """The URL with user and password, for a library. Never for a text."""
        if self.user is None:
            return str(self)
        secret = "" if self.password is None else f":{quote(self.password, safe='')}"
        return f"{self.scheme}://{quote(self.user, safe='')}{secret}@{self.place}"

    @property
    def credentials(self) -> str | None:
        """The value of the header ``Proxy-Authorization``, or None."""
        if self.user is None:
            return None
        return "Basic " + base64.b64encode(f"{self.user}:{self.password or ''}".encode()).decode()

    @property
    def secrets(self) -> Iterable[str]:
        """User and password in every spelling in which a library may write them."""
        if self.user is None:
            return ()
        plain = [self.user] if self.password is None else [self.user, self.password]
        spelt = {spelling for text in plain for spelling in (text, quote(text, safe=""), repr(text)[1:-1])}
        assert self.credentials is not None
        return spelt | {self.credentials.removeprefix("Basic ")}


def parse(url: str, source: str = "proxy") -> Proxy:
    """Return the proxy of a URL ``scheme://[user:password@]host[:port]``; without a scheme it is ``http``.

    `source`: what to name in the error, because the text itself is not repeated. Raises ``ValueError`` for what is no
    such URL, and for SOCKS where the extra ``socks`` is not installed.
    """
    found = _PROXY_URL.fullmatch(url) if isinstance(url, str) else None
    schemes = ", ".join(f"{scheme}://" for scheme in _DEFAULT_PORTS)
    if found is None:
        raise ValueError(
            f"{source} is no URL of a proxy: that is [scheme][user:password@]host[:port] with one of {schemes}. "
            "Special characters of user and password are percent-encoded, such as %23 for #, %2F for / and %3F for ?"
        )
    scheme = (found["scheme"] or "http").lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"{source} is a URL of a proxy that does not begin with one of {schemes}")
    port = _DEFAULT_PORTS[scheme] if found["port"] is None else int(found["port"])
    if not 1 <= port <= 65535:
        raise ValueError(f"{source} is a URL of a proxy whose port is not 1 to 65535")
    if scheme != "http" and not all(importlib.util.find_spec(name) for name in _SOCKS_MODULES):
        raise ValueError(
            f"{source} is a {scheme}:// URL, and SOCKS needs two more packages: pip install PySocks python-socks"
        )
    user = unquote(found["user"]) if found["user"] else None
    password = unquote(found["password"]) if user is not None and found["password"] is not None else None
    return Proxy(scheme, _normalized_host(found["host"]), port, user, password)


def _normalized_host(host: str) -> str:
    bare = host.strip("[]").lower()
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare.rstrip(".") or bare


def from_environment(url: str) -> Proxy | None:
    """Return the proxy by which the environment reaches a URL (``https``, ``wss``, ``http`` or ``ws``), or None.

    Raises ``ValueError``, which names the variable, for a proxy that cannot be one.
    """
    scheme, _, rest = url.partition("://")
    asked = {"wss": "https", "ws": "http"}.get(scheme, scheme) + "://" + rest
    value = requests.utils.select_proxy(asked, requests.utils.get_environ_proxies(asked, no_proxy=None))
    return parse(value.strip(), _name_of(value)) if value and value.strip() else None


def _name_of(value: str) -> str:
    """Return what in the environment has that value."""
    names = [name for name, other in os.environ.items() if other == value and name.lower().endswith("_proxy")]
    return f"the environment variable {min(names)}" if names else "the proxy of the system's settings"


class ProxyRules:
    """Which proxy leads to which URL: the one that was given for all of them, or what the environment says of each.

    The environment is read once for each host. Thread-safe.
    """

    def __init__(self, url: str | None = None) -> None:
        self._given = None if url is None else parse(url)
        self._found: dict[tuple[str, str], Proxy | None] = {}

    def for_url(self, url: str) -> Proxy | None:
        """Return the proxy that leads to a URL, None for a direct connection. Raises as `from_environment` does."""
        if self._given is not None:
            return self._given
        parts = urlsplit(url)
        key = ({"wss": "https", "ws": "http"}.get(parts.scheme, parts.scheme), parts.netloc)
        if key not in self._found:
            self._found[key] = from_environment(url)
        return self._found[key]


def address_key(proxy: Proxy | None, weight_pool: str | None = None) -> str:
    """Return what names the IP address that an exchange sees, for the budgets that it keeps for each address.

    ``""`` is the address of this machine. A proxy is named by its host and port. So one proxy has one key, whatever its
    URL and its user. Two proxies with the same address behind them are not recognized as one, nor is one proxy whose
    host is spelt in two ways. The caller's `weight_pool` names the address instead, whatever leads to it.
    """
    if weight_pool is not None:
        return f"weight_pool {weight_pool}"  # with a blank, so that it cannot be the place of a proxy
    return "" if proxy is None else proxy.place
