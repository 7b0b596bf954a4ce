"""The view: always exactly the terminal's size, and no number of a book that is not in sync."""

import re
from decimal import Decimal

import pytest
from cli_kit import lost_sample, sample, status, text_of, texts_of, widths_of

from ldc.cli.ladder import MEANING, WAITING, short_facts
from ldc.cli.screen import Screen, drawn, levels_for
from ldc.cli.text import ASCII, UNICODE
from ldc.types import Cause, SyncState

SCREEN = Screen(title="ldc watch binance.com", clock="20:31:05", event="20:31:04 BTCUSDT: something", note="q ends")
SIZES = [
    (80, 24),
    (79, 23),
    (120, 40),
    (200, 60),
    (400, 100),
    (67, 16),
    (66, 15),
    (38, 12),
    (37, 12),
    (20, 5),
    (9, 2),
    (1, 1),
]
MARKETS = ["BTCUSDT", "ETHUSDT", "DOGEUSDT", "币安人生USDT", *(f"M{number:03}USDT" for number in range(56))]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("count", [1, 2, 3, 7, 60])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_the_view_has_exactly_the_size_of_the_terminal(size: tuple[int, int], count: int, glyphs) -> None:
    width, height = size
    states = [sample, lost_sample, lambda market: lost_sample(market, "UNKNOWN_MARKET", SyncState.FAILED)]
    for offset in range(3):
        samples = [states[(number + offset) % 3](market) for number, market in enumerate(MARKETS[:count])]
        lines = drawn(samples, SCREEN, width, height, glyphs)
        assert len(lines) == height
        assert widths_of(lines) == {width}
        if glyphs is ASCII:
            assert all(text.isascii() or "币" in text or "安" in text or "人" in text for text in texts_of(lines))


def test_one_market_at_80x24_shows_everything_that_matters() -> None:
    lines = texts_of(drawn([sample()], SCREEN, 80, 24))
    text = "\n".join(lines)
    for expected in (
        "BTCUSDT", "SYNCHRONIZED", "spread 0.02", "mid 61840.000", "10.0 /s", "43 ms ago", "1009639641",
        "4998   0.42 %", "5001      all", "resyncs", "20:31:05", "q ends",
    ):  # fmt: skip
        assert expected in text, expected


def test_the_best_prices_are_next_to_the_middle_and_the_columns_stand_below_each_other() -> None:
    lines = texts_of(drawn([sample(levels=3, size="1.25")], SCREEN, 80, 24))
    [middle] = [number for number, line in enumerate(lines) if "spread" in line]
    ladder = [line[:33].rstrip() for line in lines[middle - 3 : middle + 4]]
    assert ladder[:3] == [
        " 61840.03     3.75     7.50 █████",
        " 61840.02     2.50     3.75 █████",
        " 61840.01     1.25     1.25 █████",
    ]
    assert [line[:27] for line in ladder[4:]] == [
        " 61839.99     1.25     1.25",
        " 61839.98     2.50     3.75",
        " 61839.97     3.75     7.50",
    ]


def test_a_bar_is_as_long_as_its_size_is_large() -> None:
    lines = texts_of(drawn([sample()], SCREEN, 80, 24))
    asks = [line.partition("│")[0].count("█") for line in lines if line.startswith(" 61840.")]
    assert asks == sorted(asks, reverse=True)
    assert len(asks) == 10
    assert asks[0] > 8 * asks[-1] > 0


def test_no_more_levels_than_requested() -> None:
    lines = texts_of(drawn([sample()], SCREEN._replace(levels_max=3), 80, 24))
    assert sum(bool(re.match(" 618(39|40)[.]", line)) for line in lines) == 6
    assert levels_for(24, None) == 12
    assert levels_for(24, 3) == 3
    assert levels_for(1, None) == 1


@pytest.mark.parametrize("size", [(80, 24), (40, 14), (60, 5)], ids=["wide", "narrow", "table"])
@pytest.mark.parametrize("state", [state for state in SyncState if state is not SyncState.SYNCHRONIZED])
def test_a_book_that_is_not_in_sync_shows_its_state_and_cause_and_no_number(
    size: tuple[int, int], state: SyncState
) -> None:
    other = sample("ETHUSDT", mid="2682.00") if size == (60, 5) else None
    samples = [each for each in (lost_sample(state=state), other) if each is not None]
    text = "\n".join(texts_of(drawn(samples, SCREEN, *size)))
    assert state.value in text
    assert "GAP" in text
    assert "618" not in text.replace("range", "")
    assert "spread 0" not in text


def test_a_book_that_left_its_horizon_is_not_called_synchronized() -> None:
    lost = lost_sample(cause="LEFT_HORIZON", state=SyncState.SYNCHRONIZED)
    text = "\n".join(texts_of(drawn([lost], SCREEN, 80, 24)))
    assert "UNREADABLE" in text
    assert "LEFT_HORIZON" in text
    assert "SYNCHRONIZED" not in text


def test_every_cause_and_every_state_has_a_text() -> None:
    assert set(MEANING) == {cause.value for cause in Cause}
    assert set(WAITING) == set(SyncState)
    assert max(map(len, MEANING.values())) <= 36


def test_resyncs_are_shown_by_cause() -> None:
    resynced = sample()
    resynced = resynced._replace(status=resynced.status._replace(resyncs={"GAP": 2, "STREAM_CLOSED": 1}, reconnects=1))
    for size in ((80, 24), (40, 14)):
        text = "\n".join(texts_of(drawn([resynced], SCREEN, *size)))
        assert re.search(r"resyncs +3", text), text
        assert re.search(r"GAP +2", text), text


def test_several_markets_stand_side_by_side_where_it_is_wide_and_in_a_table_where_it_is_not() -> None:
    samples = [sample("BTCUSDT"), sample("ETHUSDT", mid="2682.00")]
    side_by_side = texts_of(drawn(samples, SCREEN, 80, 24))
    assert any("BTCUSDT" in line and "ETHUSDT" in line for line in side_by_side)
    assert sum("spread" in line for line in side_by_side) == 1
    below_each_other = texts_of(drawn(samples, SCREEN, 50, 40))
    assert sum("spread" in line for line in below_each_other) == 2
    table = texts_of(drawn(samples, SCREEN, 80, 8))
    assert [line.split()[0] for line in table[1:4]] == ["market", "BTCUSDT", "ETHUSDT"]


def test_prices_of_different_decimals_are_aligned_in_the_table() -> None:
    samples = [sample("BTCUSDT"), sample("DOGEUSDT", mid="0.102931", step="0.000001", size="5")]
    lines = texts_of(drawn(samples, SCREEN, 110, 8))
    btc, doge = lines[2], lines[3]
    assert btc.index("61839.99") + len("61839") == doge.index("0.102930") + 1


def test_no_column_of_the_table_moves_when_a_market_is_lost() -> None:
    before = texts_of(drawn([sample("BTCUSDT"), sample("ETHUSDT")], SCREEN, 80, 8))
    after = texts_of(drawn([sample("BTCUSDT"), lost_sample("ETHUSDT")], SCREEN, 80, 8))
    assert after[1:3] == before[1:3]
    assert after[3].split() == ["ETHUSDT", "BUFFERING", "GAP", "10.0", "43", "ms", "2"]
    assert after[3].index("GAP") == before[3].index("61839.99")


def test_when_not_all_fit_the_ones_out_of_sync_are_shown_and_the_rest_is_counted() -> None:
    samples = [*(sample(market) for market in MARKETS[:50]), lost_sample("LOSTUSDT")]
    lines = texts_of(drawn(samples, SCREEN, 80, 24))
    assert "LOSTUSDT" in lines[2]
    assert "31 more" in lines[-2]
    assert sum("USDT" in line for line in lines[2:-2]) == 20


def test_the_header_counts_while_markets_synchronize_and_says_so_when_all_have() -> None:
    waiting = texts_of(drawn([sample(), lost_sample("ETHUSDT")], SCREEN._replace(waited_s=1.25), 80, 24))[0]
    assert "synchronizing" in waiting
    assert "1 of 2" in waiting
    assert "1.2 s" in waiting
    assert "█████▌─────" in waiting
    assert "2 markets in sync" in texts_of(drawn([sample(), sample("ETHUSDT")], SCREEN, 80, 24))[0]


def test_the_header_says_about_how_long_the_others_will_take_until_all_can_be_read() -> None:
    samples = [sample(), lost_sample("ETHUSDT")]
    for seconds, expected in ((56.2, "~57 s left"), (0.0, "~0 ms left"), (1400.0, "~23 min left"), (None, "1.2 s   ")):
        screen = SCREEN._replace(waited_s=1.25, seconds_left=seconds)
        header = texts_of(drawn(samples, screen, 100, 24))[0]
        assert expected in header, header
        assert "1 of 2" in header
    assert "left" not in texts_of(drawn([sample()], SCREEN._replace(seconds_left=57.0), 100, 24))[0]
    narrow = texts_of(drawn(samples * 500, SCREEN._replace(waited_s=12.0, seconds_left=57.0), 80, 24))[0]
    assert "500 of 1000  12 s  ~57 s left" in narrow


def test_a_market_that_has_failed_is_not_waited_for() -> None:
    samples = [sample(), lost_sample("NOPE", "UNKNOWN_MARKET", SyncState.FAILED)]
    header = texts_of(drawn(samples, SCREEN, 80, 24))[0]
    assert "1 market in sync  1 failed" in header
    assert "synchronizing" not in header


def test_the_last_error_is_shown_while_the_book_is_unreadable() -> None:
    lost = lost_sample()
    lost = lost._replace(
        status=lost.status._replace(last_error="cannot connect to ws://127.0.0.1:1/stream: " + "x " * 300)
    )
    for size in ((80, 24), (40, 20)):
        text = " ".join(" ".join(line.split()) for line in texts_of(drawn([lost], SCREEN, *size)))
        assert "cannot connect to" in text
        assert "GAP" in text


def test_an_empty_side_is_shown_as_empty() -> None:
    one_sided = sample()._replace(bids=(), bid_depth=None)
    for size in ((80, 24), (40, 14), (80, 5)):
        text = "\n".join(texts_of(drawn([one_sided], SCREEN, *size)))
        assert "61840.01" in text
        assert "spread 0" not in text
    empty = sample()._replace(bids=(), asks=())
    assert "one side is empty" in "\n".join(texts_of(drawn([empty], SCREEN, 80, 24)))


def test_text_from_outside_cannot_break_the_screen() -> None:
    nasty = lost_sample()
    nasty = nasty._replace(status=nasty.status._replace(last_error="a\nb\x1b[2J\tc"))
    for line in drawn([nasty], SCREEN._replace(event="x\r\ny"), 80, 24):
        assert text_of(line).isprintable()


def test_totals_run_up_from_the_best_price() -> None:
    assert sample(levels=3).mid == Decimal("61840.00")
    lines = texts_of(drawn([sample(levels=4, size="0.5")], SCREEN, 80, 24))
    totals = [line.split()[2] for line in lines if line.startswith(" 61840.")]
    assert totals == ["5.0", "3.0", "1.5", "0.5"]


def test_the_facts_below_a_ladder_do_not_collide():
    """A regression: "GAP 7  STREA801+797 levels"."""
    lost = sample(status=status(resyncs={"GAP": 7, "STREAM_CLOSED": 1}, bid_count=801, ask_count=797))
    for width in range(40, 70):
        line = "".join(text for text, _ in short_facts(lost, width, UNICODE)[1])
        assert len(line) == width
        assert re.search(rf"(STREAM_CLOSED 1 *  |{UNICODE.more} +)801\+797 levels $", line), line
