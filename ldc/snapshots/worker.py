"""A worker: one download at a time, by requests, for a thread of `ldc.snapshots.downloader`.

Rule 1: it knows no lock and no queue. It returns the result of a download; a fault of the network is a result, too.
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

_CHUNK_BYTES = 64 * 1024
_ERROR_PAGE_BYTES_MAX = 64 * 1024  # a longer body of a refusal is dropped
_ERROR_TEXT_CHARACTERS_MAX = 300  # longer texts are cut

# The first match counts. The errors of requests concern the connection and the headers, those of urllib3 the body.
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
    """A download in flight. The worker writes `status` and `headers` as they arrive; the watchdog may read them."""

    ticket: Ticket
    report: Callable[..., None]
    user_agent: str
    sockets: EndableSockets
    deadline: float
    status: int | None = None
    headers: ReplyHeaders = NO_HEADERS


class Worker:
    """One download at a time, with a session and sockets of its own. Other threads may only call `sockets.end`."""

    def __init__(self, connect_s_max: float, download_s_max: float, body_bytes_max: int) -> None:
        self.sockets = EndableSockets()
        # The second timeout is per read. It is longer than the deadline, so that the watchdog reports first.
        self._timeout = (min(connect_s_max, download_s_max), download_s_max + connect_s_max)
        self._body_bytes_max = body_bytes_max
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, EndableAdapter(self.sockets))

    def fetch(self, download: Download) -> SnapshotBody | SnapshotFailure:
        """Return the result. Sets the download's status and headers as soon as they are known."""
        client, market = download.ticket.client, download.ticket.request.market
        try:
            return self._get(download)
        except BodyRefused as refused:
            status = None if download.status is None else f"HTTP {download.status} came, but "
            return failure(market, refused.kind, f"{status or ''}{refused.what}", status=download.status)
        except (requests.RequestException, urllib3_exceptions.HTTPError, OSError, ValueError) as error:
            kind = next(kind for classes, kind in _KIND_OF_ERROR if isinstance(error, classes))
            return failure(market, kind, without_password(error, client.proxy), status=download.status)
        finally:
            self.sockets.finish_download()

    def close(self) -> None:
        """Close all connections."""
        self._session.close()
        self.sockets.close()

    def _get(self, download: Download) -> SnapshotBody | SnapshotFailure:
        client, request = download.ticket.client, download.ticket.request
        prepared = requests.Request(
            "GET",
            client.url,
            params=client.venue.snapshot_params(request.market, request.limit),
            # Only the encoding that BodyReader can bound.
            headers={"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": download.user_agent},
        ).prepare()
        assert prepared.url is not None
        proxies = {"http": client.proxy, "https": client.proxy} if client.proxy else {}
        settings = self._session.merge_environment_settings(prepared.url, proxies, stream=True, verify=True, cert=None)
        # Not Session.send(), which keeps cookies and resolves redirects.
        response = self._session.get_adapter(prepared.url).send(
            prepared,
            stream=True,
            timeout=self._timeout,
            verify=settings["verify"] or True,
            proxies=settings["proxies"],
        )
        with contextlib.closing(response):
            download.headers = read_headers(response.headers)
            download.status = response.status_code
            body = self._read(response)
            result, download.headers = judge_reply(
                request.market, response.status_code, download.headers, body, time.time_ns()
            )
            return result

    def _read(self, response: requests.Response) -> bytes:
        """Return the whole body. The body of a refusal may be missing, because its status says enough."""
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


def without_password(error: Exception, proxy: str | None) -> str:
    """Return an error's text in one line, with the proxy's password replaced by ``***``."""
    text = " ".join(str(error).split()) or type(error).__name__
    password = urlsplit(proxy).password if proxy else None
    if password:
        text = text.replace(password, "***")
    return text[:_ERROR_TEXT_CHARACTERS_MAX]
