"""The stream of updates of shared books: items, losses, feeders that come and go, markets that appear."""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from messages import loaded_book, make_snapshot, make_update

import ldc
import ldc.book
from ldc.shared import Publisher, SharedBooks, SharedUpdates
from ldc.shared.updates import FOLDER_SETTLED_NS, _Folder, _Followed

FEEDER = """
import sys
sys.path.insert(0, sys.argv[1])
from messages import loaded_book
import ldc.book
from ldc.shared import Publisher
publisher = Publisher("desk", folder=sys.argv[2])
publisher.publish(loaded_book(ldc.book, market="BTCUSDT"))
sys.stdin.read()
"""
HOUR_NS = 3_600_000_000_000


def book_of(market: str = "BTCUSDT", last_update_id: int = 100) -> Any:
    return loaded_book(ldc.book, market=market, last_update_id=last_update_id)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[tuple[Publisher, SharedBooks]]:
    with Publisher("desk", folder=tmp_path) as publisher:
        yield publisher, SharedBooks("desk", folder=tmp_path)


def short(item: ldc.BookUpdate) -> tuple[object, ...]:
    kind = "loss" if item.is_lost else "snapshot" if item.is_snapshot else "update"
    return item.market, kind, item.last_update_id, item.cause, item.missed


def nothing_comes(updates: SharedUpdates) -> bool:
    """Whether nothing waits, also after a look at feeders and at the folder."""
    updates._look_at = 0.0
    with pytest.raises(TimeoutError, match="no update came within 0 s"):
        updates.get(0)
    return True


def test_an_item_is_the_newest_copy_and_counts_those_without_one(share: tuple[Publisher, SharedBooks]) -> None:
    publisher, books = share
    book = book_of()
    publisher.publish(book, exchange="binance.com")
    with books.updates("BTCUSDT", number=Decimal) as updates:
        first = updates.get(30)
        assert short(first) == ("BTCUSDT", "snapshot", 100, None, 0)
        assert (first.exchange, first.bids, first.first_update_id) == ("binance.com", [], None)
        assert (first.epoch, first.price_decimals) == (book.epoch, 2)
        assert first.bid_horizon is None
        assert nothing_comes(updates)
        for last_id in (101, 102, 103):
            book.apply(make_update(last_id, E=last_id), 7)
        item = updates.get(30)
        assert short(item) == ("BTCUSDT", "update", 103, None, 2)
        assert (item.event_time_ms, item.received_time_ns, item.transaction_time_ms) == (103, 7, None)
        assert nothing_comes(updates)
    assert updates.is_closed
    assert list(updates) == []
    with pytest.raises(EOFError):
        updates.get()


def test_a_loss_and_a_return_are_items_and_an_epoch_that_nobody_saw_end_is_a_snapshot(
    share: tuple[Publisher, SharedBooks],
) -> None:
    publisher, books = share
    book = book_of()
    publisher.publish(book)
    updates = books.updates()
    assert short(updates.get(30))[1] == "snapshot"
    book.apply(make_update(101))
    book.suspend("GAP")
    assert short(updates.get(30)) == ("BTCUSDT", "loss", 101, "GAP", 1)
    book.suspend("STREAM_CLOSED")
    assert nothing_comes(updates)
    book.resume()
    back = updates.get(30)
    assert (back.is_snapshot, back.cause, back.epoch) == (True, None, book.epoch)
    book.suspend("GAP")
    book.resume()
    again = updates.get(30)
    assert (again.is_snapshot, again.cause, again.epoch) == (True, None, back.epoch + 1)
    assert nothing_comes(updates)


def test_a_market_that_was_never_readable_has_no_item_before_its_snapshot(
    share: tuple[Publisher, SharedBooks],
) -> None:
    publisher, books = share
    updates = books.updates(["BTCUSDT", "ETHUSDT"])
    assert nothing_comes(updates)
    book = ldc.OrderBook("spot", market="BTCUSDT")
    publisher.publish(book)
    assert nothing_comes(updates)
    book.suspend("GAP")
    assert nothing_comes(updates)
    book.load_snapshot(make_snapshot([("99.5", "2")], [("99.6", "1")], 100), 100)
    book.resume()
    assert short(updates.get(30))[:3] == ("BTCUSDT", "snapshot", 100)


def next_while_renewed(updates: SharedUpdates, lease: ldc.book.Lease) -> ldc.BookUpdate:
    """Return the next item of a stream whose book is proven again and again meanwhile."""
    while True:
        lease.renew(ldc.book.Lease.now_ns())
        with contextlib.suppress(TimeoutError):
            return updates.get(0.01)


def test_a_proof_that_is_too_old_is_a_loss_that_no_copy_reports(share: tuple[Publisher, SharedBooks]) -> None:
    publisher, _ = share
    book = book_of()
    book.lease = lease = ldc.book.Lease(HOUR_NS)
    publisher.publish(book)
    updates = SharedBooks("desk", folder=publisher.folder.parent, max_age=0.1).updates()
    for _ in range(2):
        assert short(next_while_renewed(updates, lease)) == ("BTCUSDT", "snapshot", 100, None, 0)
        assert short(updates.get(30)) == ("BTCUSDT", "loss", 100, "TOO_OLD", 0)


def test_all_markets_are_those_that_appear_later_too_and_take_turns(share: tuple[Publisher, SharedBooks]) -> None:
    publisher, books = share
    updates = books.updates()
    assert nothing_comes(updates)
    published = {market: book_of(market) for market in ("BTCUSDT", "ETHUSDT", "SOLUSDT")}
    for market, book in published.items():
        publisher.publish(book)
        assert short(updates.get(30)) == (market, "snapshot", 100, None, 0)
    for last_id in (101, 102):
        for book in published.values():
            book.apply(make_update(last_id))
    assert {updates.get(30).market for _ in range(3)} == set(published)
    assert nothing_comes(updates)
    publisher.withdraw("ETHUSDT")
    assert short(updates.get(30)) == ("ETHUSDT", "loss", 102, "FEEDER_GONE", 0)
    publisher.publish(published["ETHUSDT"])
    assert short(updates.get(30))[:4] == ("ETHUSDT", "snapshot", 102, None)


def test_a_stream_outlives_its_feeder_and_goes_on_with_the_next(tmp_path: Path) -> None:
    updates = SharedBooks("desk", folder=tmp_path).updates("BTCUSDT")
    assert nothing_comes(updates)
    command = [sys.executable, "-P", "-c", FEEDER, str(Path(__file__).parents[1] / "kits"), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert short(updates.get(30)) == ("BTCUSDT", "snapshot", 100, None, 0)
        process.kill()
        assert short(updates.get(30)) == ("BTCUSDT", "loss", 100, "FEEDER_GONE", 0)
    assert nothing_comes(updates)
    with Publisher("desk", folder=tmp_path) as publisher:
        book = book_of(last_update_id=300)
        publisher.publish(book)
        assert short(updates.get(30)) == ("BTCUSDT", "snapshot", 300, None, 0)
    assert short(updates.get(30)) == ("BTCUSDT", "loss", 300, "FEEDER_GONE", 0)


def test_a_feeder_that_was_replaced_between_two_looks_is_named(tmp_path: Path) -> None:
    books = SharedBooks("desk", folder=tmp_path)
    updates = books.updates("BTCUSDT")
    with Publisher("desk", folder=tmp_path) as publisher:
        publisher.publish(book_of())
        assert updates.get(30).cause is None
    with Publisher("desk", folder=tmp_path) as publisher:
        publisher.publish(book_of(last_update_id=200))
        assert short(updates.get(30)) == ("BTCUSDT", "snapshot", 200, "FEEDER_GONE", 0)
        assert nothing_comes(updates)


@pytest.mark.parametrize("count", [1, 3, 130])
def test_a_thread_and_a_task_get_the_updates_of_any_number_of_markets(
    share: tuple[Publisher, SharedBooks], count: int
) -> None:
    """One sleeps on one word, some on all of theirs, more than the system can are polled."""
    publisher, books = share
    published = [book_of(f"M{number}") for number in range(count)]
    for book in published:
        publisher.publish(book)
    updates, others = books.updates(), books.updates()
    seen: dict[str, int | None] = {}

    def follow() -> None:
        for item in updates:
            seen[item.market] = item.last_update_id
            if len(seen) == count and set(seen.values()) == {105}:
                updates.close()

    async def follow_too() -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        async with others:
            async for item in others:
                found[item.market] = item.last_update_id
                if len(found) == count and set(found.values()) == {105}:
                    return found
        return {}

    thread = threading.Thread(target=follow)
    thread.start()
    for last_id in range(101, 106):
        for book in published:
            book.apply(make_update(last_id))
    assert asyncio.run(asyncio.wait_for(follow_too(), 60)).keys() == {f"M{number}" for number in range(count)}
    thread.join(60)
    assert not thread.is_alive()


def test_a_close_from_another_thread_ends_a_blocked_loop(share: tuple[Publisher, SharedBooks]) -> None:
    publisher, books = share
    publisher.publish(book_of())
    updates = books.updates()
    assert updates.get(30).is_snapshot
    ended: list[bool] = []
    thread = threading.Thread(target=lambda: ended.append(list(updates) == []))
    thread.start()
    updates.close()
    updates.close()
    thread.join(30)
    assert ended == [True]


def test_what_makes_no_sense_is_refused(share: tuple[Publisher, SharedBooks]) -> None:
    _, books = share
    with pytest.raises(ValueError, match='have the policy "latest" alone'):
        books.updates(policy="every")
    with pytest.raises(ValueError, match="policy must be one of"):
        books.updates(policy="newest")
    with pytest.raises(ValueError, match="number must be"):
        books.updates(number=bytes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a market is a text that is not empty"):
        books.updates(["BTCUSDT", ""])
    with pytest.raises(ValueError, match="NaN"):
        books.updates().get(float("nan"))


def test_a_folder_is_read_again_until_its_last_change_is_old(tmp_path: Path) -> None:
    folder = _Folder(tmp_path / "desk")
    assert folder.may_have_changed(0.0, 0)
    assert not folder.may_have_changed(0.1, 0)
    assert folder.may_have_changed(1.1, 0)  # now and then, whatever the times say
    (tmp_path / "desk").mkdir()
    changed_ns = (tmp_path / "desk").stat().st_mtime_ns
    assert folder.may_have_changed(1.2, changed_ns)
    assert folder.may_have_changed(1.3, changed_ns + FOLDER_SETTLED_NS)  # another change may have the same time
    assert folder.may_have_changed(1.4, changed_ns + FOLDER_SETTLED_NS + 1)
    assert not folder.may_have_changed(1.5, changed_ns + FOLDER_SETTLED_NS + 2)
    (tmp_path / "desk" / "BTCUSDT.book").touch()
    while (tmp_path / "desk").stat().st_mtime_ns == changed_ns:  # within one tick of the file system's clock
        time.sleep(0.001)
        (tmp_path / "desk" / "BTCUSDT.book").unlink()
        (tmp_path / "desk" / "BTCUSDT.book").touch()
    assert folder.may_have_changed(1.6, changed_ns + FOLDER_SETTLED_NS + 3)


def test_a_copy_that_was_seen_is_no_news_whatever_woke_the_stream() -> None:
    followed = _Followed("BTCUSDT", float)
    place = (100, None, None, None, 2, 3, None, None)
    said = (None, 7, "binance.com", 5, 1, *place)
    first = followed.item(said)
    assert first is not None
    assert short(first) == ("BTCUSDT", "snapshot", 100, None, 0)
    assert followed.item(said) is None
    lost = followed.item(("FEEDER_GONE", 7, "binance.com", 8, 1, *place))  # three copies came before the end
    assert lost is not None
    assert short(lost) == ("BTCUSDT", "loss", 100, "FEEDER_GONE", 3)
    assert followed.item(("FEEDER_GONE", 7, "binance.com", 8, 1, *place)) is None
