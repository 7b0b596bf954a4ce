"""One download at a time, by requests: what a thread of `ldc.snapshots.downloader` does with a ticket.

Rule 1: it knows no lock and no queue. It returns what came of a download, and never raises what the network is to blame
    for.
"""

import contextlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
from urllib3 import exceptions as urllib3_exceptions

from ldc.snapshots.queue import Ticket
from ldc.snapshots.reply import (
    NO_HEADERS,
    BodyReader,
    BodyRefused,
    FailureKind,
    ReplyHeaders,
    SnapshotBody,
    SnapshotFailure,
    failure,
    judge_reply,
    read_headers,
)
from ldc.snapshots.sockets import EndableAdapter, EndableSockets

__all__ = ["Download", "Worker", "told_without_secrets"]

_CHUNK_BYTES = 64 * 1024
_ERROR_PAGE_BYTES_MAX = 64 * 1024
_ERROR_TEXT_CHARACTERS_MAX = 300

# The first that fits. What requests raises concerns the connection and the headers, what urllib3 raises the body.
_KIND_OF_ERROR: tuple[tuple[tuple[type[BaseException], ...], FailureKind], ...] = (
    (
        (requests.exceptions.ProxyError, requests.exceptions.InvalidProxyURL, urllib3_exceptions.ProxyError),
        FailureKind.PROXY,
    ),
    ((requests.exceptions.SSLError, urllib3_exceptions.SSLError, ssl.SSLError), FailureKind.UNTRUSTED),
    ((requests.exceptions.Timeout, urllib3_exceptions.TimeoutError, TimeoutError), FailureKind.TIMED_OUT),
    ((urllib3_exceptions.ProtocolError,), FailureKind.DAMAGED),
    ((Exception,), FailureKind.UNREACHABLE),
)


@dataclass(slots=True, eq=False)
class Download:
    """A download under way. The worker writes `status` and `headers` as they come, the watcher may read them."""

    ticket: Ticket
    report: Callable[..., None]
    user_agent: str
    sockets: EndableSockets
    deadline: float
    status: int | None = None
    headers: ReplyHeaders = NO_HEADERS


class Worker:
    """One download at a time: its session and its sockets. Only `sockets.end` may be called by other threads."""

    def __init__(self, connect_s_max: float, download_s_max: float, body_bytes_max: int) -> None:
        self.sockets = EndableSockets()
        # The second is per read. It comes later than the deadline, so that it is the watcher who speaks.
        self._timeout = (min(connect_s_max, download_s_max), download_s_max + connect_s_max)
        self._body_bytes_max = body_bytes_max
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, EndableAdapter(self.sockets))

    def download(self, flight: Download) -> SnapshotBody | SnapshotFailure:
        """Return what came of it. Note the status and the headers in the flight as soon as they are known."""
        requester, market = flight.ticket.requester, flight.ticket.request.market
        try:
            return self._fetch(flight)
        except BodyRefused as refused:
            status = None if flight.status is None else f"HTTP {flight.status} came, but "
            return failure(market, refused.kind, f"{status or ''}{refused.what}", status=flight.status)
        except (requests.RequestException, urllib3_exceptions.HTTPError, OSError, ValueError) as error:
            kind = next(kind for classes, kind in _KIND_OF_ERROR if isinstance(error, classes))
            return failure(market, kind, told_without_secrets(error, requester.proxy), status=flight.status)
        finally:
            self.sockets.finish_download()

    def close(self) -> None:
        """Close all connections."""
        self._session.close()
        self.sockets.close()

    def _fetch(self, flight: Download) -> SnapshotBody | SnapshotFailure:
        requester, request = flight.ticket.requester, flight.ticket.request
        prepared = requests.Request(
            "GET",
            requester.url,
            params=requester.venue.snapshot_params(request.market, request.limit),
            # No other encoding, because BodyReader can bound this one.
            headers={"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": flight.user_agent},
        ).prepare()
        assert prepared.url is not None
        proxies = {"http": requester.proxy, "https": requester.proxy} if requester.proxy else {}
        settings = self._session.merge_environment_settings(prepared.url, proxies, stream=True, verify=True, cert=None)
        # Not Session.send(): that keeps cookies, and looks at where a redirect leads.
        response = self._session.get_adapter(prepared.url).send(
            prepared,
            stream=True,
            timeout=self._timeout,
            verify=settings["verify"] or True,
            proxies=settings["proxies"],
        )
        with contextlib.closing(response):
            flight.headers = read_headers(response.headers)
            flight.status = response.status_code
            body = self._read(response)
            result, flight.headers = judge_reply(
                request.market, response.status_code, flight.headers, body, time.time_ns()
            )
            return result

    def _read(self, response: requests.Response) -> bytes:
        """Return the whole body; of a refusal what can be had of it, because its status says enough."""
        is_refusal = response.status_code != requests.codes.ok
        try:
            reader = BodyReader(response.headers, _ERROR_PAGE_BYTES_MAX if is_refusal else self._body_bytes_max)
            while chunk := response.raw.read(_CHUNK_BYTES, decode_content=False):
                reader.feed(chunk)
            return reader.finish()
        except (BodyRefused, urllib3_exceptions.HTTPError, OSError):
            if is_refusal:
                return b""
            raise


def told_without_secrets(error: Exception, proxy: str | None) -> str:
    """Return what an error says, in one line, without the password of the proxy."""
    text = " ".join(str(error).split()) or type(error).__name__
    password = urlsplit(proxy).password if proxy else None
    if password:
        text = text.replace(password, "***")
    return text[:_ERROR_TEXT_CHARACTERS_MAX]
