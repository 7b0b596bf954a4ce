"""Pushes and proofs: what arrives is what the book said, and no bytes do harm."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ldc
from ldc.cluster import message
from ldc.cluster.message import Proof, differ, proofs_from_bytes, proofs_to_bytes, push_from, push_of, refusal


def book(bids, asks, update_id=7, limit=100):
    made = ldc.OrderBook("spot", market="BTCUSDT")
    made.load_snapshot(json.dumps({"lastUpdateId": update_id, "bids": bids, "asks": asks}), limit=limit)
    return made


def ladder(count, best=100, step=-1, quantity="1.5"):
    return [[str(best + step * number), quantity] for number in range(count)]


def pushed(*arguments, levels=20, **parameters):
    return push_from(push_of("BTCUSDT", book(*arguments, **parameters).reader, levels))


def test_a_view_arrives_as_the_book_read_it():
    made = book(ladder(30), ladder(30, 101, 1))
    push = push_from(push_of("BTCUSDT", made.reader, 20))
    view = push.view(5)
    ends = {
        "bid_horizon": 81.0,
        "ask_horizon": 120.0,
        "bids_truncated": False,
        "asks_truncated": False,
        "epoch": view.epoch,
    }
    assert view == made.view(20)._replace(received_time_ns=5, **ends)
    assert push.cause is None
    assert push.market == "BTCUSDT"


def test_a_side_that_is_shorter_than_the_message_keeps_the_book_s_own_horizon():
    whole = pushed(ladder(3), ladder(3, 101, 1)).view(0)
    assert (whole.bid_horizon, whole.ask_horizon) == (None, None)
    cut = pushed(ladder(3), ladder(3, 101, 1), limit=3).view(0)
    assert (cut.bid_horizon, cut.ask_horizon) == (98.0, 103.0)


def test_a_book_that_cannot_be_read_says_why():
    made = book(ladder(3), ladder(3, 101, 1))
    made.suspend("GAP")
    push = push_from(push_of("BTCUSDT", made.reader, 20))
    assert (push.cause, push.levels, push.last_update_id) == ("GAP", None, 7)
    assert push_from(push_of("BTCUSDT", ldc.OrderBook("spot").reader, 20)).cause == "NOT_LOADED"


def test_times_and_their_absence_arrive():
    made = book(ladder(3), ladder(3, 101, 1))
    assert push_from(push_of("BTCUSDT", made.reader, 5)).event_time_ms is None
    made.apply('{"e":"depthUpdate","E":123,"s":"BTCUSDT","U":8,"u":9,"b":[],"a":[["101","2"]]}')
    assert push_from(push_of("BTCUSDT", made.reader, 5)).event_time_ms == 123


def test_books_agree_inside_both_horizons():
    asks = ladder(30, 101, 1)
    assert not differ(pushed(ladder(30), asks), pushed(ladder(30), asks))
    assert not differ(pushed(ladder(30), asks, levels=20), pushed(ladder(30), asks, levels=10))
    assert not differ(pushed(ladder(5), asks, limit=5), pushed(ladder(30), asks))
    assert not differ(pushed([], asks, limit=5), pushed([], asks))


@pytest.mark.parametrize("place", [0, 3, 9])
def test_another_quantity_price_or_absence_is_a_difference(place):
    asks = ladder(30, 101, 1)
    right = pushed(ladder(30), asks, levels=10)
    quantity, missing, moved = ladder(30), ladder(30), ladder(30)
    quantity[place][1] = "1.6"
    del missing[place]
    moved[place][0] += ".5"
    for bids in (quantity, missing, moved):
        assert differ(right, pushed(bids, asks))
        assert differ(pushed(bids, asks), right)
        assert differ(pushed(ladder(30), [[f"{300 - float(price)}", size] for price, size in bids]), right)


PROOFS = st.lists(
    st.builds(
        Proof,
        st.text(st.characters(min_codepoint=33, codec="utf-8"), min_size=1, max_size=20),
        st.integers(0, 2**63 - 1),
        st.integers(0, 10**6).map(lambda ms: ms / 1000),
        st.sampled_from([None, "GAP", "NOT_LOADED", "LEFT_HORIZON"]),
    ),
    max_size=5,
)


@given(PROOFS)
def test_proofs_arrive(proofs):
    assert proofs_from_bytes(proofs_to_bytes(proofs)) == proofs


def test_an_age_is_rounded_up():
    [proof] = proofs_from_bytes(proofs_to_bytes([Proof("BTCUSDT", 1, 0.0001, None)]))
    assert proof.age_s == 0.001


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_no_bytes_do_anything_but_raise_value_error(noise, place, byte):
    whole = push_of("BTCUSDT", book(ladder(3), ladder(3, 101, 1)).reader, 20)
    changed = bytearray(whole)
    changed[place % len(whole)] = byte
    for data in (noise, whole[:place], bytes(changed)):
        try:
            push = push_from(data)
        except ValueError:
            continue
        assert (push.levels is None) == (push.cause is not None)
    proofs = bytearray(proofs_to_bytes([Proof("BTCUSDT", 1, 0.5, "GAP")]))
    proofs[place % len(proofs)] = byte
    for data in (noise, bytes(proofs), bytes(proofs[:place])):
        try:
            proofs_from_bytes(data)
        except ValueError:
            pass


def test_a_message_of_another_version_is_refused():
    data = bytearray(refusal("BTCUSDT", "GAP"))
    data[8] += 1
    with pytest.raises(ValueError, match="layout"):
        push_from(bytes(data))


def test_a_node_that_has_no_book_says_so():
    for cause, said in (("STOPPED", "STOPPED"), (None, "NOT_LOADED")):
        push = push_from(refusal("BTCUSDT", cause))
        assert (push.market, push.cause, push.levels) == ("BTCUSDT", said, None)


def test_levels_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="are no shared book"):
        push_from(push_of("BTCUSDT", book(ladder(3), ladder(3, 101, 1)).reader, 20)[:-16])


def test_every_cause_of_ldc_fits():
    for cause in ldc.Cause:
        made = book(ladder(3), ladder(3, 101, 1))
        made.suspend(cause)
        assert push_from(push_of("BTCUSDT", made.reader, 20)).cause == cause
        assert len(cause) <= message.CAUSE_BYTES_MAX
