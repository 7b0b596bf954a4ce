"""One error for one state: the manager, the depth cache and the reader that was kept raise the same."""

import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from messages import make_snapshot, make_update

from ldc import errors
from ldc.book import Lease
from ldc.errors import BookNotLoaded, DepthCacheAlreadyStopped, DepthCacheError, DepthCacheOutOfSync, UnknownMarket
from ldc.feed.group import FeedGroup
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.types import Cause, SyncState

MARKET = "BTCUSDT"
HOUR_NS = 3_600_000_000_000
LOST = [cause for cause in Cause if errors.REFUSALS[cause].error is DepthCacheOutOfSync]

Setup = Callable[[BinanceLocalDepthCacheManager, Any], object]


def load(cache: Any, limit: int | None = 1000) -> None:
    """Load a snapshot, of one level a side, and let the book be read."""
    lease = Lease(HOUR_NS)
    lease.renew(Lease.now_ns())
    cache.live.book.lease = lease
    cache.live.book.load_snapshot(make_snapshot([("100", "1")], [("101", "1")]), limit)
    cache.live.book.resume()


def fail(manager: BinanceLocalDepthCacheManager, cache: Any) -> None:
    cache.live.last_error = "There is no snapshot of BTCUSDT: -1121 'Invalid symbol.'; ldc does not try again."
    cache.live.synchronizer._end(time.monotonic(), SyncState.FAILED, Cause.UNKNOWN_MARKET)


def stall(manager: BinanceLocalDepthCacheManager, cache: Any) -> None:
    load(cache)
    cache.live.book.lease = Lease(1)


def cross(manager: BinanceLocalDepthCacheManager, cache: Any) -> None:
    load(cache)
    cache.live.book.apply(make_update(101, bids=[("102", "1")]))


def leave_horizon(manager: BinanceLocalDepthCacheManager, cache: Any) -> None:
    load(cache, limit=1)
    cache.live.book.apply(make_update(101, bids=[("100", "0")], asks=[("101", "0")]))


def stop_when_loaded(manager: BinanceLocalDepthCacheManager, cache: Any) -> None:
    load(cache)
    manager.stop_depth_cache(MARKET)


def stop_when_failed(manager: BinanceLocalDepthCacheManager, cache: Any) -> None:
    fail(manager, cache)
    manager.stop_depth_cache(MARKET)


def lose(cause: Cause) -> Setup:
    def setup(manager: BinanceLocalDepthCacheManager, cache: Any) -> None:
        load(cache)
        cache.live.book.suspend(cause)

    return setup


STATES: dict[str, tuple[Setup, Cause, type[DepthCacheError]]] = {
    "never loaded": (lambda manager, cache: None, Cause.NOT_LOADED, BookNotLoaded),
    "stalled": (stall, Cause.STALLED, DepthCacheOutOfSync),
    "crossed": (cross, Cause.CROSSED, DepthCacheOutOfSync),
    "left horizon": (leave_horizon, Cause.LEFT_HORIZON, DepthCacheOutOfSync),
    "failed": (fail, Cause.UNKNOWN_MARKET, UnknownMarket),
    "stopped": (stop_when_loaded, Cause.STOPPED, DepthCacheAlreadyStopped),
    "stopped when failed": (stop_when_failed, Cause.STOPPED, DepthCacheAlreadyStopped),
    "stopped, never loaded": (
        lambda manager, _: manager.stop_depth_cache(MARKET),
        Cause.STOPPED,
        DepthCacheAlreadyStopped,
    ),
    "manager stopped": (lambda manager, _: manager.stop_manager(), Cause.STOPPED, DepthCacheAlreadyStopped),
} | {f"out of sync: {cause}": (lose(cause), cause, DepthCacheOutOfSync) for cause in LOST}

FACES: dict[str, Callable[[BinanceLocalDepthCacheManager, Any], object]] = {
    "manager.get_asks": lambda manager, cache: manager.get_asks(MARKET),
    "manager.get_bids": lambda manager, cache: manager.get_bids(MARKET, 5),
    "manager.get_book": lambda manager, cache: manager.get_book(MARKET),
    "manager.get_book(max_age)": lambda manager, cache: manager.get_book(MARKET, max_age=0.001),
    "manager.wait_for_update": lambda manager, cache: manager.wait_for_update(MARKET, 1, timeout=0),
    "cache.wait_for_update": lambda manager, cache: cache.wait_for_update(1, timeout=0),
    "reader.best_bid": lambda manager, cache: cache.reader.best_bid,
    "reader.best_ask": lambda manager, cache: cache.reader.best_ask,
    "reader.bids": lambda manager, cache: cache.reader.bids(),
    "reader.asks": lambda manager, cache: cache.reader.asks(1, threshold_volume=1),
    "reader.view": lambda manager, cache: cache.reader.view(),
    "cache.best_bid": lambda manager, cache: cache.best_bid,
    "cache.mid": lambda manager, cache: cache.mid,
    "cache.view": lambda manager, cache: cache.view(20),
    "cache.fill": lambda manager, cache: cache.fill("asks", quantity=1),
    "cache.depth": lambda manager, cache: cache.depth("bids", bps=10),
    "cache.arrays": lambda manager, cache: cache.arrays(5),
}
ENDED_FACES = {
    "manager.wait_until_synchronized": lambda manager, cache: manager.wait_until_synchronized(MARKET),
    "cache.wait_until_synchronized": lambda manager, cache: cache.wait_until_synchronized(),
}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BinanceLocalDepthCacheManager, Any]]:
    """A manager and its only depth cache. No feed thread runs: the test alone decides the state of the book."""
    monkeypatch.setattr(FeedGroup, "start", lambda group: None)
    manager = BinanceLocalDepthCacheManager("binance.com")
    manager.create_depth_cache(MARKET)
    cache = manager.get_depth_cache(MARKET)
    yield manager, cache
    manager.stop_manager()
    cache.group.discard()


def raised_by(face: Callable[[], object]) -> DepthCacheError:
    with pytest.raises(DepthCacheError) as caught:
        face()
    return caught.value


@pytest.mark.parametrize("state", STATES)
def test_every_face_raises_the_same_for_one_state(parts: Any, state: str) -> None:
    manager, cache = parts
    setup, cause, kind = STATES[state]
    setup(manager, cache)
    advice = errors.FIRST_SNAPSHOT.advice if cause is Cause.NOT_LOADED else errors.REFUSALS[cause].advice
    for name, face in (FACES | (ENDED_FACES if errors.is_final(cause) else {})).items():
        error = raised_by(lambda face=face: face(manager, cache))
        assert (type(error), error.cause, error.market) == (kind, cause, MARKET), name
        assert str(error).startswith(f"The depth cache of {MARKET!r} cannot be read"), name
        assert f"(cause: {cause}): " in str(error), name
        assert str(error).endswith(f"; {advice}."), name
        assert str(pickle.loads(pickle.dumps(error))) == str(error), name


def test_a_depth_cache_is_a_reader_of_its_book(parts: Any) -> None:
    manager, cache = parts
    load(cache)
    names = {name for name in dir(cache.reader) if not name.startswith("_")}
    assert {"best_bid", "view", "fill", "counters", "is_readable"} <= names <= set(dir(cache))
    for name in names:
        ours, theirs = getattr(cache, name), getattr(cache.reader, name)
        assert ours == theirs, name
        assert not callable(ours) or ours.__self__ is cache.reader
    assert cache.fill("asks", quantity=0.5).worst_price == cache.best_ask[0] == 101.0
    assert cache.view(1).bids == ((100.0, 1.0),)
    with pytest.raises(AttributeError):
        cache.apply  # noqa: B018


@pytest.mark.parametrize("state", STATES)
def test_what_never_raises_names_the_same_cause(parts: Any, state: str) -> None:
    manager, cache = parts
    setup, cause, kind = STATES[state]
    setup(manager, cache)
    status = cache.status()
    assert (status.cause, status.is_synchronized) == (cause, False)
    assert (cache.reader.unreadable_cause, cache.reader.is_readable, cache.is_synchronized) == (cause, False, False)
    if kind is DepthCacheAlreadyStopped:
        for ask in (manager.get_status, manager.is_depth_cache_synchronized, manager.get_depth_cache):
            error = raised_by(lambda ask=ask: ask(MARKET))
            assert (type(error), error.cause) == (kind, cause)
    else:
        assert manager.get_status(MARKET).cause == cause
        assert manager.is_depth_cache_synchronized(MARKET) is False


def test_an_update_id_stands_in_the_text_where_there_is_one(parts: Any) -> None:
    manager, cache = parts
    assert "update id" not in str(raised_by(lambda: cache.reader.bids()))
    lose(Cause.GAP)(manager, cache)
    for read in (cache.reader.bids, lambda: manager.get_bids(MARKET), lambda: manager.wait_for_update(MARKET, 1)):
        assert "at update id 100 (cause: GAP)" in str(raised_by(read))
    manager.stop_depth_cache(MARKET)
    assert "at update id 100 (cause: STOPPED)" in str(raised_by(cache.reader.bids))


def test_an_unknown_market_repeats_the_words_of_the_exchange(parts: Any) -> None:
    manager, cache = parts
    fail(manager, cache)
    assert "binance.com does not know the market, and says: " in str(raised_by(lambda: manager.get_bids(MARKET)))
    assert "-1121" in str(raised_by(lambda: cache.wait_until_synchronized()))


def test_a_market_that_has_left_its_horizon_names_the_page(parts: Any) -> None:
    manager, cache = parts
    leave_horizon(manager, cache)
    for read in (lambda: manager.get_bids(MARKET), cache.reader.view, lambda: cache.wait_for_update(1, timeout=0)):
        assert "page 'horizon'" in str(raised_by(read))


def test_too_old_is_said_only_of_a_book_that_can_be_read(parts: Any) -> None:
    manager, cache = parts
    load(cache)
    for read in (manager.get_asks, manager.get_bids, manager.get_book):
        error = raised_by(lambda read=read: read(MARKET, max_age=0.5))
        assert (type(error), error.cause) == (DepthCacheOutOfSync, Cause.TOO_OLD)
        assert str(error).endswith(f"max_age is 0.5 s; {errors.REFUSALS[Cause.TOO_OLD].advice}.")


def test_a_stopped_manager_says_so(parts: Any) -> None:
    manager, _ = parts
    manager.stop_manager()
    for call in (lambda: manager.create_depth_cache("ETHUSDT"), manager.wait_until_synchronized):
        error = raised_by(call)
        assert (type(error), error.cause, error.market) == (DepthCacheAlreadyStopped, Cause.STOPPED, None)
        assert "make a new one" in str(error)


def test_every_cause_has_a_row() -> None:
    assert set(errors.REFUSALS) == set(Cause)
