"""The list of markets: lists that were merged in any order are equal, the last writer wins, and no clock is used."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldc.cluster import wanted
from ldc.cluster.wanted import Entry, WantedMarkets, entries_from_bytes

ENTRY = st.builds(Entry, st.integers(0, 3), st.sampled_from(["", "a", "b"]), st.integers(0, 3))
LISTS = st.lists(st.dictionaries(st.sampled_from(["BTCUSDT", "ETHUSDT", "SOLUSDT"]), ENTRY), max_size=5)


@given(LISTS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(lists, random):
    one, other = WantedMarkets(), WantedMarkets()
    for entries in lists:
        one.merge(entries)
    for entries in [*random.sample(lists, len(lists)), *lists[:2]]:
        other.merge(entries)
    assert one.entries == other.entries
    assert one.digest == other.digest


def test_a_removal_survives_the_restart_of_a_node_that_names_the_market():
    survivor, restarted = WantedMarkets(), WantedMarkets()
    survivor.name_at_start(["BTCUSDT", "ETHUSDT"], 2)
    assert survivor.remove(["ETHUSDT"], "user") == {"ETHUSDT"}
    restarted.name_at_start(["BTCUSDT", "ETHUSDT"], 2)
    assert restarted.merge(entries_from_bytes(survivor.to_bytes())) == {"ETHUSDT"}
    assert list(restarted) == ["BTCUSDT"]
    assert "ETHUSDT" not in restarted
    assert len(restarted) == 1


def test_the_last_writer_wins_whatever_its_name():
    one, other = WantedMarkets(), WantedMarkets()
    one.add(["BTCUSDT"], 2, "z")
    other.merge(one.entries)
    other.add(["BTCUSDT"], 3, "a")
    assert one.merge(other.entries) == {"BTCUSDT"}
    assert other.merge(one.entries) == set()
    assert one.replicas("BTCUSDT") == 3


def test_of_two_command_lines_the_larger_number_of_replicas_holds():
    one, other = WantedMarkets(), WantedMarkets()
    one.name_at_start(["BTCUSDT"], 2)
    other.name_at_start(["BTCUSDT"], 3)
    one.merge(other.entries)
    other.merge(one.entries)
    assert one.replicas("BTCUSDT") == other.replicas("BTCUSDT") == 3


def test_what_is_as_it_was_is_not_written_again():
    markets = WantedMarkets()
    markets.add(["BTCUSDT"], 2, "a")
    digest = markets.digest
    assert markets.add(["BTCUSDT"], 2, "b") == set()
    assert markets.digest == digest
    assert markets.add(["BTCUSDT"], 1, "b") == {"BTCUSDT"}
    assert markets.digest != digest


@pytest.mark.parametrize("name", ["", "A/B", "A*", "A B", "x" * 65, "A\n", "A?", "A#", "A$"])
def test_what_cannot_be_a_key_is_no_market(name):
    with pytest.raises(ValueError, match="cannot be a market of a cluster"):
        WantedMarkets().add([name], 1, "a")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        zlib.compress(b"[]"),
        zlib.compress(b"{"),
        zlib.compress(b'{"BTCUSDT": [1, "a"]}'),
        zlib.compress(b'{"BTCUSDT": [-1, "a", 2]}'),
        zlib.compress(b'{"BTCUSDT": [1, "a", 99]}'),
        zlib.compress(b'{"A/B": [1, "a", 2]}'),
        zlib.compress(b'{"BTCUSDT": [1, "a", 2]}')[:-3],
        zlib.compress(b" " * (wanted.LIST_BYTES_MAX + 1)),
    ],
)
def test_bytes_that_are_no_list_are_refused(data):
    with pytest.raises(ValueError, match="list of markets|cannot be a market|Expecting"):
        entries_from_bytes(data)


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: zlib.compress(text.encode())))
def test_no_bytes_do_anything_else(data):
    try:
        entries_from_bytes(data)
    except ValueError:
        pass


def test_the_list_has_an_end(monkeypatch):
    monkeypatch.setattr(wanted, "MARKETS_MAX", 2)
    markets = WantedMarkets()
    markets.add(["A", "B"], 1, "a")
    with pytest.raises(ValueError, match="more than 2 entries"):
        markets.add(["C"], 1, "a")
    assert sorted(markets) == ["A", "B"]


def test_a_list_of_three_thousand_markets_is_small():
    markets = WantedMarkets()
    markets.name_at_start([f"MARKET{number}USDT" for number in range(3000)], 3)
    data = markets.to_bytes()
    assert len(data) < 30_000
    assert entries_from_bytes(data) == markets.entries
    assert json.loads(zlib.decompress(data))["MARKET7USDT"] == [0, "", 3]
