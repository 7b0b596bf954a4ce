"""The REST side of the simulated exchange: snapshots with their faults, and its count of the requests.

Rule 1: it is the oracle of the rate limits. It counts weight as the exchange does: in minutes of its own clock, at some
        moment between request and answer. It objects to a request that an answer had forbidden by then.
Rule 2: a fault is a name. Its answer goes through the library's own `judge_reply`.
"""

import random
from collections import Counter
from typing import NamedTuple

from history_engine import EngineMarket, Level, Truth

from ldc.snapshots.reply import (
    NO_HEADERS,
    FailureKind,
    ReplyHeaders,
    SnapshotBody,
    SnapshotFailure,
    failure,
    judge_reply,
)

LATENCY_S_MAX = 0.4
"""Of an answer without a fault."""

HTTP_FAULTS = (
    "503", "429", "429 with Retry-After", "418 with Retry-After", "418", "403", "html", "empty", "cut", "timeout",
    "unreachable", "error code", "slow", "slow", "unknown market",
)  # fmt: skip
BODY_FAULTS = ("crossed", "repeated price", "negative", "lagging", "lagging", "unsorted", "zero quantity", "no levels")

_PAUSE_S = {429: 60.0, 418: 120.0, 403: 60.0}


class Falsehood(NamedTuple):
    """How a snapshot is false in a way that no check of it alone can find."""

    kind: str
    """ "quantity" or "missing": of one bid. "prices": of another market. A quantity may have a number, as in
    "quantity 1": that of another number is never the same."""
    horizon: float
    """The false bid is not below this: the market's copy claims to know it."""


class Answer(NamedTuple):
    """The answer to a request, and when it arrives."""

    result: SnapshotBody | SnapshotFailure
    headers: ReplyHeaders
    latency_s: float
    refused_until: float | None = None
    """Once this answer has arrived, nothing may be requested until then."""


class RestServer:
    """Answers requests for snapshots."""

    def __init__(self, rng: random.Random, weight_per_minute: int, share: float) -> None:
        self.rng = rng
        self.allowed = int(weight_per_minute * share)
        self.clock_offset_s = rng.random() * 60
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.minutes: Counter[int] = Counter()  # the weight of the library's requests
        self.foreign: Counter[int] = Counter()  # of other programs at this address
        self.pauses: list[tuple[float, float]] = []  # from when the library knew of it, until when

    def answer(
        self, market: EngineMarket, limit: int, weight: int, now: float, *, falsehood: Falsehood | None
    ) -> Answer:
        """Answer a request that is sent now. `falsehood`: falsify the levels in this way."""
        rng = self.rng
        for begin, end in self.pauses:
            assert not begin <= now < end, f"a request at {now}, although an answer at {begin} forbade it until {end}"
        fault = self.faults.pop(0) if self.faults else None
        latency_s = 0.03 + rng.random() * (LATENCY_S_MAX - 0.03)
        if fault == "slow":
            latency_s = 2.0 + rng.random() * 5.0
        elif fault == "timeout":
            latency_s = 10.0
        if fault is not None:
            self.counts[fault] += 1
        headers = self._count(weight, now, latency_s)
        if fault == "timeout":
            return Answer(failure(market.symbol, FailureKind.TIMED_OUT, "timeout"), NO_HEADERS, latency_s)
        if fault == "unreachable":
            return Answer(failure(market.symbol, FailureKind.UNREACHABLE, "reset"), NO_HEADERS, latency_s)
        status, body = self._reply(market, limit, fault, falsehood)
        refused_until = None
        if status in _PAUSE_S:
            if fault is not None and fault.endswith("Retry-After"):
                headers = headers._replace(retry_after_s=float(rng.choice((1, 2, 3, 7))))
            pause_s = headers.retry_after_s or _PAUSE_S[status]
            refused_until = now + latency_s + pause_s
        result, headers = judge_reply(market.symbol, status, headers, body, 1)
        return Answer(result, headers, latency_s, refused_until)

    def note_received(self, answer: Answer, now: float) -> None:
        """The answer has arrived. A machine that sleeps reads it only after it has woken up."""
        if answer.refused_until is not None:
            self.pauses.append((now, answer.refused_until))

    def use_weight_elsewhere(self, weight: int, now: float) -> None:
        """Another program at this IP address has used some weight."""
        self.foreign[int((now + self.clock_offset_s) // 60)] += weight

    def _count(self, weight: int, now: float, latency_s: float) -> ReplyHeaders:
        counted_at = now + self.clock_offset_s + latency_s * self.rng.random()
        minute = int(counted_at // 60)
        self.minutes[minute] += weight
        assert self.minutes[minute] <= self.allowed, f"{self.minutes[minute]} of {self.allowed} weight in a minute"
        self.counts["requests"] += 1
        return ReplyHeaders(self.minutes[minute] + self.foreign[minute], float(int(counted_at)), None)

    def _reply(
        self, market: EngineMarket, limit: int, fault: str | None, falsehood: Falsehood | None
    ) -> tuple[int, bytes]:
        match fault:
            case "503" | "403":
                return int(fault), b"<html>sorry</html>"
            case "429" | "429 with Retry-After" | "418" | "418 with Retry-After":
                return int(fault[:3]), b'{"code":-1003,"msg":"Way too much request weight used."}'
            case "html":
                return 200, b"<html>200 is not OK</html>"
            case "empty":
                return 200, b""
            case "error code":
                return 400, b'{"code":-1000,"msg":"An unknown error occurred."}'
            case "unknown market":
                return 400, b'{"code":-1121,"msg":"Invalid symbol."}'
        body = self._body(market, limit, fault, falsehood)
        return 200, body[: len(body) // 2] if fault == "cut" else body

    def _body(self, market: EngineMarket, limit: int, fault: str | None, falsehood: Falsehood | None) -> bytes:
        rng = self.rng
        update_id = market.snapshot_at(rng.choice((1, 3, 10, 30)) if fault == "lagging" else 0)
        truth = market.truth(update_id)
        assert truth is not None
        bids, asks = list(truth.bids[:limit]), list(truth.asks[:limit])
        if falsehood is not None:
            bids, asks = self._falsified(falsehood, truth, limit)
        if fault == "unsorted":
            rng.shuffle(bids)
            rng.shuffle(asks)
        elif fault == "repeated price":
            bids += bids[:1] or [(1.0, 1.0), (1.0, 1.0)]
        elif fault == "crossed":
            bids[:0] = [((asks[-1][0] if asks else 500.0) + 1.0, 1.0)]
            asks = asks or [(500.0, 1.0)]
        body = f'{{"lastUpdateId":{update_id},"bids":[{market.sides(bids)}],"asks":[{market.sides(asks)}]}}'
        if fault == "negative":
            body = body.replace('"lastUpdateId":', '"lastUpdateId":-')
        elif fault == "no levels":
            body = body.replace('"asks":', '"a":')
        elif fault == "zero quantity":
            body = body.replace('"asks":[', '"asks":[["1600.00","0.00"],' if asks else '"asks":[["1600.00","0.00"]')
        return body.encode()

    def _falsified(self, falsehood: Falsehood, truth: Truth, limit: int) -> tuple[list[Level], list[Level]]:
        bids, asks = list(truth.bids[: limit + 1]), list(truth.asks[:limit])
        places = [place for place, (price, _) in enumerate(bids[:limit]) if price >= falsehood.horizon]
        if falsehood.kind == "prices":
            bids, asks = ([(price * 4, quantity) for price, quantity in side] for side in (bids, asks))
        elif places:
            self.counts["falsehoods"] += 1
            place = places[int(self.rng.random() * len(places))]
            if falsehood.kind == "missing":
                del bids[place]
            else:
                number = int(falsehood.kind.partition(" ")[2] or 0)
                bids[place] = (
                    bids[place][0],
                    bids[place][1] + 100.0 + number * 1000.0 + int(self.rng.random() * 3800) / 4,
                )
        return bids[:limit], asks
