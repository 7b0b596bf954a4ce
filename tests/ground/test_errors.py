"""The tree of exceptions: what each derives from and carries, and that each survives a pickle."""

import pickle
from types import ModuleType

import pytest

from ldc import errors
from ldc.errors import (
    BookNotLoaded,
    DepthCacheAlreadyStopped,
    DepthCacheClusterNotReachableError,
    DepthCacheError,
    DepthCacheNotFound,
    DepthCacheOutOfSync,
    MalformedMessage,
    UnknownExchange,
    UnknownMarket,
)

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
WITH_MARKET = [kind for kind in ALL if kind is not DepthCacheClusterNotReachableError]


def test_the_tree() -> None:
    parents = {kind.__name__: [base.__name__ for base in kind.__bases__] for kind in ALL}
    assert parents == {
        "BookNotLoaded": ["DepthCacheOutOfSync"],
        "DepthCacheAlreadyStopped": ["DepthCacheError"],
        "DepthCacheClusterNotReachableError": ["DepthCacheError"],
        "DepthCacheError": ["Exception"],
        "DepthCacheNotFound": ["DepthCacheError"],
        "DepthCacheOutOfSync": ["DepthCacheError"],
        "MalformedMessage": ["DepthCacheError", "ValueError"],
        "UnknownExchange": ["DepthCacheError", "ValueError"],
        "UnknownMarket": ["DepthCacheNotFound"],
    }


@pytest.mark.parametrize("kind", WITH_MARKET)
def test_an_error_carries_market_cause_and_message(kind: type[DepthCacheError]) -> None:
    bare = kind()
    assert (bare.market, bare.cause) == (None, None)
    assert str(bare) == bare.message != ""
    error = kind("BTCUSDT", "GAP")
    assert (error.market, error.cause) == ("BTCUSDT", "GAP")
    assert "GAP" in str(error)
    assert ("'BTCUSDT'" in str(error)) == (kind is not UnknownExchange)
    assert str(error).endswith(".")
    said = kind("BTCUSDT", message="Something else happened.")
    assert (said.market, said.cause, said.message, str(said)) == ("BTCUSDT", None, said.message, said.message)
    assert said.message == "Something else happened."


def test_each_kind_has_a_text_of_its_own() -> None:
    assert len({str(kind("X")) for kind in ALL}) == len(ALL)


def test_the_errors_that_pass_name_the_call_to_wait_with() -> None:
    assert "wait until it is synchronized" in str(DepthCacheOutOfSync("BTCUSDT"))
    assert "load one first" in str(BookNotLoaded("BTCUSDT"))
    assert "create it" in str(DepthCacheNotFound("BTCUSDT"))
    assert "create it again" in str(DepthCacheAlreadyStopped("BTCUSDT"))
    assert "spelling" in str(UnknownMarket("BTCUSDT"))
    assert "nothing of it was used" in str(MalformedMessage("BTCUSDT"))


def test_a_cluster_error_takes_an_address() -> None:
    error = DepthCacheClusterNotReachableError("https://cluster.example", "TIMEOUT")
    assert (error.url, error.market, error.cause) == ("https://cluster.example", None, "TIMEOUT")
    assert "'https://cluster.example'" in str(error)


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_a_pickle(kind: type[DepthCacheError]) -> None:
    for error in (kind(), kind("BTCUSDT", "GAP"), kind("BTCUSDT", "GAP", "Said.")):
        copied = pickle.loads(pickle.dumps(error))
        assert type(copied) is kind
        assert vars(copied) == vars(error)
        assert str(copied) == str(error)


def test_what_a_book_raises_names_the_market_and_its_update_id(books: ModuleType) -> None:
    book = books.OrderBook("spot", market="BTCUSDT")
    with pytest.raises(BookNotLoaded, match="'BTCUSDT'"):
        book.bids()
    book.load_snapshot(b'{"lastUpdateId":4711,"bids":[["2","1"]],"asks":[]}')
    with pytest.raises(MalformedMessage, match=r"'BTCUSDT'.*\b4711\b"):
        book.apply(b'{"U":4713,"u":4712,"b":[],"a":[]}')
    with pytest.raises(MalformedMessage, match=r"'BTCUSDT'.*\b4711\b"):
        book.load_snapshot(b"{}")
    book.apply(b'{"U":4712,"u":4712,"b":[["2","0"]],"a":[]}')
    with pytest.raises(DepthCacheOutOfSync, match="'BTCUSDT'"):
        book.bids()
    book.suspend("CROSSED")
    with pytest.raises(DepthCacheOutOfSync, match=r"'BTCUSDT'.*CROSSED"):
        book.bids()
