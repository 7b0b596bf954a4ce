"""Which class of error a book that is suspended raises: the cause decides it, in `ldc.errors`."""

from types import ModuleType

import pytest
from messages import READS, loaded_book, outcome

from ldc import errors
from ldc.errors import BookNotLoaded, DepthCacheAlreadyStopped, DepthCacheError, DepthCacheOutOfSync, UnknownMarket
from ldc.types import Cause

FINAL = {Cause.STOPPED: DepthCacheAlreadyStopped, Cause.UNKNOWN_MARKET: UnknownMarket}


@pytest.mark.parametrize("cause", [*Cause, "MINE"])
@pytest.mark.parametrize("read", READS)
def test_the_cause_of_a_suspension_decides_the_class(books: ModuleType, read: str, cause: str) -> None:
    book = loaded_book(books, market="BTCUSDT")
    book.suspend(cause)
    kind = BookNotLoaded if cause == Cause.NOT_LOADED else FINAL.get(cause, DepthCacheOutOfSync)
    for face in (book, book.reader):
        assert outcome(lambda face=face: READS[read](face)) == (kind, "BTCUSDT", cause)
        assert face.unreadable_cause == cause
    book.resume()
    READS[read](book)


@pytest.mark.parametrize("cause", [*Cause, "MINE"])
@pytest.mark.parametrize("read", READS)
def test_a_book_without_a_snapshot_says_whether_one_will_come(books: ModuleType, read: str, cause: str) -> None:
    book = books.OrderBook("spot", market="BTCUSDT")
    book.suspend(cause)
    kind, named = (FINAL[cause], cause) if cause in FINAL else (BookNotLoaded, Cause.NOT_LOADED)
    for face in (book, book.reader):
        assert outcome(lambda face=face: READS[read](face)) == (kind, "BTCUSDT", named)
        assert face.unreadable_cause == named
    assert outcome(book.held_levels) == (BookNotLoaded, "BTCUSDT", Cause.NOT_LOADED)
    assert outcome(lambda: book.apply(b"{}")) == (BookNotLoaded, "BTCUSDT", Cause.NOT_LOADED)


def text_of(book: object, read: str) -> str:
    with pytest.raises(DepthCacheError) as caught:
        READS[read](book)
    return str(caught.value)


@pytest.mark.parametrize("read", ["best_bid", "bids", "view(str)"])
def test_the_owner_of_a_book_reads_to_load_a_snapshot_and_a_waiter_to_wait(books: ModuleType, read: str) -> None:
    book = books.OrderBook("spot", market="BTCUSDT")
    assert text_of(book, read).endswith("it holds no snapshot yet; load one first.")
    book.suspend(Cause.NOT_LOADED)
    assert f"it waits for its first snapshot; {errors.FIRST_SNAPSHOT.advice}" in text_of(book, read)


def test_both_books_use_the_same_words(both_books: tuple[ModuleType, ModuleType]) -> None:
    for cause in (None, *Cause, "MINE"):
        for is_loaded in (True, False):
            texts = set()
            for books in both_books:
                book = loaded_book(books, market="X") if is_loaded else books.OrderBook("spot", market="X")
                if cause is not None:
                    book.suspend(cause)
                texts |= {text_of(book, "bids")} if book.unreadable_cause else {"readable"}
            assert len(texts) == 1, texts
