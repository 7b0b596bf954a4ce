"""A book as numpy arrays, and as a pandas table: what an order would cost, and where the size is.

    python examples/book_as_arrays.py BTCUSDT --quantity 5 --exchange binance.com

Needs numpy, and pandas for --pandas: pip install '.[numpy]' pandas
"""

import argparse
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

import ldc

Levels = npt.NDArray[np.float64]
"""Shape (n, 2): price and quantity, best first."""


def average_price(levels: Levels, quantity: float) -> float | None:
    """Return what a market order would pay or get a piece, or None: the levels at hand do not fill it."""
    before = levels[:, 1].cumsum() - levels[:, 1]
    taken = np.clip(quantity - before, 0.0, levels[:, 1])
    return float(taken @ levels[:, 0] / quantity) if np.isclose(taken.sum(), quantity) else None


def within(levels: Levels, part: float) -> float:
    """Return the quantity that rests within a part of the best price, such as 0.001."""
    best = levels[0, 0]
    return float(levels[np.abs(levels[:, 0] - best) <= best * part, 1].sum())


def print_table(bids: Levels, asks: Levels) -> None:
    """Print the top of both sides as a pandas table."""
    import pandas as pd

    frames = {
        name: pd.DataFrame(levels[:5], columns=["price", "quantity"]).assign(
            total=lambda frame: frame["quantity"].cumsum()
        )
        for name, levels in (("bids", bids), ("asks", asks))
    }
    print(pd.concat(frames, axis=1).to_string(index=False))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read one book, and print what can be said of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("market", nargs="?", default="BTCUSDT")
    parser.add_argument("--exchange", default="simulator")
    parser.add_argument("--quantity", type=float, default=1.0)
    parser.add_argument("--pandas", action="store_true")
    options = parser.parse_args(arguments)

    with ldc.BinanceLocalDepthCacheManager(options.exchange) as manager:
        manager.create_depth_cache(options.market)
        if not manager.wait_until_synchronized(timeout=30):
            raise SystemExit(f"not synchronized in 30 s: {manager.get_status(options.market).last_error}")
        reader = manager.get_depth_cache(options.market).reader

        # One side alone: straight from the compiled book into an array.
        bids = reader.to_numpy("bids")
        print(f"{len(bids)} bids, {within(bids, 0.001):g} of them within 0.1 % of the best")

        # Both sides of one update id: one view, then arrays. Two calls of to_numpy may lie an update apart.
        book = reader.view()
        bids, asks = (np.asarray(side, dtype=np.float64) for side in (book.bids, book.asks))
        for name, levels in (("buy", asks), ("sell", bids)):
            price = average_price(levels, options.quantity)
            print(f"{name} {options.quantity:g}: {'more than the book shows' if price is None else f'{price:.2f}'}")
        if options.pandas:
            print_table(bids, asks)


if __name__ == "__main__":
    main()
