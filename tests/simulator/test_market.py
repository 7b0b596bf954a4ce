"""The markets of the embedded exchange: reproducible, consistent at every moment, with a past."""

import hashlib
import json
from decimal import Decimal
from itertools import pairwise

import pytest

pytest.importorskip("aiohttp", reason="the embedded exchange needs aiohttp")

from ldc.simulator.changelog import CHANGES_MAX
from ldc.simulator.faults import Fault, PendingFaults
from ldc.simulator.listing import DEFAULT_MARKETS, listing_of
from ldc.simulator.market import LEVELS_MAX, LEVELS_MIN, Market
from ldc.simulator.markets import Markets
from ldc.simulator.messages import diff_of, snapshot_of
from ldc.wire.families import FAMILIES, Family

FAMILY = {family.name: family for family in FAMILIES.values()}


def made(
    family: Family,
    symbol: str | None = None,
    *,
    seed: int = 1,
    levels: int = 500,
    start_time_ms: int = 1_700_000_000_000,
) -> Market:
    listing = listing_of(family.name, symbol or DEFAULT_MARKETS[family.name][0])
    assert listing is not None
    return Market(
        listing,
        seed=seed,
        levels=levels,
        engine_ids=family.engine_ids,
        start_time_ms=start_time_ms,
        interval_ms=100,
    )


def traffic(family: Family, market: Market, updates: int):
    """Return the bytes of `updates` updates, with a snapshot now and then."""
    while updates:
        update = market.end_window()
        if update is not None:
            updates -= 1
            yield diff_of(family, market.listing, update, update.event_time_ms).encode()
        market.begin_window()
        if update is not None and updates % 500 == 0:
            sides = market.bids.top(1000), market.asks.top(1000)
            yield snapshot_of(family, market.listing, market.last_update_id, market.event_time_ms, *sides).encode()


def test_event_times_follow_the_number_of_windows_or_the_clock_of_the_owner():
    market = made(FAMILY["spot"], start_time_ms=1000)
    market.end_window()
    assert market.event_time_ms == 1100
    for now_ms, expected in ((5000, 5000), (5000, 5001), (4000, 5002), (9000, 9000)):
        market.end_window(now_ms)
        assert market.event_time_ms == expected
    assert made(FAMILY["spot"]).event_time_ms == 1_700_000_000_000


@pytest.mark.parametrize("start_time_ms", [None, 1_000])
def test_a_market_that_starts_late_or_was_halted_has_the_time_of_the_clock_if_there_is_one(start_time_ms: int | None):
    """An exchange that runs for an hour, and then gets another market, must not date it an hour back."""
    clock_ms = 1_000
    faults = PendingFaults(1)
    markets = Markets(
        FAMILY["spot"], ["BTCUSDT"], on_demand=True, seed=1, levels=50, start_time_ms=start_time_ms, interval_ms=100,
        faults=faults, clock_ms=lambda: clock_ms,
    )  # fmt: skip
    times = []
    for symbol in ("BTCUSDT", "LATEUSDT"):
        running = markets.run(symbol)
        assert running is not None
        clock_ms += 3_600_000
        markets.tick(running, 0.0)
        times.append(running.market.event_time_ms)
    faults.add(Fault(name="halt", market="BTCUSDT", duration_s=5.0))
    running = markets.running["BTCUSDT"]
    markets.tick(running, 10.0)
    clock_ms += 5_000
    markets.tick(running, 15.0)
    times.append(running.market.event_time_ms)
    assert times == ([3_601_000, 7_201_000, 7_206_000] if start_time_ms is None else [1_100, 1_100, 1_200])


# Computed once, on CPython 3.11; compared on every Python of the tests. A change of the market's random numbers changes
# them. Then enter the new ones and name the change in CHANGELOG.md, because a seed then gives another market.
DIGESTS = {
    "spot": "34176ebf14180bc744d5ee0804ae560a21055724ded4e788e6ebf20c149b2c6a",
    "usd_m": "823f57ce73a88c8002884e56989c761d41c430f0de2fde12c1b7b6a357d1f0fd",
    "coin_m": "1e97b6542002a31b7b3d7bf155ef308130534fcb71829f3223342a427ae00ca3",
    "options": "4f8ac803fa188b3c6f036de844911554301389851f6906611f69dc33dbdf5f52",
}


@pytest.mark.parametrize(
    "name", ["spot", *(pytest.param(name, marks=pytest.mark.check) for name in DIGESTS if name != "spot")]
)
def test_a_seed_is_the_same_bytes_on_every_python(name):
    digest = hashlib.sha256()
    for data in traffic(FAMILY[name], made(FAMILY[name], levels=2000), 10_000):
        digest.update(data + b"\n")
    assert digest.hexdigest() == DIGESTS[name]


def test_another_seed_is_another_market_and_the_clock_does_not_matter():
    family = FAMILY["spot"]
    first, again, other, later = (
        list(traffic(family, made(family, **parameters), 50))
        for parameters in ({}, {}, {"seed": 2}, {"start_time_ms": 1_800_000_000_000})
    )
    assert first == again
    assert first != other
    assert [json.loads(data).get("b") for data in first] == [json.loads(data).get("b") for data in later]


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("levels", [LEVELS_MIN, 500, 5000])
def test_a_book_is_in_order_at_every_moment_and_stays_about_as_deep(name, levels):
    market = made(FAMILY[name], levels=levels)
    for _ in range(2000):
        market.end_window()
        market.begin_window()
        bid, bid_quantity, ask, ask_quantity = market.tops
        assert 0 < bid < ask
        assert bid_quantity > 0
        assert ask_quantity > 0
    for side in (market.bids, market.asks):
        assert side.prices == sorted(side.quantities)
        assert min(side.quantities.values()) > 0
        assert 0.5 * levels <= len(side.prices) <= 1.2 * levels + 30


def test_every_market_of_the_tables_has_room_for_its_levels():
    for family, names in DEFAULT_MARKETS.items():
        for symbol in (*names, *(f"{base}USDT" for base in ("AB", "PEPE", "LUNA") if family == "spot")):
            market = made(FAMILY[family], symbol, levels=1000)
            assert len(market.bids.prices) > 900, (family, symbol)
            assert len(market.asks.prices) > 900, (family, symbol)
            assert market.bids.prices[0] > 0


def test_the_deepest_book_is_deep():
    market = made(FAMILY["spot"], levels=LEVELS_MAX)
    assert len(market.bids.prices) == len(market.asks.prices) == LEVELS_MAX


@pytest.mark.parametrize("levels", [LEVELS_MIN - 1, LEVELS_MAX + 1])
def test_a_depth_out_of_range_is_refused(levels):
    with pytest.raises(ValueError, match=f"{LEVELS_MIN} to {LEVELS_MAX}"):
        made(FAMILY["spot"], levels=levels)


def test_levels_far_out_never_change():
    market = made(FAMILY["spot"], levels=500)
    still = {price: market.bids.quantities[price] for price in market.bids.prices[:60]}
    for _ in range(5000):
        market.end_window()
    assert {price: market.bids.quantities[price] for price in market.bids.prices[:60]} == still


def test_the_price_moves_there_are_bursts_and_quiet_spells():
    market = made(FAMILY["spot"], levels=500)
    updates = [market.end_window() for _ in range(5000)]
    sizes = [0 if update is None else len(update.bids) + len(update.asks) for update in updates]
    assert sizes.count(0) > 100
    assert sum(size > 15 for size in sizes) > 100
    assert market.tops[0] != market.listing.first_price


@pytest.mark.parametrize("name", FAMILY)
def test_windows_name_every_level_that_was_touched_and_nothing_else_changes(name):
    market = made(FAMILY[name])
    book = {"bids": dict(market.bids.quantities), "asks": dict(market.asks.quantities)}
    if market.log.oldest_update_id != market.last_update_id:  # a window has begun
        sides = market.sides_at(market.sent_update_id)
        book = {"bids": dict(sides[0]), "asks": dict(sides[1])}
    previous = market.sent_update_id
    for _ in range(1000):
        update = market.end_window()
        if update is not None:
            assert update.previous_update_id == previous < update.first_update_id <= update.last_update_id
            previous = update.last_update_id
            for side, changes in (("bids", update.bids), ("asks", update.asks)):
                assert [price for price, _ in changes] == sorted({p for p, _ in changes}, reverse=side == "bids")
                for price, quantity in changes:
                    if quantity:
                        book[side][price] = quantity
                    else:
                        book[side].pop(price, None)
        assert book == {"bids": market.bids.quantities, "asks": market.asks.quantities}
        market.begin_window()


def test_ids_are_without_holes_on_spot_and_have_holes_where_an_engine_counts():
    for name, has_holes in (("spot", False), ("usd_m", True)):
        market = made(FAMILY[name])
        updates = []
        for _ in range(300):
            updates.append(market.end_window())
            market.begin_window()
        told = [update for update in updates if update]
        starts = {b.first_update_id - a.last_update_id for a, b in pairwise(told)}
        assert (starts == {1}) is not has_holes
        assert all(b.previous_update_id == a.last_update_id for a, b in pairwise(told))


def test_a_snapshot_of_futures_stands_inside_of_a_window():
    market = made(FAMILY["usd_m"])
    inside = 0
    for _ in range(200):
        snapshot_id = market.last_update_id
        update = market.end_window()
        inside += update is not None and update.first_update_id <= snapshot_id < update.last_update_id
        market.begin_window()
    assert inside > 50


# ------------------------------------------------------------------------------------------------------ earlier books


@pytest.mark.parametrize("name", ["spot", "usd_m"])
def test_an_earlier_book_is_restored_exactly(name):
    market = made(FAMILY[name])
    known = {}
    for _ in range(300):
        market.end_window()
        market.begin_window()
        known[market.last_update_id] = (
            sorted(market.bids.quantities.items(), reverse=True),
            sorted(market.asks.quantities.items()),
        )
    assert len(known) > 200
    for update_id, sides in known.items():
        assert market.sides_at(update_id) == sides


def test_an_id_that_is_too_old_or_has_not_come_is_a_key_error_with_the_known_ids():
    market = made(FAMILY["spot"])
    first = market.last_update_id
    while market.log.oldest_update_id == first:
        market.end_window()
    oldest, newest = market.log.oldest_update_id, market.last_update_id
    assert CHANGES_MAX - 100 < len(market.log._entries) // 3 <= 2 * CHANGES_MAX
    market.sides_at(oldest)
    for unknown in (oldest - 1, first, newest + 1):
        with pytest.raises(KeyError, match=f"from {oldest} to {newest}"):
            market.sides_at(unknown)


def test_the_oldest_book_that_is_known_is_right():
    market, twin = made(FAMILY["spot"]), made(FAMILY["spot"])
    first = market.last_update_id
    while market.log.oldest_update_id == first:
        market.end_window()
    while twin.last_update_id < market.log.oldest_update_id:
        twin.end_window()
    # The oldest id may be inside a window of the twin, which still has it.
    assert market.sides_at(market.log.oldest_update_id) == twin.sides_at(market.log.oldest_update_id)


def test_ids_restart_lower_each_time_and_the_books_of_the_last_run_are_kept():
    market = made(FAMILY["usd_m"])
    known = []
    for _ in range(3):
        for _ in range(20):
            market.end_window()
            market.begin_window()
        before = market.last_update_id
        known.append((before, market.sides_at(before)))
        market.restart_ids()
        assert market.last_update_id == market.sent_update_id < before / 2
        assert market.sides_at(before) == known[-1][1]
    with pytest.raises(KeyError):
        market.sides_at(known[-2][0])
    update = None
    while update is None:
        update = market.end_window()
        market.begin_window()
    assert 1_000_000 <= update.previous_update_id < update.first_update_id


# ------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("family", "good", "bad"),
    [
        ("spot", ["BTCUSDT", "ETHBTC", "FOOUSDC", "这是测试币456USDT"], ["USDT", "BTCUSD_PERP", "NOSUCHMARKET", ""]),
        ("usd_m", ["BTCUSDT", "1000SHIBUSDT", "BTCUSDT_261225"], ["ETHBNB", "BTCUSD_PERP", "btcusdt"]),
        ("coin_m", ["BTCUSD_PERP", "DOTUSD_261225"], ["BTCUSDT", "BTCUSD"]),
        ("options", ["BTC-261225-60000-C", "ETH-261225-0.5-P"], ["BTCUSDT", "BTC-261225-60000-X"]),
    ],
)  # fmt: skip
def test_only_a_name_that_ends_as_the_family_s_do_can_be_a_market(family, good, bad):
    for symbol in good:
        listing = listing_of(family, symbol)
        assert listing is not None, symbol
        assert listing.first_price % listing.tick == 0
        assert Decimal(listing.first_price) / listing.tick >= 5000
    assert [symbol for symbol in bad if listing_of(family, symbol) is not None] == []
