"""The venues: one immutable row of data for each exchange, and the pure functions that read a row.

Rule 1: every difference between two exchanges is a field of `Venue`. No ``if`` on an exchange's name here or elsewhere.
Rule 2: a row has only facts from Binance's documents or from recorded traffic. An assumption is marked ASSUMED and errs
    on the harmless side: fewer levels, more weight, less budget.
Rule 3: nothing here does I/O, waits, counts or has state.

The comments name their source:

    D    the official spot documentation (2026-07)
    SDK  the official Python connectors (2026-08 and later)
    FD   the official derivatives pages
    US   the binance.us documentation (2024-06)
    CAP  recorded traffic
    NT   the nautilus_trader adapter; third-party, therefore weaker

Read this before you change a row:

- Since 2026-04-23 the depth streams of USD-M and of options are under ``/public`` (FD). Elsewhere a subscription may be
  acknowledged and stay silent. COIN-M has no such split (SDK).
- Since 2026-06-30 USD-M and COIN-M count their requests in one pool of 2400 a minute (FD). The rows share a
  `weight_family`.
- A venue that cannot serve the requested levels sends fewer without an error. The book would take such a snapshot for
  complete. So `Venue.honoured_limit` decides the limit before the request.
- Stream names are lower case and REST symbols upper case, but only in their ASCII letters. Spot lists symbols such as
  ``这是测试币456`` (D), and the case of other letters is not documented.
"""

import difflib
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from ldc.errors import UnknownExchange
from ldc.sequence import FUTURES, SPOT, SequenceRule

PERMANENT_ERROR_CODES = frozenset({-1121, -1122, -1220, -4108})
"""Error codes that no retry can cure: an invalid symbol (-1121), an invalid status of the symbol (-1122), a symbol
without the requested status (-1220), a contract that is delivered, settled, closed or not traded yet (-4108) (D)."""

SNAPSHOT_STEPS = (100, 1000)
"""Levels a side of a market's first and second snapshot. The next one has the venue's maximum."""

MARKET_LENGTH_MAX = 50
"""Characters: the exchange's own bound (its error -1100). A longer market is a ``ValueError``."""

CLOSE_MIN = 0.75
"""How alike two names are, as a ratio of `difflib`, that are taken for one with a typing error."""

_MARKET = re.compile(rf"[\w.\-]{{1,{MARKET_LENGTH_MAX}}}")
_MARKET_ELSEWHERE = re.compile(r"([A-Za-z0-9]+)[/_\-]([A-Za-z]+)(?::[A-Za-z0-9]+)?")
_SEPARATORS = re.compile(r"[\s/_.:\-]")
_BASE_URI = re.compile(r"([a-z]+)://(?:[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_TO_UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)


class UpdateSpeed(NamedTuple):
    """The update interval of a depth stream, and its spelling."""

    interval_ms: int
    suffix: str
    """Follows the symbol in the name of the stream."""


class WeightStep(NamedTuple):
    """The weight of a snapshot whose limit is above the previous step's `limit_max` and at most this one's."""

    limit_max: int
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Venue:
    """One exchange, as far as depth caches need it. Immutable, so threads may share it."""

    exchange: str
    """Its name in the API of ldc."""
    restful_base_uris: tuple[str, ...]
    """The first is used, and after a failure the next one: documented equivalents with the same budget. Empty: the
    launcher knows it."""
    websocket_base_uris: tuple[str, ...]
    """As above. Redundant connections use all of them, different hosts first."""
    depth_path: str
    """The REST endpoint of snapshots."""
    stream_path: str
    """The endpoint of combined streams, whose messages are ``{"stream":...,"data":...}``."""
    rule: SequenceRule
    """The sequence rule of its update ids."""
    snapshot_limits: tuple[int, ...] | None
    """The accepted limits, ascending; None: every one from 1 to the last step of `snapshot_weights`."""
    snapshot_weights: tuple[WeightStep, ...]
    """The weight of a snapshot by limit, ascending."""
    weight_family: str
    """Exchanges of one family draw on the same request weight of an IP address."""
    weight_per_minute: int
    """The request weight of an IP address in a minute."""
    update_speeds: tuple[UpdateSpeed, ...]
    """The documented JSON speeds, fastest first."""
    symbol_characters_dropped: str = ""
    """Characters of a market's usual spelling that the depth endpoints omit."""
    streams_per_connection: int = 1024
    connects_per_5_minutes: int = 300
    """Per IP address (D); the futures pages do not say: ASSUMED the same."""
    messages_per_second: int = 3
    """Messages that we send at most, pings and pongs included. D allows 5; FD says 10, but 5 was observed. The margin
    is for the network, which may deliver in one second the messages of one and a half."""
    launcher: str | None = None
    """``"module:function"`` that starts this exchange; None: it needs no start. The caller resolves it, so that this
    module does not import it."""

    @property
    def snapshot_limit_max(self) -> int:
        """The most levels a side of one snapshot."""
        return self.snapshot_weights[-1].limit_max

    @property
    def default_interval_ms(self) -> int:
        """The fastest documented speed."""
        return self.update_speeds[0].interval_ms

    def normalized_market(self, market: str) -> str:
        """Return a market in the spelling of the REST endpoint and of `s` in the payload.

        Raises ``ValueError`` for a text that cannot be a market, because it goes into URLs and subscriptions.
        """
        if not isinstance(market, str):
            raise TypeError(f"a market is a str such as 'BTCUSDT', not {type(market).__name__}")
        symbol = market.translate(_TO_UPPER).translate(
            {ord(dropped): None for dropped in self.symbol_characters_dropped}
        )
        if _MARKET.fullmatch(symbol) is None:
            plain = plain_market(market)
            hint = f". Other libraries spell {plain!r} so: did you mean that?" if plain is not None else ""
            raise ValueError(
                f"{market!r} cannot be a market of {self.exchange}: it takes 1 to {MARKET_LENGTH_MAX} letters, digits "
                f"and _ - . such as 'BTCUSDT', without a slash or a blank{hint}"
            )
        return symbol

    def stream_name(self, market: str, interval_ms: int | None = None) -> str:
        """Return the name of a market's depth stream; `interval_ms` None: the fastest.

        Raises ``ValueError`` with the valid choices for an interval that the exchange does not document.
        """
        wanted_ms = self.default_interval_ms if interval_ms is None else interval_ms
        for speed in self.update_speeds:
            if speed.interval_ms == wanted_ms:
                return self.normalized_market(market).translate(_TO_LOWER) + speed.suffix
        choices = ", ".join(str(speed.interval_ms) for speed in self.update_speeds)
        raise ValueError(f"{self.exchange} has no depth stream of {interval_ms!r} ms; choose one of {choices}")

    def stream_url(self, websocket_base_uri: str | None = None) -> str:
        """Return the URL of the combined-stream endpoint, on the venue's first base or on the one given."""
        return _joined(self, websocket_base_uri, self.websocket_base_uris, ("wss", "ws"), self.stream_path)

    def stream_urls(self, count: int, websocket_base_uri: str | None = None) -> tuple[str, ...]:
        """Return the URLs for `count` connections of the same streams: on different hosts, then on different ports.

        URLs repeat if the venue has too few. With a base given, all URLs are on that.
        """
        if websocket_base_uri is not None or not self.websocket_base_uris:
            return (self.stream_url(websocket_base_uri),) * count
        hosts = [base_uri.split("/")[2].split(":")[0] for base_uri in self.websocket_base_uris]
        places = range(len(hosts))
        spread = sorted(places, key=lambda place: hosts[:place].count(hosts[place]))  # stable: else in the row's order
        return tuple(
            self.websocket_base_uris[spread[number % len(spread)]] + self.stream_path for number in range(count)
        )

    @property
    def all_stream_urls(self) -> tuple[str, ...]:
        """The URLs of `stream_urls`, each once; empty if the launcher tells the address."""
        return self.stream_urls(len(self.websocket_base_uris)) if self.websocket_base_uris else ()

    def snapshot_url(self, restful_base_uri: str | None = None) -> str:
        """Return the URL of the depth endpoint, on the venue's first base or on the one given."""
        return _joined(self, restful_base_uri, self.restful_base_uris, ("https", "http"), self.depth_path)

    def snapshot_urls(self, restful_base_uri: str | None = None) -> tuple[str, ...]:
        """Return the URLs of the depth endpoint, in the row's order: documented equals. With a base given only that."""
        if restful_base_uri is not None or not self.restful_base_uris:
            return (self.snapshot_url(restful_base_uri),)
        return tuple(base_uri + self.depth_path for base_uri in self.restful_base_uris)

    def snapshot_params(self, market: str, limit: int) -> dict[str, str]:
        """Return the query of a snapshot of `limit` levels, which must be one that the venue honours."""
        if self.honoured_limit(limit) != limit:
            raise ValueError(f"{self.exchange} serves no snapshot of {limit} levels; call honoured_limit() first")
        return {"symbol": self.normalized_market(market), "limit": str(limit)}

    def honoured_limit(self, limit: int) -> int:
        """Return the largest limit that the venue serves and that is at most `limit`.

        `limit` is rounded up only below the smallest served limit. Raises ``ValueError`` for less than 1.
        """
        if type(limit) is not int or limit < 1:
            raise ValueError(f"a snapshot has at least 1 level, so that {limit!r} cannot be its limit")
        if self.snapshot_limits is None:
            return min(limit, self.snapshot_limit_max)
        return max((served for served in self.snapshot_limits if served <= limit), default=self.snapshot_limits[0])

    def snapshot_weight(self, limit: int) -> int:
        """Return the request weight of a snapshot of `limit` levels."""
        for step in self.snapshot_weights:
            if limit <= step.limit_max:
                return step.weight
        raise ValueError(f"{self.exchange} serves at most {self.snapshot_limit_max} levels, not {limit}")

    def snapshot_steps(self, snapshot_limit: int | None = None) -> tuple[int, ...]:
        """Return the limits of a market's successive snapshots, ascending, each at most `snapshot_limit` (if given)."""
        deepest = self.honoured_limit(self.snapshot_limit_max if snapshot_limit is None else snapshot_limit)
        return tuple(sorted({self.honoured_limit(min(step, deepest)) for step in (*SNAPSHOT_STEPS, deepest)}))

    def at(self, restful_base_uris: Sequence[str], websocket_base_uris: Sequence[str]) -> "Venue":
        """Return this exchange at other addresses, which serve the same. Both lists have the same order.

        They count as a server of their own, with a budget of its own. Raises ``ValueError`` for what is no base URI.
        """
        if not restful_base_uris or len(restful_base_uris) != len(websocket_base_uris):
            raise ValueError(
                "restful_base_uri and websocket_base_uri are lists of one length: the n-th of one belongs to the n-th "
                f"of the other; {len(restful_base_uris)} and {len(websocket_base_uris)} were given"
            )
        restful = tuple(checked_base_uri(each, ("https", "http")) for each in restful_base_uris)
        websocket = tuple(checked_base_uri(each, ("wss", "ws")) for each in websocket_base_uris)
        return replace(
            self,
            restful_base_uris=restful,
            websocket_base_uris=websocket,
            weight_family=f"{self.weight_family} at {' '.join(restful)}",
            launcher=None,
        )

    def weight_budget_name(self, restful_base_uri: str | None = None) -> str:
        """Return the name of the weight budget of that base. Equal names share one budget.

        A base that the row does not document counts as a server of its own, with a budget of its own.
        """
        if restful_base_uri is None:
            return self.weight_family
        base_uri = checked_base_uri(restful_base_uri, ("https", "http"))
        return self.weight_family if base_uri in self.restful_base_uris else f"{self.weight_family} at {base_uri}"


def _joined(
    venue: Venue, base_uri: str | None, venue_base_uris: tuple[str, ...], schemes: tuple[str, ...], path: str
) -> str:
    if base_uri is not None:
        return checked_base_uri(base_uri, schemes) + path
    if not venue_base_uris:
        raise ValueError(f"{venue.exchange} has no fixed address: its launcher {venue.launcher} knows the base URI")
    return venue_base_uris[0] + path


def checked_base_uri(base_uri: str, schemes: tuple[str, ...]) -> str:
    """Return ``scheme://host[:port]`` without a trailing slash; raise ``ValueError`` for anything else.

    A path is refused because the venue's is appended, a user and a password because logs show the URI.
    """
    trimmed = base_uri.removesuffix("/")
    match = _BASE_URI.fullmatch(trimmed)
    if match is None or match[1] not in schemes:
        # The message does not repeat the text, which may hold a password.
        raise ValueError(f"a base URI is {' or '.join(schemes)}://host[:port] without a path; another one was given")
    return trimmed


OTHER_NAMES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "binance": ("ccxt", "binance.com"),
        "binanceusdm": ("ccxt", "binance.com-futures"),
        "binancecoinm": ("ccxt", "binance.com-coin_futures"),
        "binanceus": ("ccxt", "binance.us"),
        "binance_futures": ("cryptofeed", "binance.com-futures"),
        "binance_delivery": ("cryptofeed", "binance.com-coin_futures"),
        "binance_us": ("cryptofeed", "binance.us"),
        "binance_tr": ("cryptofeed", "trbinance.com"),
    }
)
"""What other libraries call an exchange: the library, and the name here. UBLDC's names are the names here."""


def venue_named(exchange: str) -> Venue:
    """Return the row of that exchange; raise `UnknownExchange`, with the valid names, if it has none.

    Case and blanks around the name do not matter.
    """
    wanted = exchange.strip().lower()
    venue = VENUES.get(wanted)
    if venue is None:
        choices = ", ".join(VENUES)
        hint = ""
        if (same := OTHER_NAMES.get(wanted)) is not None:
            hint = f" It is {same[0]}'s name of {same[1]!r}."
        elif (close := did_you_mean(wanted, tuple(VENUES))) is not None:
            hint = f" Did you mean {close!r}?"
        raise UnknownExchange(message=f"There is no exchange {exchange!r}; the exchanges are {choices}.{hint}")
    return venue


def did_you_mean(name: str, choices: Sequence[str]) -> str | None:
    """Return the choice that a name is most likely a misspelling of, or None. Separators do not matter."""
    plain = {_SEPARATORS.sub("", choice.lower()): choice for choice in choices}
    close = difflib.get_close_matches(_SEPARATORS.sub("", name.lower()), plain, n=1, cutoff=CLOSE_MIN)
    return plain[close[0]] if close else None


def plain_market(market: str) -> str | None:
    """Return the market that another library's spelling means; None for any other text.

    BTC/USDT and BTC/USDT:USDT are ccxt's BTCUSDT; BTC-USDT and BTC_USDT are that of several others.
    """
    found = _MARKET_ELSEWHERE.fullmatch(market)
    return found[1].upper() + found[2].upper() if found is not None else None


# D: depth diffs every 100 ms or, without a suffix, every 1000 ms.
_SPOT_SPEEDS = (UpdateSpeed(100, "@depth@100ms"), UpdateSpeed(1000, "@depth"))
# FD: 100, 250 (without a suffix) and 500 ms. `@depth@0ms` exists and is not documented.
_FUTURES_SPEEDS = (UpdateSpeed(100, "@depth@100ms"), UpdateSpeed(250, "@depth"), UpdateSpeed(500, "@depth@500ms"))
# SDK: options always want the suffix.
_OPTIONS_SPEEDS = (UpdateSpeed(100, "@depth@100ms"), UpdateSpeed(500, "@depth@500ms"))

# D: any limit up to 5000; more is cut to 5000.
_SPOT_WEIGHTS = (WeightStep(100, 5), WeightStep(500, 25), WeightStep(1000, 50), WeightStep(5000, 250))
# SDK, for USD-M and COIN-M alike.
_FUTURES_LIMITS = (5, 10, 20, 50, 100, 500, 1000)
_FUTURES_WEIGHTS = (WeightStep(50, 2), WeightStep(100, 5), WeightStep(500, 10), WeightStep(1000, 20))

_BINANCE_COM = Venue(
    exchange="binance.com",
    # D: api1 to api4 are faster and less stable; .vision serves market data only. All share an IP's weight (ASSUMED for
    # .vision: one budget for all cannot overspend).
    restful_base_uris=(
        "https://api.binance.com",
        "https://api-gcp.binance.com",
        "https://api1.binance.com",
        "https://api2.binance.com",
        "https://api3.binance.com",
        "https://api4.binance.com",
        "https://data-api.binance.vision",
    ),
    websocket_base_uris=(
        "wss://stream.binance.com:9443",
        "wss://stream.binance.com:443",
        "wss://data-stream.binance.vision",
    ),
    depth_path="/api/v3/depth",
    stream_path="/stream",
    rule=SPOT,
    snapshot_limits=None,
    snapshot_weights=_SPOT_WEIGHTS,
    weight_family="api.binance.com",
    weight_per_minute=6000,  # D, since 2023-08-25
    update_speeds=_SPOT_SPEEDS,
)

_SPOT_TESTNET = replace(  # D: testnet/general-info.md
    _BINANCE_COM,
    exchange="binance.com-testnet",
    restful_base_uris=("https://testnet.binance.vision", "https://api1.testnet.binance.vision"),
    websocket_base_uris=("wss://stream.testnet.binance.vision", "wss://stream.testnet.binance.vision:9443"),
    weight_family="testnet.binance.vision",
)

_USD_M = Venue(
    exchange="binance.com-futures",
    restful_base_uris=("https://fapi.binance.com",),
    websocket_base_uris=("wss://fstream.binance.com",),
    depth_path="/fapi/v1/depth",
    stream_path="/public/stream",  # FD, SDK: since 2026-04-23
    rule=FUTURES,
    snapshot_limits=_FUTURES_LIMITS,
    snapshot_weights=_FUTURES_WEIGHTS,
    weight_family="fapi+dapi.binance.com",  # FD: one pool since 2026-06-30
    weight_per_minute=2400,
    update_speeds=_FUTURES_SPEEDS,
    streams_per_connection=200,  # FD: 1024 now, 200 before; NT: 200
)

_COIN_M = replace(
    _USD_M,
    exchange="binance.com-coin_futures",
    restful_base_uris=("https://dapi.binance.com",),
    websocket_base_uris=("wss://dstream.binance.com",),
    depth_path="/dapi/v1/depth",
    stream_path="/stream",  # SDK: its route is empty
)

_OPTIONS = Venue(
    exchange="binance.com-vanilla-options",
    restful_base_uris=("https://eapi.binance.com",),
    websocket_base_uris=("wss://fstream.binance.com",),  # FD: since 2026-01; nbstream.binance.com before
    depth_path="/eapi/v1/depth",
    stream_path="/public/stream",
    rule=FUTURES,
    # SDK. Its weight table also has 5, its list of limits does not: omitted.
    snapshot_limits=(10, 20, 50, 100, 500, 1000),
    snapshot_weights=(WeightStep(50, 1), WeightStep(100, 5), WeightStep(500, 10), WeightStep(1000, 20)),
    weight_family="eapi.binance.com",
    weight_per_minute=2400,  # ASSUMED: the example in FD's exchangeInfo; NT assumes 3000
    update_speeds=_OPTIONS_SPEEDS,
    streams_per_connection=200,  # FD
)

# SDK: one REST host for the testnets of both kinds of futures; options likewise (NT). ASSUMED to count as one.
_FUTURES_TESTNET = "https://testnet.binancefuture.com"

_BINANCE_US = Venue(  # US, CAP
    exchange="binance.us",
    restful_base_uris=("https://api.binance.us",),
    websocket_base_uris=("wss://stream.binance.us:9443",),  # 443 refused connections in 2020
    depth_path="/api/v3/depth",
    stream_path="/stream",
    rule=SPOT,
    snapshot_limits=None,
    snapshot_weights=(WeightStep(100, 1), WeightStep(500, 5), WeightStep(1000, 10), WeightStep(5000, 50)),
    weight_family="api.binance.us",
    weight_per_minute=1200,
    update_speeds=_SPOT_SPEEDS,
)

_BINANCE_TR = Venue(
    exchange="trbinance.com",
    restful_base_uris=("https://api.binance.me",),  # the TR documentation of 2026-05, for its "type 1" symbols
    websocket_base_uris=("wss://stream-cloud.binance.tr",),
    depth_path="/api/v3/depth",
    stream_path="/stream",
    rule=SPOT,
    # ASSUMED: limits that every version of this endpoint accepted (CAP: 1000 works), the weights of spot, and the 1200
    # a minute of its exchangeInfo in 2023. 5000 was never observed. If it is not served, a book would look complete.
    snapshot_limits=_FUTURES_LIMITS,
    snapshot_weights=_SPOT_WEIGHTS[:-1],
    weight_family="api.binance.me",
    weight_per_minute=1200,
    update_speeds=_SPOT_SPEEDS,
    symbol_characters_dropped="_",  # BTC_TRY at its other endpoints is BTCTRY at its depth endpoints
    streams_per_connection=200,  # ASSUMED
)

_SIMULATOR_LAUNCHER = "ldc.simulator:launch"

_ROWS = (
    _BINANCE_COM,
    _SPOT_TESTNET,
    replace(  # D: demo-mode/general-info.md
        _BINANCE_COM,
        exchange="binance.com-demo",
        restful_base_uris=("https://demo-api.binance.com",),
        websocket_base_uris=("wss://demo-stream.binance.com", "wss://demo-stream.binance.com:9443"),
        weight_family="demo-api.binance.com",
    ),
    # Margin trades in the spot books.
    replace(_BINANCE_COM, exchange="binance.com-margin"),
    replace(_SPOT_TESTNET, exchange="binance.com-margin-testnet"),
    replace(_BINANCE_COM, exchange="binance.com-isolated_margin"),
    replace(_SPOT_TESTNET, exchange="binance.com-isolated_margin-testnet"),
    _USD_M,
    replace(  # SDK
        _USD_M,
        exchange="binance.com-futures-testnet",
        restful_base_uris=(_FUTURES_TESTNET,),
        websocket_base_uris=("wss://fstream.binancefuture.com",),
        weight_family="testnet.binancefuture.com",
    ),
    _COIN_M,
    replace(  # SDK
        _COIN_M,
        exchange="binance.com-coin_futures-testnet",
        restful_base_uris=(_FUTURES_TESTNET,),
        websocket_base_uris=("wss://dstream.binancefuture.com",),
        weight_family="testnet.binancefuture.com",
    ),
    _OPTIONS,
    replace(  # NT
        _OPTIONS,
        exchange="binance.com-vanilla-options-testnet",
        restful_base_uris=(_FUTURES_TESTNET,),
        websocket_base_uris=("wss://fstream.binancefuture.com",),
        weight_family="testnet.binancefuture.com",
    ),
    _BINANCE_US,
    _BINANCE_TR,
    replace(
        _BINANCE_COM,
        exchange="simulator",
        restful_base_uris=(),
        websocket_base_uris=(),
        weight_family="simulator",
        launcher=_SIMULATOR_LAUNCHER,
    ),
    replace(
        _USD_M,
        exchange="simulator-futures",
        restful_base_uris=(),
        websocket_base_uris=(),
        weight_family="simulator-futures",
        launcher=_SIMULATOR_LAUNCHER,
    ),
)

VENUES: Mapping[str, Venue] = MappingProxyType({row.exchange: row for row in _ROWS})
"""Every supported exchange, by name."""
