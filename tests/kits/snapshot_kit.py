"""For the tests of the downloader: a client that keeps its reports, and servers that stall."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from network_kit import clear_environment
from scripted_server import SNAPSHOT, Script, ScriptedServer, Talk, once, reply

from ldc.network.proxy import ProxyRules
from ldc.snapshots.downloader import (
    SnapshotBegins,
    SnapshotBody,
    SnapshotClient,
    SnapshotDownloader,
    SnapshotFailure,
    SnapshotRequest,
)
from ldc.sync.actions import Purpose
from ldc.venues import venue_named

SPOT = venue_named("binance.com")

LONG_S = 30.0
"""Seconds that a test waits for an event; a passing test never waits that long."""

STALLS = {
    "before the headers": once(b"", Talk.hold),
    "in the headers": once(b"HTTP/1.1 200 OK\r\nX-A: ", Talk.hold),
    "in the body": once(reply(SNAPSHOT[:20], Content_Length=100), Talk.hold),
    "in a body without a length": once(reply(SNAPSHOT[:20], Content_Length=None), Talk.hold),
    "in an old server's body": once(b"HTTP/1.0 200 OK\r\n\r\n{", Talk.hold),
    "trickling the headers": once(b"HTTP/1.1 200 OK\r\nX-A: ", lambda talk: talk.trickle(b"a")),
    "trickling the body": once(reply(b"{", Content_Length=10**6), lambda talk: talk.trickle(b" ")),
    "trickling chunks": once(
        reply(b"", Content_Length=None, Transfer_Encoding="chunked"), lambda talk: talk.trickle(b"1\r\n \r\n")
    ),
}
every_stall = pytest.mark.parametrize("script", STALLS.values(), ids=list(STALLS))


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A client, by default with a downloader of its own, and the reports that it got."""

    def __init__(self, base_uri: str, *, downloader: SnapshotDownloader | None = None, **settings: Any) -> None:
        of_downloader = {name: settings.pop(name) for name in ("download_s_max", "clock") if name in settings}
        if "proxy" in settings:
            settings["proxies"] = ProxyRules(settings.pop("proxy"))
        self.downloader = downloader or SnapshotDownloader(**of_downloader)
        self.reports: queue.Queue[tuple[SnapshotRequest, Any]] = queue.Queue()
        self.client: SnapshotClient = self.downloader.open(
            settings.pop("venue", SPOT), lambda *report: self.reports.put(report), restful_base_uri=base_uri, **settings
        )

    def ask(self, market: str = "BTCUSDT", limit: int = 100, epoch: int = 1, **rest: Any) -> None:
        self.client.request(market, epoch, rest.pop("purpose", Purpose.SYNCHRONIZE), limit, **rest)

    def hear(self) -> tuple[SnapshotRequest, SnapshotBegins | SnapshotBody | SnapshotFailure]:
        return self.reports.get(timeout=LONG_S)

    def result(self) -> SnapshotBody | SnapshotFailure:
        """Return the next news except `SnapshotBegins`."""
        while True:
            _, news = self.hear()
            if not isinstance(news, SnapshotBegins):
                return news

    def get(self, market: str = "BTCUSDT") -> SnapshotBody | SnapshotFailure:
        self.ask(market)
        return self.result()

    def failure(self) -> SnapshotFailure:
        result = self.get()
        assert isinstance(result, SnapshotFailure), result
        return result


class Kit:
    """Makes servers and clients, and closes them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[ScriptedServer] = []
        self._clients: list[Client] = []

    def serve(self, script: Script, scheme: str = "http", *, with_tls: bool = False) -> ScriptedServer:
        self._servers.append(ScriptedServer(script, scheme, self._folder if with_tls else None))
        return self._servers[-1]

    def client_of(self, base_uri: str, **settings: Any) -> Client:
        self._clients.append(Client(base_uri, **settings))
        return self._clients[-1]

    def close(self) -> None:
        for client in self._clients:
            client.client.close()
        wait_for_the_end_of(downloader_threads())
        for server in self._servers:
            server.close()


@contextlib.contextmanager
def made_kit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    """Yield a kit in an environment without proxies and certificates."""
    clear_environment(monkeypatch)
    kit = Kit(folder)
    yield kit
    kit.close()


def downloader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ldc-snapshot")]


def wait_for_the_end_of(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LONG_S)
    assert [thread.name for thread in threads if thread.is_alive()] == []
