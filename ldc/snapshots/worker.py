"""A worker: one download at a time, by requests, for a thread of `ldc.snapshots.downloader`.

Rule 1: it knows no lock and no queue. It returns the result of a download; a fault of the network is a result, too.
"""

import contextlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

import requests
from urllib3 import exceptions as urllib3_exceptions

from ldc.network.certificates import CertificatesNotLoaded, tls_context
from ldc.network.connecting import mark_failed
from ldc.network.proxy import Proxy, ProxyRules
from ldc.network.text import described
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
from ldc.snapshots.sockets import EndableAdapter, EndableSockets, KeptConnections

_CHUNK_BYTES = 64 * 1024
_ERROR_PAGE_BYTES_MAX = 64 * 1024  # a longer body of a refusal is dropped

# The first match counts. The errors of requests concern the connection and the headers, those of urllib3 the body.
_KIND_OF_ERROR: tuple[tuple[tuple[type[BaseException], ...], FailureKind], ...] = (
    (
        (requests.exceptions.ProxyError, requests.exceptions.InvalidProxyURL, urllib3_exceptions.ProxyError),
        FailureKind.PROXY,
    ),
    (
        (requests.exceptions.SSLError, urllib3_exceptions.SSLError, ssl.SSLError, CertificatesNotLoaded),
        FailureKind.UNTRUSTED,
    ),
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
    proxies: ProxyRules
    sockets: EndableSockets
    deadline: float
    may_repeat: Callable[[], bool]
    """Whether the request may be sent once more; its weight is then spent again."""
    proxy: Proxy | None = None
    status: int | None = None
    headers: ReplyHeaders = NO_HEADERS


class Worker:
    """One download at a time, with a session and sockets of its own. Other threads may only call `sockets.end`."""

    def __init__(self, connect_s_max: float, download_s_max: float, body_bytes_max: int, kept: KeptConnections) -> None:
        self.sockets = EndableSockets(kept)
        self._kept = kept
        # The second timeout is per read. It is longer than the deadline, so that the watchdog reports first.
        self._timeout = (min(connect_s_max, download_s_max), download_s_max + connect_s_max)
        self._body_bytes_max = body_bytes_max
        self._adapters: dict[bool, EndableAdapter] = {}  # by whether the URL is https

    def fetch(self, download: Download) -> SnapshotBody | SnapshotFailure:
        """Return the result. Sets the download's status and headers as soon as they are known."""
        market = download.ticket.request.market
        try:
            download.proxy = download.proxies.for_url(download.ticket.url)
            return self._get_or_repeat(download)
        except BodyRefused as refused:
            status = None if download.status is None else f"HTTP {download.status} came, but "
            return failure(market, refused.kind, f"{status or ''}{refused.what}", status=download.status)
        except (requests.RequestException, urllib3_exceptions.HTTPError, OSError, ValueError) as error:
            kind = next(kind for classes, kind in _KIND_OF_ERROR if isinstance(error, classes))
            if download.proxy is None and not download.ticket.is_cancelled:
                mark_failed(self.sockets.peer)
            what = _way(kind, download.proxy) + described(error, download.proxy)
            return failure(market, kind, what, status=download.status)
        finally:
            self.sockets.finish_download()

    def close(self) -> None:
        """Close all connections."""
        for adapter in self._adapters.values():
            adapter.close()
        self.sockets.close()

    def _get_or_repeat(self, download: Download) -> SnapshotBody | SnapshotFailure:
        """Get a snapshot; if a kept connection turns out to be dead, repeat the request at once on a new one.

        After a permanent refusal no connection is kept: a new one, so perhaps another server, is to confirm it.
        """
        try:
            result = self._get(download)
        except (requests.ConnectionError, requests.Timeout):
            if not self.sockets.is_reused or download.status is not None:
                raise
            self._kept.distrust(time.monotonic())
            if not download.may_repeat():
                raise
            result = self._get(download)
        if isinstance(result, SnapshotFailure) and result.permanent is not None:
            self._kept.distrust(time.monotonic())
        return result

    def _adapter(self, url: str) -> EndableAdapter:
        is_tls = url.startswith("https:")
        if is_tls not in self._adapters:
            context = tls_context("snapshots") if is_tls else None
            self._adapters[is_tls] = EndableAdapter(self.sockets, context)
        return self._adapters[is_tls]

    def _get(self, download: Download) -> SnapshotBody | SnapshotFailure:
        client, request = download.ticket.client, download.ticket.request
        prepared = requests.Request(
            "GET",
            download.ticket.url,
            params=client.venue.snapshot_params(request.market, request.limit),
            # Only the encoding that BodyReader can bound.
            headers={"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": download.user_agent},
        ).prepare()
        assert prepared.url is not None
        proxy = download.proxy
        # Not Session.send(), which keeps cookies, resolves redirects and reads the environment.
        response = self._adapter(prepared.url).send(
            prepared,
            stream=True,
            timeout=self._timeout,
            proxies={} if proxy is None else {"http": proxy.url, "https": proxy.url},
        )
        with contextlib.closing(response):
            download.headers = read_headers(response.headers)
            download.status = response.status_code
            body = self._read(response)
            result, download.headers = judge_reply(
                request.market, response.status_code, download.headers, body, time.time_ns()
            )
            if proxy is not None and response.status_code == requests.codes.proxy_authentication_required:
                what = f"the proxy {proxy} answers HTTP {response.status_code}"
                return failure(request.market, FailureKind.PROXY, what, status=response.status_code)
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


def _way(kind: FailureKind, proxy: Proxy | None) -> str:
    """Return the beginning of an error that names the proxy, if one was used."""
    if proxy is None:
        return ""
    return f"the proxy {proxy} failed: " if kind is FailureKind.PROXY else f"through the proxy {proxy}: "
