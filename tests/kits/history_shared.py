"""A simulated history whose books are shared: each view of a shared reader is judged as the local ones are.

Rule 1: it is the same history, seed by seed: sharing a book changes nothing of it.
Rule 2: after each input the shared reader says what the book says, up to its last level, and the engine agrees.
"""

from bisect import bisect_right
from types import ModuleType, SimpleNamespace

from history import History
from history_market import SimulatedMarket
from shared_kit import Share, shared_of

from ldc.analytics.view import BookView
from ldc.errors import DepthCacheError
from ldc.types import Cause


class SharedHistory(History):
    """See the top of this file."""

    def __init__(self, seed: int, books: ModuleType, levels: int, made: SimpleNamespace | None = None) -> None:
        super().__init__(seed, books)
        self.views = 0
        self.seen: dict[str, tuple[int, int, int]] = {}
        self.causes: dict[str | None, int] = {}
        self.shared_levels = levels
        for market in self.markets:
            self._share(market, Share(made or shared_of(books), market.book, levels))

    def _share(self, market: SimulatedMarket, share: Share) -> None:
        judge_locally = market.check_readable

        def check_readable() -> None:
            judge_locally()
            self.judge_shared(market, share)

        market.check_readable = check_readable  # type: ignore[method-assign]

    def read(self, share: Share) -> tuple[BookView[float] | None, str | None]:
        """Return what the reader returns, or the cause for which it refuses."""
        try:
            return share.reader.view(), None
        except DepthCacheError as error:
            return None, error.cause

    def judge_shared(self, market: SimulatedMarket, share: Share) -> None:
        """The shared reader refuses when the book does, and otherwise returns the engine's book."""
        book, reader = market.book, share.reader
        book.lease = self.lease  # hands the last proof on, as the thread of a share does every few milliseconds
        cause = book.unreadable_cause
        if cause == Cause.STALLED:
            cause = Cause.TOO_OLD  # what a lease that has ended is called across processes
        assert reader.unreadable_cause == cause, "the shared book has another cause"
        self.causes[cause] = self.causes.get(cause, 0) + 1
        view, refusal = self.read(share)
        if view is None:
            assert refusal == cause, "the shared book is refused for another cause"
            return
        assert cause is None, "the shared book is read while the book cannot be"
        self.views += 1
        local = book.view()
        assert view[2:6] == local[2:6], "the shared book has other ids or times"
        for shared, held, horizon, held_horizon in (
            (view.bids, local.bids, view.bid_horizon, local.bid_horizon),
            (view.asks, local.asks, view.ask_horizon, local.ask_horizon),
        ):
            assert shared == held[: self.shared_levels], "the shared book has other levels"
            assert horizon == (shared[-1][0] if len(held) > len(shared) else held_horizon), "another horizon"
        seen = view.last_update_id, book.counters.books_adopted, book.counters.snapshots_loaded
        if seen != self.seen.get(market.engine.symbol) and not market.is_falsified:
            self.judge_truth(market, view)
        self.seen[market.engine.symbol] = seen

    def judge_truth(self, market: SimulatedMarket, view: BookView[float]) -> None:
        """Compare a view with the engine's book, at the moment at which the engine still has it."""
        truth = market.engine.truth(view.last_update_id)
        assert truth is not None, f"the exchange never had the id {view.last_update_id}"
        for shared, true, horizon, sign in (
            (view.bids, truth.bids, view.bid_horizon, 1),
            (view.asks, truth.asks, view.ask_horizon, -1),
        ):
            if horizon is None:
                assert shared == true, "a shared side that is called complete differs"
            else:
                inside = bisect_right(true, -sign * float(horizon), key=lambda level, sign=sign: -sign * level[0])
                assert shared == true[:inside], "inside the horizon the shared book differs"
