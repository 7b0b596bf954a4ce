"""Recorded traffic as (market, kind, message) in the order in which it was received."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SNAPSHOT_LIMIT = 1000
"""What all recorded snapshots were requested with."""


class Recording(NamedTuple):
    """A run of one or more markets without an interruption."""

    rule: str
    files: tuple[str, ...]


RECORDINGS = {
    "spot_btcusdt": Recording("spot", ("spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz")),
    "usdm_ethusdt": Recording("futures", ("usdm_ethusdt_20240808.gz",)),
    "cm_ethusd_perp": Recording("futures", ("cm_ethusd_perp_20240808.gz",)),
    "spot_2021": Recording("spot", ("BINANCE.http.0.0.gz", "BINANCE.ws.1.0.gz")),
    "usdm_2021": Recording("futures", ("BINANCE_FUTURES.http.0.0.gz", "BINANCE_FUTURES.ws.1.0.gz")),
}


class Message(NamedTuple):
    """A message as it was received."""

    kind: str
    """ "snapshot", "depthUpdate", or "bookTicker"."""
    market: str
    payload: bytes


STREAM = re.compile(rb'^\{"stream":"(\w+)@(\w+)')
KINDS = {b"depth": "depthUpdate", b"bookTicker": "bookTicker"}


def messages_of(folder: Path, name: str) -> list[Message]:
    """Return snapshots, depth updates and book tickers of a recording. A market's snapshot stands where it came."""
    timed = [line for file in RECORDINGS[name].files for line in lines_of(folder / file, name.split("_", 1)[1].upper())]
    timed.sort(key=lambda line: line[0])  # stable: only the snapshots of the 2021 files lie in a file of their own
    return [message for _, message in timed]


def lines_of(file: Path, only_market: str) -> Iterator[tuple[float, Message]]:
    with gzip.open(file) as lines:
        for line in lines:
            url = re.match(rb"\S+/depth\?symbol=(\w+)&limit=1000 -> ", line)
            time, _, payload = (line[url.end() :] if url else line).rstrip(b"\n").partition(b" ")
            payload = payload.strip()
            market = url[1].decode() if url else only_market
            stream = STREAM.match(payload)
            if stream and stream[2] in KINDS:
                yield float(time.rstrip(b":")), Message(KINDS[stream[2]], stream[1].decode().upper(), payload)
            elif payload.startswith(b'{"lastUpdateId"'):
                yield float(time.rstrip(b":")), Message("snapshot", market, payload)
