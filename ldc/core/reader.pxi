# The read-only face of a book. Cython has no delegation, so each read stands here once more, and only that.

@cython.final
cdef class BookReader:
    """A read-only face of an order book: all its reads, at the same cost, and nothing that changes it."""

    cdef OrderBook _book

    def __cinit__(self, OrderBook book not None):
        self._book = book

    def __repr__(self):
        return f"<BookReader of {self._book!r}>"

    def __reduce__(self):
        raise TypeError("a BookReader cannot be copied or pickled")

    @property
    def best_bid(self):
        """As `OrderBook.best_bid`."""
        return read_best(self._book, &self._book._bids, -1)

    @property
    def best_ask(self):
        """As `OrderBook.best_ask`."""
        return read_best(self._book, &self._book._asks, 1)

    def bids(self, limit=None, *, threshold_volume=None, number=float, beyond_horizon=False):
        """As `OrderBook.bids`."""
        return read_side(self._book, &self._book._bids, -1, limit, threshold_volume, number, beyond_horizon)

    def asks(self, limit=None, *, threshold_volume=None, number=float, beyond_horizon=False):
        """As `OrderBook.asks`."""
        return read_side(self._book, &self._book._asks, 1, limit, threshold_volume, number, beyond_horizon)

    def view(self, limit=None, *, number=float, beyond_horizon=False):
        """As `OrderBook.view`."""
        return read_view(self._book, limit, number, beyond_horizon, False)

    def texts(self, limit=None):
        """As `OrderBook.texts`."""
        return read_texts(self._book, limit)

    def to_json(self, limit=None):
        """As `OrderBook.to_json`."""
        return self._book.to_json(limit)

    def to_numpy(self, side, limit=None):
        """As `OrderBook.to_numpy`."""
        return self._book.to_numpy(side, limit)

    @property
    def mid(self):
        """As `OrderBook.mid`."""
        return read_mid(self._book)

    @property
    def spread(self):
        """As `OrderBook.spread`."""
        return read_spread(self._book)

    @property
    def micro_price(self):
        """As `OrderBook.micro_price`."""
        return read_micro_price(self._book)

    def prices(self, *, number=float):
        """As `OrderBook.prices`."""
        return read_prices(self._book, number)

    def imbalance(self, *, levels=None, bps=None, number=float):
        """As `OrderBook.imbalance`."""
        return read_imbalance(self._book, levels, bps, number)

    def fill(self, side, *, quantity=None, notional=None, number=float):
        """As `OrderBook.fill`."""
        return read_fill(self._book, side, quantity, notional, number)

    def price_at(self, side, *, quantity=None, notional=None, number=float):
        """As `OrderBook.price_at`."""
        return read_price_at(self._book, side, quantity, notional, number)

    def depth(self, side, *, to_price=None, bps=None, number=float):
        """As `OrderBook.depth`."""
        return read_depth(self._book, side, to_price, bps, number)

    def grouped(self, side, step, limit=None, *, number=float):
        """As `OrderBook.grouped`."""
        return read_grouped(self._book, side, step, limit, number)

    def arrays(self, limit=None, *, number=None, out=None):
        """As `OrderBook.arrays`."""
        return read_arrays(self._book, limit, number, out)

    def compare(self, OrderBook other not None):
        """As `OrderBook.compare`."""
        return compare_books(self._book, other)

    @property
    def rule(self):
        """As `OrderBook.rule`."""
        return self._book.rule

    @property
    def market(self):
        """As `OrderBook.market`."""
        return self._book.market

    @property
    def is_loaded(self):
        """As `OrderBook.is_loaded`."""
        return self._book.is_loaded

    @property
    def is_readable(self):
        """As `OrderBook.is_readable`."""
        return self._book.is_readable

    @property
    def unreadable_cause(self):
        """As `OrderBook.unreadable_cause`."""
        return read_cause(self._book)

    @property
    def suspended_by(self):
        """As `OrderBook.suspended_by`."""
        return self._book.suspended_by

    @property
    def last_update_id(self):
        """As `OrderBook.last_update_id`."""
        return self._book.last_update_id

    @property
    def event_time_ms(self):
        """As `OrderBook.event_time_ms`."""
        return self._book.event_time_ms

    @property
    def transaction_time_ms(self):
        """As `OrderBook.transaction_time_ms`."""
        return self._book.transaction_time_ms

    @property
    def received_time_ns(self):
        """As `OrderBook.received_time_ns`."""
        return self._book.received_time_ns

    @property
    def bid_horizon(self):
        """As `OrderBook.bid_horizon`."""
        return self._book.bid_horizon

    @property
    def ask_horizon(self):
        """As `OrderBook.ask_horizon`."""
        return self._book.ask_horizon

    @property
    def bid_count(self):
        """As `OrderBook.bid_count`."""
        return self._book.bid_count

    @property
    def ask_count(self):
        """As `OrderBook.ask_count`."""
        return self._book.ask_count

    @property
    def is_crossed(self):
        """As `OrderBook.is_crossed`."""
        return self._book.is_crossed

    @property
    def needs_attention(self):
        """As `OrderBook.needs_attention`."""
        return self._book.needs_attention

    @property
    def last_header(self):
        """As `OrderBook.last_header`."""
        return self._book.last_header

    @property
    def counters(self):
        """As `OrderBook.counters`."""
        return self._book.counters

    @property
    def price_decimals(self):
        """As `OrderBook.price_decimals`."""
        return self._book.price_decimals

    @property
    def quantity_decimals(self):
        """As `OrderBook.quantity_decimals`."""
        return self._book.quantity_decimals
