"""The lines for programs: their names and order are stable."""

from cli_kit import lost_sample, sample

from ldc.cli.plain import FIELDS, plain_line

NOON_NS = 1_795_348_800_123_456_789


def fields(line: str) -> dict[str, str]:
    return dict(field.split("=", 1) for field in line.split(" "))


def test_a_line_has_the_documented_form() -> None:
    assert plain_line(sample(), NOON_NS) == (
        "time=2026-11-22T12:00:00.123Z market=BTCUSDT state=SYNCHRONIZED cause=- id=1009639641 "
        "bid=61839.99 bid_size=0.005 ask=61840.01 ask_size=0.005 spread=0.02 mid=61840.000 "
        "updates_per_s=10.0 age_ms=43 bids=4998 asks=5001 bid_depth=0.421 ask_depth=all resyncs=0 "
        "resyncs_by_cause=- reconnects=0"
    )


def test_the_fields_are_those_that_are_documented_in_their_order() -> None:
    assert list(fields(plain_line(sample(), NOON_NS))) == list(FIELDS)


def test_a_line_of_a_book_out_of_sync_has_no_number_of_the_book() -> None:
    values = fields(plain_line(lost_sample(), NOON_NS))
    unknown = {"id", "bid", "bid_size", "ask", "ask_size", "spread", "mid", "bids", "asks", "bid_depth", "ask_depth"}
    assert {name for name, value in values.items() if value == "-"} == unknown
    assert values["state"] == "BUFFERING"
    assert values["cause"] == "GAP"
    assert values["resyncs"] == "2"
    assert values["resyncs_by_cause"] == "GAP:2"


def test_no_value_is_empty_or_holds_a_blank() -> None:
    for line in (
        plain_line(sample(), NOON_NS),
        plain_line(lost_sample(), NOON_NS),
        plain_line(sample(bids=()), NOON_NS),
    ):
        assert all(value for value in fields(line).values())
        assert len(line.split(" ")) == len(FIELDS)
