"""What one book tells its consumers: the three policies, exact to the item; the same by both books."""

import gc
import os
import random
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import make_snapshot, make_update
from stream_kit import POLICIES, Follower, follow, taken
from sync_kit import BOOKS

from ldc.consume.updates import BookUpdate, policy_number
from ldc.types import Cause


@pytest.fixture(params=list(BOOKS.values()), ids=list(BOOKS))
def books(request: pytest.FixtureRequest) -> ModuleType:
    return request.param  # type: ignore[no-any-return]


def book_at_100(books: ModuleType, limit: int | None = 1000) -> Any:
    book = books.OrderBook("spot", market="BTCUSDT")
    book.load_snapshot(make_snapshot([("100.00", "1.0"), ("99.00", "2.0")], [("101.00", "1.0")]), limit)
    return book


def move(book: Any, last: int, price: str = "99.00", quantity: str = "3.0", side: str = "bids") -> None:
    book.apply(make_update(last, last, **{side: [(price, quantity)]}), 5)


def items(queue: Any) -> list[BookUpdate]:
    return list(taken(queue))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_first_item_is_a_snapshot(books: ModuleType, policy: str) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books)
    follow(queue, book, policy)
    [first] = items(queue)
    assert (first.is_snapshot, first.missed, first.first_update_id, first.last_update_id) == (True, 0, None, 100)
    assert (first.market, first.exchange, first.epoch, first.cause) == ("BTCUSDT", "binance.com", book.epoch, None)
    assert first.bids == ([] if policy == "latest" else [(100.0, 1.0), (99.0, 2.0)])
    assert items(queue) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_a_book_that_was_never_readable_has_no_item_before_its_snapshot(books: ModuleType, policy: str) -> None:
    queue, book = books.UpdateQueue(), books.OrderBook("spot", market="BTCUSDT")
    book.suspend(Cause.NOT_LOADED)
    follow(queue, book, policy)
    book.suspend(Cause.STREAM_CLOSED)
    book.load_snapshot(make_snapshot([("100.00", "1.0")], [("101.00", "1.0")]), 1000)
    move(book, 101)
    assert items(queue) == []
    book.resume()
    [first] = items(queue)
    assert (first.is_snapshot, first.last_update_id, first.missed, first.epoch) == (True, 101, 1, 1)


def test_latest_has_one_item_without_levels(books: ModuleType) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books)
    follow(queue, book, "latest")
    items(queue)
    for last in range(101, 105):
        move(book, last)
    [item] = items(queue)
    assert (item.first_update_id, item.last_update_id, item.missed, item.bids) == (101, 104, 3, [])
    assert item.received_time_ns == 5


def test_changes_have_what_differs_and_only_that(books: ModuleType) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books)
    follow(queue, book, "changes")
    items(queue)
    move(book, 101, "99.00", "5.0")
    move(book, 102, "98.00", "1.0")
    move(book, 103, "98.00", "0")
    move(book, 104, "101.50", "7.5", "asks")
    [item] = items(queue)
    assert item.bids == [(99.0, 5.0), (98.0, 0.0)]
    assert item.asks == [(101.5, 7.5)]
    assert (item.first_update_id, item.last_update_id, item.missed) == (101, 104, 3)


def test_every_update_has_an_item_with_its_bytes(books: ModuleType) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books)
    follow(queue, book, "every", Decimal)
    items(queue)
    payloads = [make_update(last, last, bids=[("99.00", f"{last}.5")], stream="btcusdt@depth") for last in (101, 102)]
    payloads.append(b' {"u" : 103, "U":103,"b":[],"a":[["101.00","0"]],"x":{"data":1}} ')
    for payload in payloads:
        book.apply(payload)
    found = items(queue)
    assert [(each.first_update_id, each.last_update_id, each.missed) for each in found] == [
        (n, n, 0) for n in (101, 102, 103)
    ]
    assert found[0].bids == [(Decimal("99.0"), Decimal("101.5"))]
    assert found[2].asks == [(Decimal("101.0"), Decimal(0))]
    for item, payload in zip(found[:2], payloads, strict=False):
        assert item.payload == payload[payload.index(b'"data":') + 7 : -1]
    assert found[2].payload == payloads[2]


def test_a_full_queue_gives_missed_and_a_snapshot(books: ModuleType) -> None:
    queue, book = books.UpdateQueue(3), book_at_100(books)
    follow(queue, book, "every")
    items(queue)
    for last in range(101, 111):
        move(book, last, quantity=f"{last}.0")
    found = items(queue)
    assert [each.last_update_id for each in found] == [101, 102, 103, 110]
    assert [each.missed for each in found] == [0, 0, 0, 7]
    assert [each.is_snapshot for each in found] == [False, False, False, True]
    move(book, 111)
    [item] = items(queue)
    assert (item.missed, item.is_snapshot, item.last_update_id) == (0, False, 111)
    assert queue.waiting == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_loss_and_a_return_are_items(books: ModuleType, policy: str) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books)
    follow(queue, book, policy)
    items(queue)
    epoch = book.epoch
    book.suspend(Cause.GAP)
    [loss] = items(queue)
    assert (loss.is_lost, loss.cause, loss.is_snapshot, loss.bids) == (True, "GAP", False, [])
    move(book, 101)
    assert items(queue) == []
    book.resume()
    [back] = items(queue)
    assert (back.is_lost, back.is_snapshot, back.cause, back.epoch, back.missed) == (False, True, None, epoch + 1, 1)


def test_latest_cannot_overlook_a_loss(books: ModuleType) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books)
    follow(queue, book, "latest")
    items(queue)
    epoch = book.epoch
    book.suspend(Cause.GAP)
    book.resume()
    [item] = items(queue)
    assert (item.is_lost, item.cause, item.epoch) == (False, "GAP", epoch + 1)
    move(book, 101)
    [item] = items(queue)
    assert item.cause is None


@pytest.mark.parametrize("policy", ["changes", "every"])
def test_losses_are_never_dropped(books: ModuleType, policy: str) -> None:
    queue, book = books.UpdateQueue(1), book_at_100(books)
    follow(queue, book, policy)
    items(queue)
    for last, cause in ((101, Cause.GAP), (102, Cause.CROSSED), (103, Cause.REQUESTED)):
        move(book, last)
        book.suspend(cause)
        book.resume()
    found = items(queue)
    assert [each.cause for each in found if each.is_lost] == ["GAP", "CROSSED", "REQUESTED"]
    assert found[-1].is_snapshot
    assert sum(each.missed + (each.first_update_id is not None) for each in found) == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_a_crossed_book_is_a_loss_at_once(books: ModuleType, policy: str) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books)
    follow(queue, book, policy)
    items(queue)
    move(book, 101, "102.00")
    [loss] = items(queue)
    assert (loss.is_lost, loss.cause, loss.last_update_id, loss.missed) == (True, "CROSSED", 101, 1)
    move(book, 102, "102.00", "0")
    [back] = items(queue)
    assert (back.is_snapshot, back.last_update_id, back.epoch) == (True, 102, book.epoch)
    assert back.epoch > loss.epoch


@pytest.mark.parametrize("policy", POLICIES)
def test_a_book_that_leaves_its_horizon_is_lost_and_adoption_brings_it_back(books: ModuleType, policy: str) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books, limit=1)
    follow(queue, book, policy)
    items(queue)
    move(book, 101, "101.00", "0", "asks")
    [loss] = items(queue)
    assert (loss.is_lost, loss.cause) == (True, "LEFT_HORIZON")
    other = books.OrderBook("spot")
    other.load_snapshot(make_snapshot([("100.00", "1.0")], [("103.00", "1.0")], 101), 1000)
    book.adopt(other)
    [back] = items(queue)
    assert (back.is_snapshot, back.ask_horizon, back.last_update_id) == (True, None, 101)
    assert back.epoch > loss.epoch


@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_deepening_changes_is_an_item_at_the_same_id(books: ModuleType, policy: str) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books, limit=2)
    follow(queue, book, policy)
    items(queue)
    deeper = books.OrderBook("spot")
    deeper.load_snapshot(
        make_snapshot([("100.00", "1.0"), ("99.00", "2.5"), ("90.00", "4.0")], [("101.00", "1.0")]), 1000
    )
    book.adopt(deeper)
    [item] = items(queue)
    assert (item.is_snapshot, item.first_update_id, item.last_update_id, item.missed) == (False, None, 100, 0)
    assert item.bid_horizon is None
    assert item.payload is None
    if policy != "latest":
        assert item.bids == [(99.0, 2.5), (90.0, 4.0)]
        assert item.asks == []
    book.adopt(deeper)
    assert items(queue) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_the_end_is_told_once_and_to_all(books: ModuleType, policy: str) -> None:
    queue, book = books.UpdateQueue(), books.OrderBook("spot", market="BTCUSDT")
    follow(queue, book, policy)
    book.close(Cause.UNKNOWN_MARKET)
    book.suspend(Cause.STOPPED)
    [end] = items(queue)
    assert (end.is_lost, end.cause, end.last_update_id) == (True, "UNKNOWN_MARKET", None)
    follow(queue, book, policy)
    assert [each.cause for each in items(queue)] == ["UNKNOWN_MARKET"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_book_whose_lease_expires_is_lost_until_it_is_renewed(books: ModuleType, policy: str) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books)
    lease = book.lease = books.Lease(3_600_000_000_000)
    lease.renew(lease.now_ns())
    follow(queue, book, policy)
    items(queue)
    queue.check_leases()
    assert items(queue) == []
    lease.renew(0)
    queue.check_leases()
    queue.check_leases()
    [loss] = items(queue)
    assert (loss.is_lost, loss.cause) == (True, "STALLED")
    move(book, 101)
    assert items(queue) == []
    lease.renew(lease.now_ns())
    queue.check_leases()
    [back] = items(queue)
    assert (back.is_snapshot, back.missed, back.last_update_id) == (True, 1, 101)


def test_numbers_are_what_was_asked_for(books: ModuleType) -> None:
    wanted = {float: (99.0, 3.0), Decimal: (Decimal("99.00"), Decimal("3.0")), str: ("99.00", "3.0"), int: (9900, 30)}
    for number, level in wanted.items():
        queue, book = books.UpdateQueue(), book_at_100(books, limit=2)
        follow(queue, book, "changes", number)
        [snapshot] = items(queue)
        move(book, 101)
        [item] = items(queue)
        assert [(each, *map(type, each)) for each in item.bids] == [(level, *map(type, level))]
        assert (item.price_decimals, item.quantity_decimals) == (2, 1)
        assert snapshot.bid_horizon == level[0]


@pytest.mark.parametrize("number", [float, Decimal, str, int])
@pytest.mark.parametrize("policy", ["changes", "every"])
def test_more_decimals_leave_the_consumer_exact(books: ModuleType, policy: str, number: Any) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books)
    follow(queue, book, policy, number)
    follower = Follower(policy)
    for last, price in ((101, "99.5"), (102, "99.125"), (103, "98")):
        move(book, last, price, "1.03125")
        for item in items(queue):
            follower.take(item)
    assert follower.last is not None
    decimals = follower.last.price_decimals
    unit = {float: float, Decimal: Decimal, str: str, int: lambda text: int(Decimal(text).scaleb(decimals))}[number]
    view = book.view(beyond_horizon=True, number=str)
    assert {price for price, _ in view.bids} == {
        f"{Decimal(each):.3f}" for each in ("100", "99.5", "99.125", "99", "98")
    }
    assert set(follower.bids) == {unit(price) for price, _ in view.bids}


class Life:
    """A random life of one book, led by both implementations at once, and consumers that look at any time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.made = [(each.OrderBook("spot", market="M"), each) for each in BOOKS.values()]
        self.consumers = [
            [
                (book, module.UpdateQueue(waiting_max), Follower(policy))
                for policy in POLICIES
                for waiting_max in (2, 50)
            ]
            for book, module in self.made
        ]
        for consumers in self.consumers:
            for book, queue, follower in consumers:
                follow(queue, book, follower.policy)
        self.last = 100
        self.load(make_snapshot([("100.00", "1.0"), ("99.00", "2.0")], [("101.00", "1.0"), ("102.00", "2.0")]), 2)

    def load(self, body: bytes, limit: int) -> None:
        for book, _ in self.made:
            book.load_snapshot(body, limit)

    def step(self) -> None:
        """Change the book in one of the ways there are."""
        rng, what = self.rng, self.rng.random()
        if what < 0.6:
            self.update()
        elif what < 0.75:
            cause = rng.choice(("GAP", "REQUESTED"))
            for book, _ in self.made:
                book.suspend(cause)
        elif what < 0.9:
            for book, _ in self.made:
                book.resume()
        else:
            body = make_snapshot(
                [(f"{n}.00", "1.5") for n in (100, 97, 95)], [("101.00", "1.5"), ("104.00", "2")], self.last
            )
            limit = rng.choice((1, 2, 1000))
            if what < 0.95:
                self.adopt(body, limit)
            else:
                self.load(body, limit)

    def update(self) -> None:
        self.last += 1
        side = self.rng.choice(("bids", "asks"))
        prices = self.rng.sample(range(94, 101) if side == "bids" else range(101, 108), 2)
        levels = [
            (f"{price}.{self.rng.choice(('0', '00', '000', '5'))}", f"{self.rng.randint(0, 3)}.0") for price in prices
        ]
        payload = make_update(self.last, self.last, **{side: levels})
        for book, _ in self.made:
            book.apply(payload)

    def adopt(self, body: bytes, limit: int) -> None:
        for book, module in self.made:
            other = module.OrderBook("spot")
            other.load_snapshot(body, limit)
            book.adopt(other)

    def look(self) -> None:
        """Let some consumers take what waits, the same of each implementation, and judge them."""
        chosen = [self.rng.random() < 0.4 for _ in self.consumers[0]]
        for consumers in self.consumers:
            for (book, queue, follower), looks in zip(consumers, chosen, strict=True):
                if looks:
                    for item in taken(queue):
                        follower.take(item)
                    assert book.is_readable != follower.is_lost
                    if book.is_readable:
                        follower.assert_is(book.view(beyond_horizon=True))
                        assert follower.counted == book.counters.updates_applied


@given(st.integers(0, 2**32))
def test_random_lives_of_a_book_leave_every_consumer_exact(seed: int) -> None:
    """Updates, losses, adoptions, replacements, in any order, with consumers that look at any time."""
    life = Life(seed)
    for _ in range(life.rng.randint(1, 40)):
        life.step()
        life.look()
    seen = [[(each.items, each.losses, each.snapshots) for _, _, each in consumers] for consumers in life.consumers]
    assert seen[0] == seen[-1]


def test_books_take_turns(books: ModuleType) -> None:
    queue = books.UpdateQueue()
    made = [book_at_100(books) for _ in range(3)]
    for book in made:
        follow(queue, book, "every")
    items(queue)
    for book in made:
        for last in (101, 102):
            move(book, last)
    assert [each.last_update_id for each in items(queue)] == [101] * 3 + [102] * 3


def test_a_removed_watch_is_told_nothing_and_frees_what_waited(books: ModuleType) -> None:
    queue, book = books.UpdateQueue(), book_at_100(books)
    watch = follow(queue, book, "every")
    other = follow(queue, book, "latest")
    for last in range(101, 104):
        move(book, last)
    queue.remove(watch)
    queue.remove(watch)
    assert [each.last_update_id for each in items(queue)] == [103]
    queue.remove(other)
    move(book, 104)
    assert items(queue) == []
    assert queue.waiting == 0


def test_a_queue_that_nobody_holds_leaves_its_books(books: ModuleType) -> None:
    book = book_at_100(books)
    for _ in range(3):
        for policy in POLICIES:
            follow(books.UpdateQueue(), book, policy)
    gc.collect()
    move(book, 101)
    queue = books.UpdateQueue()
    follow(queue, book, "every")
    assert len(items(queue)) == 1


def test_a_queue_is_signalled_once_until_it_is_armed(books: ModuleType) -> None:
    if os.name == "nt":
        pytest.skip("event loops of Windows wait for no descriptors")
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    queue, book = books.UpdateQueue(), book_at_100(books)
    try:
        queue.set_descriptor(read_fd, write_fd, False)
        follow(queue, book, "latest")
        for last in range(101, 104):
            move(book, last)
        assert len(os.read(read_fd, 10)) == 1
        items(queue)
        move(book, 104)
        move(book, 105)
        assert len(os.read(read_fd, 10)) == 1
        assert not queue.arm()
        items(queue)
        with pytest.raises(BlockingIOError):
            os.read(read_fd, 10)
        queue.set_descriptor(-1, -1, False)
        move(book, 106)
        with pytest.raises(BlockingIOError):
            os.read(read_fd, 10)
    finally:
        os.close(read_fd)
        os.close(write_fd)


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (b'{"stream":"x","data":{"a":[{"}":"{"}]}}', b'{"a":[{"}":"{"}]}'),
        (b'{"data" : {"e":1} , "stream":"x"}', b'{"e":1}'),
        (b'{"data":{"e":1},"data2":2}', b'{"e":1}'),
        (b' {"e":"depthUpdate"} ', b' {"e":"depthUpdate"} '),
        (b'{"x":{"data":{}},"y":"\\"data\\":{}","data":{"q":"\\u007d"}}', b'{"q":"\\u007d"}'),
        (b"{}", b"{}"),
    ],
)
def test_the_event_of_a_message_is_its_data_byte_for_byte(books: ModuleType, payload: bytes, event: bytes) -> None:
    assert books.event_of(payload) == event


def test_a_policy_that_is_none_names_the_choices() -> None:
    with pytest.raises(ValueError, match="'latest', 'changes', 'every'"):
        policy_number("all")
