"""What one connection asks the exchange for: streams wanted, requests to send, answers awaited. Without I/O.

Rule 1: what is wanted is kept as sets of streams, and becomes requests only when one may be sent: so that however it
    was asked for, it costs few.
Rule 2: a stream that is refused does not cost the others theirs: its request is taken apart until it is alone.
Rule 3: no request is lost. One that is not answered is sent again; one that never is ends the connection.

The requests are those of Binance's market streams: ``{"method":"SUBSCRIBE","params":[streams],"id":n}``.
"""

import json
import math
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from ldc.network.text import printable

__all__ = [
    "ACKNOWLEDGE_S",
    "ACKNOWLEDGE_TRIES_MAX",
    "STREAMS_PER_REQUEST_MAX",
    "NotAcknowledged",
    "RequestRefused",
    "StreamRequests",
]

STREAMS_PER_REQUEST_MAX = 100
"""Streams in one SUBSCRIBE or UNSUBSCRIBE. Frames of several hundred were seen to fail without a word."""

ACKNOWLEDGE_S = 5.0
"""A request that is not answered in this time is sent again."""

ACKNOWLEDGE_TRIES_MAX = 3
"""So many times; then the connection is given up, for it does not do what it is there for."""

REFUSED_S_MAX = 600.0
"""A stream that is refused is asked for again after ACKNOWLEDGE_S, then twice that, up to this."""


class RequestRefused(ValueError):
    """The exchange refuses a request of ours; the text says which, and what it says."""

    def __init__(self, message: str, streams: tuple[str, ...]) -> None:
        super().__init__(message)
        self.streams = streams


class NotAcknowledged(Exception):
    """A request was sent `ACKNOWLEDGE_TRIES_MAX` times, and never answered."""


class _Request(NamedTuple):
    """A control request that awaits its answer."""

    method: str
    streams: tuple[str, ...]
    tries: int = 0
    refusals: int = 0
    due: float = 0.0
    """When it is sent again."""


class StreamRequests:
    """The subscriptions of one connection. Not thread-safe: it belongs to the group's thread."""

    def __init__(self) -> None:
        self.streams: set[str] = set()
        """Subscribed, or asked for."""
        self.acknowledged: dict[str, float] = {}
        """The subscriptions that the exchange has accepted, and when the answer came."""
        # What is to be asked for: unsubscriptions go first, so that a stream may stand in both. (Dicts keep the order.)
        self._to_unsubscribe: dict[str, None] = {}
        self._to_request_again: deque[_Request] = deque()
        self._to_subscribe: dict[str, None] = {}
        self._asked: set[str] = set()  # what the exchange may be sending: from the request on, until it has let go
        self._requested: dict[int, _Request] = {}
        self._next_id = 1

    def subscribe(self, streams: Iterable[str]) -> None:
        """Ask for streams that are not subscribed yet."""
        for stream in streams:
            if stream not in self.streams:
                self.streams.add(stream)
                self._to_subscribe[stream] = None

    def unsubscribe(self, streams: Iterable[str]) -> None:
        """Give up streams. One that is subscribed again right away gets a new subscription."""
        for stream in streams:
            if stream in self.streams:
                self.streams.remove(stream)
                self.acknowledged.pop(stream, None)
                self._to_subscribe.pop(stream, None)
                if stream in self._asked:
                    self._to_unsubscribe[stream] = None

    def may_bring(self, stream: str) -> bool:
        """Whether the stream was asked for, and has not been let go of by the exchange yet."""
        return stream in self._asked

    # requests

    @property
    def has_next(self) -> bool:
        """Whether there is something to ask for."""
        return bool(self._to_unsubscribe or self._to_request_again or self._to_subscribe)

    @property
    def are_all_answered(self) -> bool:
        """Whether nothing is to be asked for, and no answer awaited."""
        return not self._requested and not self.has_next

    def next_message(self, now: float) -> str | None:
        """Return the next request, as text to send now; None: what was to be asked again is not wanted any more."""
        request = self._next_request()
        if request is None:
            return None
        if request.method == "SUBSCRIBE":
            self._asked.update(request.streams)
        number = self._next_id
        self._next_id += 1
        self._requested[number] = request._replace(tries=request.tries + 1, due=now + ACKNOWLEDGE_S)
        message = {"method": request.method, "params": list(request.streams), "id": number}
        return json.dumps(message, ensure_ascii=False)

    def _next_request(self) -> _Request | None:
        if self._to_unsubscribe:
            return _Request("UNSUBSCRIBE", _taken(self._to_unsubscribe))
        if not self._to_request_again:
            return _Request("SUBSCRIBE", _taken(self._to_subscribe))
        request = self._to_request_again.popleft()
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
        """Take the answer to a request and return the streams that are now subscribed.

        What is refused is asked for again later, whole at first, then each half on its own. Raises `RequestRefused`,
        and another ``ValueError`` for what is no answer to a request of ours.
        """
        reply = json.loads(payload)
        number = reply.get("id") if isinstance(reply, dict) else None
        if type(number) is not int or number not in self._requested:
            raise ValueError("not the answer to a request of this connection")
        request = self._requested.pop(number)
        if "error" in reply or "code" in reply:
            self._take_refusal(number, request, now)
            concerned = f"{request.streams[0]!r}" if len(request.streams) == 1 else f"{len(request.streams)} streams"
            said = printable(reply.get("error", reply))
            text = f"the exchange refuses the {request.method} of {concerned}: {said}"
            raise RequestRefused(text, request.streams)
        if request.method == "UNSUBSCRIBE":
            self._asked.difference_update(stream for stream in request.streams if stream not in self.streams)
            return ()
        # One that has been asked for anew since then is acknowledged by the answer to that.
        renewed = {
            stream
            for other_number, other in self._requested.items()
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
                self._to_request_again.append(refused._replace(streams=part))
        else:
            wait_s = min(REFUSED_S_MAX, ACKNOWLEDGE_S * 2.0 ** min(request.refusals, 10))
            self._requested[number] = refused._replace(due=now + wait_s)

    # time

    def next_due(self) -> float:
        """Return when `expire` has something to do next."""
        return min((request.due for request in self._requested.values()), default=math.inf)

    def expire(self, now: float) -> None:
        """Plan again what was not answered in time. Raises `NotAcknowledged` for what never is."""
        for number, request in list(self._requested.items()):
            if now < request.due:
                continue
            del self._requested[number]
            if request.tries >= ACKNOWLEDGE_TRIES_MAX:
                raise NotAcknowledged(f"{request.method} was not acknowledged in {request.tries} tries")
            self._to_request_again.append(request)


def _taken(streams: dict[str, None]) -> tuple[str, ...]:
    """Take the first streams out, as many as one request may have."""
    part = tuple(islice(streams, STREAMS_PER_REQUEST_MAX))
    for stream in part:
        del streams[stream]
    return part
