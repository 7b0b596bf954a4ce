"""The venue rows: complete, consistent with each other, and spelt as Binance spells them."""

from dataclasses import FrozenInstanceError

import pytest

from ldc.errors import UnknownExchange
from ldc.sequence import FUTURES, SPOT
from ldc.venues import PERMANENT_ERROR_CODES, VENUES, Venue, checked_base_uri, venue_named

ALL_EXCHANGES = [
    "binance.com",
    "binance.com-testnet",
    "binance.com-demo",
    "binance.com-margin",
    "binance.com-margin-testnet",
    "binance.com-isolated_margin",
    "binance.com-isolated_margin-testnet",
    "binance.com-futures",
    "binance.com-futures-testnet",
    "binance.com-coin_futures",
    "binance.com-coin_futures-testnet",
    "binance.com-vanilla-options",
    "binance.com-vanilla-options-testnet",
    "binance.us",
    "trbinance.com",
    "simulator",
    "simulator-futures",
]

every_venue = pytest.mark.parametrize("venue", VENUES.values(), ids=list(VENUES))


def test_the_exchanges_are_the_documented_ones():
    assert sorted(ALL_EXCHANGES) == sorted(VENUES)


@pytest.mark.parametrize(
    ("exchange", "snapshot_url", "stream_url"),
    [
        ("binance.com", "https://api.binance.com/api/v3/depth", "wss://stream.binance.com:9443/stream"),
        (
            "binance.com-testnet",
            "https://testnet.binance.vision/api/v3/depth",
            "wss://stream.testnet.binance.vision/stream",
        ),
        ("binance.com-demo", "https://demo-api.binance.com/api/v3/depth", "wss://demo-stream.binance.com/stream"),
        ("binance.com-margin", "https://api.binance.com/api/v3/depth", "wss://stream.binance.com:9443/stream"),
        ("binance.com-futures", "https://fapi.binance.com/fapi/v1/depth", "wss://fstream.binance.com/public/stream"),
        (
            "binance.com-futures-testnet",
            "https://testnet.binancefuture.com/fapi/v1/depth",
            "wss://fstream.binancefuture.com/public/stream",
        ),
        ("binance.com-coin_futures", "https://dapi.binance.com/dapi/v1/depth", "wss://dstream.binance.com/stream"),
        (
            "binance.com-vanilla-options",
            "https://eapi.binance.com/eapi/v1/depth",
            "wss://fstream.binance.com/public/stream",
        ),
        ("binance.us", "https://api.binance.us/api/v3/depth", "wss://stream.binance.us:9443/stream"),
        ("trbinance.com", "https://api.binance.me/api/v3/depth", "wss://stream-cloud.binance.tr/stream"),
    ],
)
def test_urls_are_those_of_the_documentation(exchange, snapshot_url, stream_url):
    venue = venue_named(exchange)
    assert snapshot_url == venue.snapshot_url()
    assert stream_url == venue.stream_url()


def test_a_given_base_uri_replaces_the_host_and_keeps_the_path():
    venue = venue_named("binance.com-futures")
    assert venue.snapshot_url("http://127.0.0.1:8080") == "http://127.0.0.1:8080/fapi/v1/depth"
    assert venue.stream_url("ws://127.0.0.1:8080/") == "ws://127.0.0.1:8080/public/stream"
    assert venue.snapshot_url("https://[::1]:8443") == "https://[::1]:8443/fapi/v1/depth"


@pytest.mark.parametrize(
    "base_uri",
    [
        "",
        "api.binance.com",
        "wss://api.binance.com",
        "https://api.binance.com/api/v3",
        "https://api.binance.com?x=1",
        "https://user:secret@api.binance.com",
        "https://api binance.com",
        "https://api.binance.com//",
        "https://",
        "https://host:123456",
        "https://host\n",
    ],
)
def test_a_base_uri_that_is_not_scheme_host_port_is_refused_without_repeating_it(base_uri):
    with pytest.raises(ValueError, match=r"https or http://host\[:port\]") as refused:
        checked_base_uri(base_uri, ("https", "http"))
    assert "secret" not in str(refused.value)


def test_a_simulator_has_a_launcher_and_no_address():
    for exchange, rule in (("simulator", SPOT), ("simulator-futures", FUTURES)):
        venue = venue_named(exchange)
        assert venue.launcher == "ldc.simulator:launch"
        assert venue.rule is rule
        with pytest.raises(ValueError, match="ldc.simulator:launch"):
            venue.snapshot_url()
        with pytest.raises(ValueError, match="ldc.simulator:launch"):
            venue.stream_url()
        assert venue.snapshot_url("http://127.0.0.1:1").startswith("http://127.0.0.1:1/")


@every_venue
def test_only_simulators_need_a_launcher(venue: Venue):
    assert (venue.launcher is None) == (venue.restful_base_uris != ()) == (venue.websocket_base_uris != ())


def test_an_unknown_exchange_names_the_valid_ones():
    with pytest.raises(UnknownExchange) as unknown:
        venue_named("binance.org")
    assert isinstance(unknown.value, ValueError)
    for exchange in ("binance.org", *ALL_EXCHANGES):
        assert exchange in str(unknown.value)


def test_the_rows_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        venue_named("binance.com").weight_per_minute = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        VENUES["binance.com"] = venue_named("binance.us")  # type: ignore[index]


@every_venue
def test_base_uris_have_the_form_that_users_must_give(venue: Venue):
    for base_uri in venue.restful_base_uris:
        assert checked_base_uri(base_uri, ("https",)) == base_uri
    for base_uri in venue.websocket_base_uris:
        assert checked_base_uri(base_uri, ("wss",)) == base_uri


def test_futures_and_options_chain_by_previous_id_and_the_others_do_not():
    by_previous_id = {exchange for exchange, venue in VENUES.items() if venue.rule is FUTURES}
    assert by_previous_id == {exchange for exchange in VENUES if "futures" in exchange or "options" in exchange}
    assert {venue.rule for venue in VENUES.values()} == {SPOT, FUTURES}


# -- streams and symbols


@pytest.mark.parametrize(
    ("exchange", "market", "interval_ms", "stream"),
    [
        ("binance.com", "BTCUSDT", None, "btcusdt@depth@100ms"),
        ("binance.com", "btcusdt", 100, "btcusdt@depth@100ms"),
        ("binance.com", "BTCUSDT", 1000, "btcusdt@depth"),
        ("binance.com-futures", "BTCUSDT", None, "btcusdt@depth@100ms"),
        ("binance.com-futures", "BTCUSDT_261225", 250, "btcusdt_261225@depth"),
        ("binance.com-futures", "BTCUSDT", 500, "btcusdt@depth@500ms"),
        ("binance.com-coin_futures", "BTCUSD_PERP", 250, "btcusd_perp@depth"),
        ("binance.com-vanilla-options", "BTC-260626-100000-C", 500, "btc-260626-100000-c@depth@500ms"),
        ("binance.com-vanilla-options", "DOGE-260626-0.35-C", None, "doge-260626-0.35-c@depth@100ms"),
        ("binance.us", "BTCUSD", None, "btcusd@depth@100ms"),
        ("trbinance.com", "BTC_TRY", None, "btctry@depth@100ms"),
    ],
)
def test_stream_names(exchange, market, interval_ms, stream):
    assert venue_named(exchange).stream_name(market, interval_ms) == stream


@pytest.mark.parametrize(
    ("exchange", "interval_ms", "choices"),
    [
        ("binance.com", 250, "100, 1000"),
        ("binance.com-futures", 1000, "100, 250, 500"),
        ("binance.com-futures", 0, "100, 250, 500"),
        ("binance.com-vanilla-options", 1000, "100, 500"),
    ],
)
def test_an_undocumented_speed_is_refused_with_the_choices(exchange, interval_ms, choices):
    with pytest.raises(ValueError, match=f"{interval_ms} ms; choose one of {choices}$"):
        venue_named(exchange).stream_name("BTCUSDT", interval_ms)


@every_venue
def test_the_default_speed_is_the_fastest_documented_one(venue: Venue):
    assert venue.default_interval_ms == 100 == min(speed.interval_ms for speed in venue.update_speeds)


def test_only_ascii_letters_change_their_case():
    venue = venue_named("binance.com-testnet")
    # str.upper() and str.lower() change the length of the Turkish and the German letters.
    for market in ("这是测试币456", "币usdt", "ßtry", "İtry"):
        symbol = venue.normalized_market(market)
        assert symbol == "".join(letter.upper() if letter.isascii() else letter for letter in market)
        lowered = "".join(letter.lower() if letter.isascii() else letter for letter in market)
        assert venue.stream_name(market) == f"{lowered}@depth@100ms"


def test_an_underscore_is_dropped_where_the_depth_endpoints_have_none_and_kept_elsewhere():
    assert venue_named("trbinance.com").snapshot_params("btc_try", 100) == {"symbol": "BTCTRY", "limit": "100"}
    assert venue_named("binance.com-coin_futures").normalized_market("btcusd_perp") == "BTCUSD_PERP"


@pytest.mark.parametrize(
    "market", ["", " ", "BTC/USDT", "BTCUSDT ", "BTC&limit=1", "BTC?", "A" * 51, "BTC\n", "a@depth", "é\u0301"]
)
def test_a_text_that_cannot_be_a_market_is_refused(market):
    with pytest.raises(ValueError, match="cannot be a market of binance.com"):
        venue_named("binance.com").normalized_market(market)


def test_a_market_that_only_consists_of_dropped_characters_is_refused():
    with pytest.raises(ValueError, match="cannot be a market of trbinance.com"):
        venue_named("trbinance.com").normalized_market("__")


def test_a_market_must_be_text():
    with pytest.raises(TypeError, match="not int"):
        venue_named("binance.com").normalized_market(5)  # type: ignore[arg-type]


# -- snapshots: limits and weights


@pytest.mark.parametrize(
    ("exchange", "weights"),
    [
        ("binance.com", {1: 5, 5: 5, 100: 5, 101: 25, 500: 25, 501: 50, 1000: 50, 1001: 250, 5000: 250}),
        ("binance.com-futures", {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}),
        ("binance.com-coin_futures", {5: 2, 50: 2, 100: 5, 500: 10, 1000: 20}),
        ("binance.com-vanilla-options", {10: 1, 20: 1, 50: 1, 100: 5, 500: 10, 1000: 20}),
        ("binance.us", {1: 1, 100: 1, 101: 5, 500: 5, 501: 10, 1000: 10, 1001: 50, 5000: 50}),
        ("trbinance.com", {100: 5, 500: 25, 1000: 50}),
    ],
)
def test_weights_are_those_of_the_documentation(exchange, weights):
    venue = venue_named(exchange)
    assert {limit: venue.snapshot_weight(limit) for limit in weights} == weights


@pytest.mark.parametrize(
    ("exchange", "honoured"),
    [
        ("binance.com", {1: 1, 99: 99, 5000: 5000, 5001: 5000, 10**9: 5000}),
        ("binance.com-futures", {1: 5, 5: 5, 6: 5, 99: 50, 700: 500, 1000: 1000, 5000: 1000}),
        ("binance.com-vanilla-options", {5: 10, 10: 10, 999: 500}),
        ("binance.us", {4999: 4999, 6000: 5000}),
        ("trbinance.com", {5000: 1000, 250: 100}),
    ],
)
def test_the_honoured_limit_is_the_largest_served_one_up_to_the_requested(exchange, honoured):
    venue = venue_named(exchange)
    assert {limit: venue.honoured_limit(limit) for limit in honoured} == honoured


@pytest.mark.parametrize("limit", [0, -1, True, 100.0, None, "100"])
def test_what_is_not_a_positive_whole_number_of_levels_is_refused(limit):
    with pytest.raises(ValueError, match="at least 1 level"):
        venue_named("binance.com").honoured_limit(limit)


def test_a_limit_that_is_not_served_gets_neither_a_weight_nor_a_query():
    venue = venue_named("binance.com-futures")
    with pytest.raises(ValueError, match="at most 1000 levels"):
        venue.snapshot_weight(1001)
    with pytest.raises(ValueError, match="no snapshot of 700 levels"):
        venue.snapshot_params("BTCUSDT", 700)


def test_the_query_of_a_snapshot():
    assert venue_named("binance.com").snapshot_params("btcusdt", 700) == {"symbol": "BTCUSDT", "limit": "700"}


@pytest.mark.parametrize(
    ("exchange", "snapshot_limit", "steps"),
    [
        ("binance.com", None, (100, 1000, 5000)),
        ("binance.com", 5000, (100, 1000, 5000)),
        ("binance.com", 2000, (100, 1000, 2000)),
        ("binance.com", 1000, (100, 1000)),
        ("binance.com", 100, (100,)),
        ("binance.com", 20, (20,)),
        ("binance.com-futures", None, (100, 1000)),
        ("binance.com-futures", 700, (100, 500)),
        ("binance.com-futures", 1, (5,)),
        ("trbinance.com", None, (100, 1000)),
    ],
)
def test_a_market_deepens_in_steps_up_to_the_cap(exchange, snapshot_limit, steps):
    assert venue_named(exchange).snapshot_steps(snapshot_limit) == steps


@every_venue
def test_weights_grow_with_the_limit_and_every_listed_limit_has_one(venue: Venue):
    limits, weights = zip(*venue.snapshot_weights, strict=True)
    assert list(limits) == sorted(set(limits))
    assert list(weights) == sorted(set(weights))
    assert weights[0] >= 1
    if venue.snapshot_limits is not None:
        assert list(venue.snapshot_limits) == sorted(set(venue.snapshot_limits))
        assert venue.snapshot_limits[-1] == venue.snapshot_limit_max


# -- shared budgets


def test_usd_m_and_coin_m_share_a_budget_and_spot_has_its_own():
    families = {exchange: venue.weight_family for exchange, venue in VENUES.items()}
    assert families["binance.com-futures"] == families["binance.com-coin_futures"]
    assert families["binance.com"] == families["binance.com-margin"] == families["binance.com-isolated_margin"]
    mainnet = ["binance.com", "binance.com-futures", "binance.com-vanilla-options", "binance.us", "trbinance.com"]
    assert len({families[exchange] for exchange in mainnet}) == len(mainnet)
    assert not {families[exchange] for exchange in VENUES if "testnet" in exchange} & {
        families[name] for name in mainnet
    }


@every_venue
def test_rows_that_share_a_budget_agree_on_its_size(venue: Venue):
    for other in VENUES.values():
        if other.weight_family == venue.weight_family:
            assert other.weight_per_minute == venue.weight_per_minute


def test_a_documented_base_shares_the_budget_of_the_family_and_another_has_its_own():
    venue = venue_named("binance.com")
    assert venue.weight_budget_name() == "api.binance.com"
    assert venue.weight_budget_name("https://api3.binance.com/") == "api.binance.com"
    assert venue.weight_budget_name("http://127.0.0.1:8080") == "api.binance.com at http://127.0.0.1:8080"
    assert venue_named("binance.us").weight_budget_name("http://127.0.0.1:8080") != venue.weight_budget_name(
        "http://127.0.0.1:8080"
    )


def test_an_invalid_symbol_and_a_status_without_a_book_are_permanent():
    assert {-1121, -1122, -1220, -4108} == PERMANENT_ERROR_CODES


def test_redundant_connections_are_on_different_hosts_first_then_on_different_ports():
    spot = VENUES["binance.com"]
    one, two, three, four = spot.stream_urls(4)
    assert (one, four) == (spot.stream_url(), one)
    assert two == "wss://data-stream.binance.vision/stream"
    assert three == "wss://stream.binance.com:443/stream"
    assert spot.stream_urls(1) == (spot.stream_url(),)
    assert VENUES["binance.us"].stream_urls(2) == ("wss://stream.binance.us:9443/stream",) * 2
    assert spot.stream_urls(2, "ws://127.0.0.1:8080") == ("ws://127.0.0.1:8080/stream",) * 2
    with pytest.raises(ValueError, match="launcher"):
        VENUES["simulator"].stream_urls(2)
