"""What one connection requests: streams wanted, requests to send, answers awaited. Without I/O.

Rule 1: wanted streams are kept as sets. They become requests only when one may be sent, so that many calls make few
    requests.
Rule 2: a refused stream does not cost the others theirs: its request is halved until the stream is alone.
Rule 3: no request is lost. One without an answer is sent again; in the end it costs the connection.

The requests are those of Binance's market streams: ``{"method":"SUBSCRIBE","params":[streams],"id":n}``.
"""

import json
import math
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from ldc.limits import Timing
from ldc.network.text import printable

STREAMS_PER_REQUEST_MAX = 100
"""Streams in one SUBSCRIBE or UNSUBSCRIBE. Requests of several hundred were seen to fail without an answer."""

ACKNOWLEDGE_TRIES_MAX = 3
"""A request that was sent so often without an answer ends the connection, which is of no use then."""


class RequestRefused(ValueError):
    """The exchange refuses a request; the text quotes both."""

    def __init__(self, message: str, streams: tuple[str, ...]) -> None:
        super().__init__(message)
        self.streams = streams


class NotAcknowledged(Exception):
    """A request was sent `ACKNOWLEDGE_TRIES_MAX` times, and never answered."""


class _Request(NamedTuple):
    """A request, and how often it was sent and refused."""

    method: str
    streams: tuple[str, ...]
    tries: int = 0
    refusals: int = 0
    due: float = 0.0
    """When it is sent again, unless it is answered."""


class StreamRequests:
    """The subscriptions of one connection. Not thread-safe: it belongs to the group's thread."""

    def __init__(self, timing: Timing) -> None:
        self.streams: set[str] = set()
        """Wanted: subscribed, or to be subscribed."""
        self.acknowledged: dict[str, float] = {}
        """The subscriptions that the exchange has accepted, and when the answer came."""
        self._timing = timing
        # What to request: unsubscriptions go first, so that a stream may be in both. (Dicts keep the order.)
        self._to_unsubscribe: dict[str, None] = {}
        self._to_repeat: deque[_Request] = deque()
        self._to_subscribe: dict[str, None] = {}
        self._active: set[str] = set()  # what the exchange may send: from SUBSCRIBE to the answer to UNSUBSCRIBE
        self._unanswered: dict[int, _Request] = {}  # refused ones too, until they are repeated
        self._next_id = 1

    def subscribe(self, streams: Iterable[str]) -> None:
        """Request streams that are not subscribed yet."""
        for stream in streams:
            if stream not in self.streams:
                self.streams.add(stream)
                self._to_subscribe[stream] = None

    def unsubscribe(self, streams: Iterable[str]) -> None:
        """Request the end of streams. One that is subscribed again at once gets a new subscription."""
        for stream in streams:
            if stream in self.streams:
                self.streams.remove(stream)
                self.acknowledged.pop(stream, None)
                self._to_subscribe.pop(stream, None)
                if stream in self._active:
                    self._to_unsubscribe[stream] = None

    def may_bring(self, stream: str) -> bool:
        """Whether the exchange may send the stream: requested, and its end not acknowledged."""
        return stream in self._active

    # requests

    @property
    def has_next(self) -> bool:
        """Whether there is something to request."""
        return bool(self._to_unsubscribe or self._to_repeat or self._to_subscribe)

    @property
    def are_all_answered(self) -> bool:
        """Whether there is nothing to request and no answer to await."""
        return not self._unanswered and not self.has_next

    def next_message(self, now: float) -> str | None:
        """Return the next request, as text to send now; None: what was to be repeated is no longer wanted."""
        request = self._next_request()
        if request is None:
            return None
        if request.method == "SUBSCRIBE":
            self._active.update(request.streams)
        number = self._next_id
        self._next_id += 1
        self._unanswered[number] = request._replace(tries=request.tries + 1, due=now + self._timing.acknowledge_s)
        message = {"method": request.method, "params": list(request.streams), "id": number}
        return json.dumps(message, ensure_ascii=False)

    def _next_request(self) -> _Request | None:
        if self._to_unsubscribe:
            return _Request("UNSUBSCRIBE", _take_first(self._to_unsubscribe))
        if not self._to_repeat:
            return _Request("SUBSCRIBE", _take_first(self._to_subscribe))
        request = self._to_repeat.popleft()
        is_wanted = self._is_subscription_wanted if request.method == "SUBSCRIBE" else self._is_end_wanted
        streams = tuple(filter(is_wanted, request.streams))
        return request._replace(streams=streams) if streams else None

    def _is_subscription_wanted(self, stream: str) -> bool:
        is_open = stream in self.streams and stream not in self.acknowledged
        return is_open and stream not in self._to_subscribe

    def _is_end_wanted(self, stream: str) -> bool:
        return stream not in self.streams and stream not in self._to_unsubscribe

    # answers

    def take_reply(self, payload: bytes, now: float) -> tuple[str, ...]:
        """Take the answer to a request; return the streams that are subscribed now.

        A refused request is repeated later, first whole, then each half on its own. Raises `RequestRefused`, and
        another ``ValueError`` for what is no answer to a request of this connection.
        """
        reply = json.loads(payload)
        number = reply.get("id") if isinstance(reply, dict) else None
        if type(number) is not int or number not in self._unanswered:
            raise ValueError("not the answer to a request of this connection")
        request = self._unanswered.pop(number)
        if "error" in reply or "code" in reply:
            self._take_refusal(number, request, now)
            concerned = f"{request.streams[0]!r}" if len(request.streams) == 1 else f"{len(request.streams)} streams"
            said = printable(reply.get("error", reply))
            text = f"the exchange refuses the {request.method} of {concerned}: {said}"
            raise RequestRefused(text, request.streams)
        if request.method == "UNSUBSCRIBE":
            self._active.difference_update(stream for stream in request.streams if stream not in self.streams)
            return ()
        # A stream that was requested again since then is acknowledged by the later answer.
        renewed = {
            stream
            for other_number, other in self._unanswered.items()
            if other_number > number and other.method == "SUBSCRIBE"
            for stream in other.streams
        }
        streams = tuple(
            stream
            for stream in request.streams
            if stream in self.streams and stream not in self._to_subscribe and stream not in renewed
        )
        self.acknowledged.update(dict.fromkeys(streams, now))
        return streams

    def _take_refusal(self, number: int, request: _Request, now: float) -> None:
        refused = request._replace(tries=0, refusals=request.refusals + 1)
        half = len(request.streams) // 2
        if request.refusals > 0 and half > 0:
            for part in (request.streams[:half], request.streams[half:]):
                self._to_repeat.append(refused._replace(streams=part))
        else:
            wait_s = min(self._timing.refused_s_max, self._timing.acknowledge_s * 2.0 ** min(request.refusals, 10))
            self._unanswered[number] = refused._replace(due=now + wait_s)

    # time

    def next_due(self) -> float:
        """Return when `expire` has something to do next."""
        return min((request.due for request in self._unanswered.values()), default=math.inf)

    def expire(self, now: float) -> None:
        """Repeat what was not answered in time. Raises `NotAcknowledged` after `ACKNOWLEDGE_TRIES_MAX`."""
        for number, request in list(self._unanswered.items()):
            if now < request.due:
                continue
            del self._unanswered[number]
            if request.tries >= ACKNOWLEDGE_TRIES_MAX:
                raise NotAcknowledged(f"{request.method} was not acknowledged in {request.tries} tries")
            self._to_repeat.append(request)


def _take_first(streams: dict[str, None]) -> tuple[str, ...]:
    """Remove and return the first streams, as many as one request may have."""
    part = tuple(islice(streams, STREAMS_PER_REQUEST_MAX))
    for stream in part:
        del streams[stream]
    return part
