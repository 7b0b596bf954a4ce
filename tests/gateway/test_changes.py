"""The policy "changes" of /ldc/ws: books that clients keep are the exchange's, and no hole is silent."""

import json
from decimal import Decimal
from typing import Any

import pytest
from gateway_kit import Served, caught_up, served, until
from simulator_kit import Client, assert_true

SUBSCRIBE = '{"subscribe":["BTCUSDT"],"policy":"changes"}'


class Kept:
    """A book of two dicts, as a client keeps it: nothing of ldc in it."""

    def __init__(self) -> None:
        self.levels: dict[str, dict[Decimal, Decimal]] = {"bids": {}, "asks": {}}
        self.message: Any = None
        self.snapshots = 0

    def take(self, message: Any) -> None:
        """Take a message; after a loss only a snapshot may follow."""
        if message["state"] != "SYNCHRONIZED":
            self.message = None
            return
        self.snapshots += message["snapshot"]
        assert message["snapshot"] or self.message is not None, "changes without a snapshot"
        for side, levels in self.levels.items():
            if message["snapshot"]:
                levels.clear()
            for price, quantity in message[side]:
                if Decimal(quantity):
                    levels[Decimal(price)] = Decimal(quantity)
                else:
                    levels.pop(Decimal(price), None)
        self.message = message

    # as a view has them

    @property
    def last_update_id(self) -> int:
        return self.message["id"]

    @property
    def bid_horizon(self) -> str | None:
        return self.message.get("bidHorizon")

    @property
    def ask_horizon(self) -> str | None:
        return self.message.get("askHorizon")

    def _side(self, name: str) -> tuple[tuple[Decimal, Decimal], ...]:
        sign = -1 if name == "bids" else 1
        edge = self.message.get(f"{name[:3]}Horizon")
        known = [level for level in self.levels[name].items() if edge is None or sign * (Decimal(edge) - level[0]) >= 0]
        return tuple(sorted(known, key=lambda level: sign * level[0]))

    @property
    def bids(self) -> tuple[tuple[Decimal, Decimal], ...]:
        return self._side("bids")

    @property
    def asks(self) -> tuple[tuple[Decimal, Decimal], ...]:
        return self._side("asks")


class Follower(Client):
    """A client that keeps a book, and holds it to the truth after each message."""

    def __init__(self, row: Served) -> None:
        super().__init__(row.gateway, "/ldc/ws")  # type: ignore[arg-type]
        self.row, self.book = row, Kept()
        self.socket.send(SUBSCRIBE)

    def follow(self, update_id: int | None = None) -> Any:
        """Take messages up to that id; None: take one."""
        while True:
            message = self.message()
            self.book.take(message)
            if self.book.message is not None:
                assert_true(self.row.exchange, "BTCUSDT", self.book)
            if update_id is None or message.get("id", 0) >= update_id:
                return message


@pytest.mark.parametrize("venue", ["binance.com", "binance.com-futures"])
def test_a_book_kept_from_changes_is_the_true_book_at_each_message(venue: str):
    with served(venue, exchange_settings={"levels": 1200}) as row, Follower(row) as first:
        assert first.follow()["snapshot"]
        for _ in range(15):
            first.follow(caught_up(row))
        with Follower(row) as second:  # whose snapshot the first one does not get
            assert second.follow()["snapshot"]
            snapshots = first.book.snapshots
            for _ in range(15):
                update_id = caught_up(row)
                first.follow(update_id)
                second.follow(update_id)
            assert second.book.levels == first.book.levels
            assert (first.book.snapshots, second.book.snapshots) == (snapshots, 1)
        until(lambda: row.gateway.call(lambda parts: len(parts.changes._channels["BTCUSDT"]._listeners)) == 1)
    assert row.gateway.counts["changes"] > 15


def test_a_loss_is_a_message_and_the_return_is_a_snapshot():
    with served() as row, Follower(row) as client:
        client.follow(caught_up(row))
        row.exchange.inject("snapshot_503", count=100)
        row.manager.set_resync_request("BTCUSDT", unsubscribe=False)
        while (lost := client.follow())["state"] == "SYNCHRONIZED":
            pass
        assert (lost["state"], lost["cause"]) == ("OUT_OF_SYNC", "REQUESTED")
        with Follower(row) as late:  # who hears of it at once
            assert late.follow()["cause"] == "REQUESTED"
            row.exchange.clear_faults()
            row.exchange.resume("BTCUSDT")
            for each in (client, late):
                assert each.follow()["snapshot"]
                for _ in range(5):
                    assert each.follow()["state"] == "SYNCHRONIZED"


def test_a_market_that_is_not_served_is_followed_once_it_is():
    with served(markets=("BTCUSDT", "ETHUSDT")) as row:
        row.manager.stop_depth_cache("BTCUSDT")
        with Follower(row) as client:
            assert client.follow()["state"] == "OUT_OF_SYNC"
            row.exchange.resume("BTCUSDT")
            row.manager.create_depth_cache("BTCUSDT")
            while client.follow()["state"] != "SYNCHRONIZED":
                pass
            assert client.book.message["snapshot"]
            client.follow()
            client.socket.send('{"unsubscribe":["BTCUSDT"]}')
            until(lambda: row.gateway.call(lambda parts: len(parts.changes._channels)) == 0)


@pytest.mark.parametrize("text", [
    '{"subscribe":["BTCUSDT"],"policy":"every"}', '{"subscribe":["BTCUSDT"],"policy":["changes"]}',
    '{"subscribe":["BTCUSDT"],"policy":"changes","levels":5}',
], ids=["every", "list", "levels"])  # fmt: skip
def test_a_wrong_policy_is_answered(text: str):
    with served() as row, Client(row.gateway, "/ldc/ws") as client:  # type: ignore[arg-type]
        client.socket.send(text)
        assert "error" in client.message()


class Reader:
    """What the gateway knows of a client: whether it reads. It gets frames while it does."""

    def __init__(self) -> None:
        self.reads, self.book, self.refused = True, Kept(), 0

    def send_latest(self, frame: bytes) -> bool:
        """Take a frame, in the gateway's thread."""
        if self.reads:
            self.book.take(json.loads(frame[frame.index(b"{") :]))
        else:
            self.refused += 1
        return self.reads


def test_a_client_that_reads_too_slowly_gets_a_snapshot_and_no_hole():
    with served() as row:
        slow, quick = Reader(), Reader()
        for each in (slow, quick):
            row.gateway.call(lambda parts, each=each: parts.changes.listen("BTCUSDT", each))  # type: ignore[arg-type]
            until(lambda each=each: each.book.message is not None)
        slow.reads = False
        update_id = caught_up(row)
        until(lambda: slow.refused and quick.book.last_update_id == update_id)
        assert slow.book.last_update_id < update_id
        caught_up(row)
        slow.reads = True
        for _ in range(5):
            update_id = caught_up(row)
            for each in (slow, quick):
                until(lambda each=each, update_id=update_id: each.book.last_update_id == update_id)
                assert_true(row.exchange, "BTCUSDT", each.book)
        assert slow.book.snapshots > 1


def test_messages_are_json_whose_numbers_are_text():
    with served() as row, Client(row.gateway, "/ldc/ws") as client:  # type: ignore[arg-type]
        client.socket.send(SUBSCRIBE)
        message = json.loads(client.text())
        keys = ["market", "state", "snapshot", "id", "epoch", "missed", "E", "received_ns", "bids", "asks"]
        assert list(message)[: len(keys)] == keys
        assert all(isinstance(text, str) for level in message["bids"] for text in level)
