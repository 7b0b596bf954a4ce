"""The exchange of the simulated histories: a book around a moving price, its streams, and its snapshots, as bytes.

Rule 1: it knows nothing of the library. A book is two dictionaries; an update has what changed since the last one.
Rule 2: prices and quantities are multiples of a quarter, so that they are exact as floats and comparing is cheap.
Rule 3: all randomness comes from the history's one source, so that a seed is a history.
"""

import random
from collections.abc import Iterable
from typing import NamedTuple

Side = dict[float, float]
Level = tuple[float, float]
Levels = tuple[Level, ...]

DEPTH = 30
"""Levels of a side that the engine fills, about."""


class Truth(NamedTuple):
    """What the exchange's book was at an update id, best first."""

    bids: Levels
    asks: Levels


class Style(NamedTuple):
    """How an exchange writes. None of it may change the book."""

    number: str
    """The format of a price or a quantity; "g" drops zeros at the end, so that the decimals differ by message."""
    is_futures: bool
    is_wrapped: bool
    """Whether updates come in a combined-stream wrapper."""
    is_id_last: bool
    """Whether the ids stand after the levels."""


_TEXTS: dict[str, dict[float, str]] = {}


def texts(number: str) -> dict[float, str]:
    """Return the text of every price and quantity there is, in that format."""
    if number not in _TEXTS:
        _TEXTS[number] = {n / 4: format(n / 4, number) for n in range(1 << 14)}
    return _TEXTS[number]


class EngineMarket:
    """One market of the exchange."""

    def __init__(self, rng: random.Random, symbol: str, style: Style) -> None:
        self.draw = rng.random
        self.symbol = symbol
        self.style = style
        self.texts = texts(style.number)
        self.middle = 400.0
        self.update_id = 1_000_000_000 + int(self.draw() * 1000)
        """The counter. On futures other markets use up ids of it."""
        self.event_id = self.update_id
        """Of this market's last change."""
        self.restarts = 0
        self.step_backs = 0
        self.subscriptions: list[Subscription] = []
        self.updates = 0
        self.bids: Side = {self.middle - (1 + n) / 4: self._quantity() for n in range(DEPTH)}
        self.asks: Side = {self.middle + (1 + n) / 4: self._quantity() for n in range(DEPTH)}
        self.ids: list[int] = []
        self._books: dict[int, tuple[Side, Side]] = {}
        self._truths: dict[int, Truth] = {}
        self._remember()

    def _quantity(self) -> float:
        return (1 + int(self.draw() * 99)) / 4

    # -- what happens

    def event(self) -> None:
        """One change of the book, with an id of its own. On futures other markets use up ids in between."""
        draw = self.draw
        self.update_id += 1 + int(draw() * 5) if self.style.is_futures else 1
        self.event_id = self.update_id
        kind = draw()
        if kind < 0.15:
            steps = (1, 1, 1, 2, 6, 20)[int(draw() * 6)]
            self._move(steps / 4 if draw() < 0.5 else -steps / 4)
        elif kind < 0.35:
            side, levels = (0, self.bids) if draw() < 0.5 else (1, self.asks)
            if levels and (len(levels) > 3 or draw() < 0.05):  # a side may empty altogether
                best = max(levels) if side == 0 else min(levels)
                self._set(side, best if draw() < 0.3 else list(levels)[int(draw() * len(levels))], 0.0)
        elif kind < 0.38:
            self._set(0 if draw() < 0.5 else 1, self._far_price(), 0.0)  # deleting what is not there is normal
        else:
            for _ in range(1 + int(draw() * 3)):
                away = (1 + int(draw() * draw() * DEPTH)) / 4
                if draw() < 0.5:
                    self._set(0, self.middle - away, self._quantity())
                else:
                    self._set(1, self.middle + away, self._quantity())
        self._remember()

    def _far_price(self) -> float:
        return self.middle + (200 if self.draw() < 0.5 else -200) / 4

    def _move(self, by: float) -> None:
        if not 200 < self.middle + by < 600:
            by = -by
        self.middle += by
        for price in [price for price in self.asks if price <= self.middle]:
            self._set(1, price, 0.0)
        for price in [price for price in self.bids if price >= self.middle]:
            self._set(0, price, 0.0)
        for _ in range(6):
            away = (1 + int(self.draw() * DEPTH)) / 4
            self._set(0, self.middle - away, self._quantity())
            self._set(1, self.middle + away, self._quantity())

    def _set(self, side: int, price: float, quantity: float) -> None:
        if (side == 0 and price >= self.middle) or (side == 1 and price <= self.middle):
            quantity = 0.0
        levels = self.asks if side else self.bids
        if quantity:
            levels[price] = quantity
        else:
            levels.pop(price, None)
        for subscription in self.subscriptions:
            subscription.touch(side, price)

    def restart_ids(self) -> None:
        """Maintenance: the ids restart low, each time lower; the book stays."""
        self.restarts += 1
        self.update_id = self.event_id = 1_000_000_000 // 1000**self.restarts
        for subscription in self.subscriptions:
            subscription.restart()
        self._remember()

    def step_back_ids(self, count: int) -> None:
        """The ids step back by a few. No node knows the previous ones any more."""
        self.step_backs += 1
        self.update_id = self.event_id = self.update_id - count
        for update_id in [each for each in self._books if each > self.update_id]:
            del self._books[update_id]
            self._truths.pop(update_id, None)
        for subscription in self.subscriptions:
            subscription.restart()
        self.ids.clear()
        self._remember()
        self._truths.pop(self.update_id, None)

    def jump_ids(self) -> None:
        """The ids jump far ahead, and no stream shows it."""
        self.update_id += 100_000
        self.event_id = self.update_id
        for subscription in self.subscriptions:
            subscription.restart()
        self._remember()

    def _remember(self) -> None:
        self._books[self.update_id] = self.bids.copy(), self.asks.copy()
        self.ids.append(self.update_id)

    # -- what was

    def truth(self, update_id: int) -> Truth | None:
        """Return the book at that id; None if the exchange never had that id."""
        truth = self._truths.get(update_id)
        if truth is None and update_id in self._books:
            bids, asks = self._books[update_id]
            truth = Truth(tuple(sorted(bids.items(), reverse=True)), tuple(sorted(asks.items())))
            self._truths[update_id] = truth
        return truth

    def snapshot_at(self, lag: int) -> int:
        """Return the id of a snapshot taken now, at a node that is `lag` events behind."""
        if lag == 0 and self.style.is_futures and self.draw() < 0.2:
            self.update_id += 1  # an id that another market used up
            self._remember()
        return self.ids[max(0, len(self.ids) - 1 - lag)]

    def sides(self, levels: Iterable[Level]) -> str:
        """Return levels as the exchange writes them."""
        text = self.texts
        return ",".join([f'["{text[price]}","{text[quantity]}"]' for price, quantity in levels])


class Subscription:
    """One market on one connection: the changes that were not sent yet."""

    __slots__ = ("_first_id", "_last_id", "_last_window", "_touched", "connection_id", "market")

    def __init__(self, market: EngineMarket, connection_id: int) -> None:
        self.market = market
        self.connection_id = connection_id
        self.restart()
        market.subscriptions.append(self)

    def restart(self) -> None:
        """Forget the changes so far: no update will have them."""
        self._last_id = self.market.event_id
        self._first_id = 0
        self._touched: tuple[set[float], set[float]] = (set(), set())
        self._last_window: tuple[int, int, set[float], set[float]] | None = None

    def touch(self, side: int, price: float) -> None:
        """A level has changed."""
        self._touched[side].add(price)
        if not self._first_id:
            self._first_id = self.market.update_id

    @property
    def is_empty(self) -> bool:
        """Whether nothing has happened since the last update."""
        return not self._first_id

    def update(self, time_ms: int, *, with_last: bool = False) -> bytes | None:
        """Return the update since the last one; None if nothing happened. `with_last`: it covers the last one again."""
        if not self._first_id:
            return None
        market, style = self.market, self.market.style
        start, first, (touched_bids, touched_asks) = self._last_id, self._first_id, self._touched
        if with_last and self._last_window is not None:
            start, first = self._last_window[:2]
            touched_bids |= self._last_window[2]
            touched_asks |= self._last_window[3]
        self._last_window = start, first, touched_bids, touched_asks
        bids, asks = market.bids, market.asks
        bid_prices = sorted(touched_bids, reverse=not style.is_futures)
        sides = (
            f'"b":[{market.sides([(price, bids.get(price, 0.0)) for price in bid_prices])}],'
            f'"a":[{market.sides([(price, asks.get(price, 0.0)) for price in sorted(touched_asks)])}]'
        )
        last = market.event_id
        ids = f'"U":{first},"u":{last},"pu":{start}' if style.is_futures else f'"U":{start + 1},"u":{last}'
        inside = f"{sides},{ids}" if style.is_id_last else f"{ids},{sides}"
        event = f'{{"e":"depthUpdate","E":{time_ms},"s":"{market.symbol}",{inside}}}'
        self._last_id, self._first_id, self._touched = last, 0, (set(), set())
        market.updates += 1
        if style.is_wrapped:
            return f'{{"stream":"{market.symbol.lower()}@depth@100ms","data":{event}}}'.encode()
        return event.encode()
