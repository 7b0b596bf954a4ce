"""A depth chart of one market, into a picture: what rests up to each price, and how far that is known.

    python examples/depth_chart.py BTCUSDT --exchange binance.com --bps 50 --file depth.png

Needs matplotlib and numpy: pip install matplotlib numpy
"""

import argparse
from collections.abc import Sequence

import ldc

Groups = tuple[tuple[float, float], ...]


def running_total(groups: Groups) -> tuple[list[float], list[float]]:
    """Return prices, and what rests up to each of them."""
    prices, totals, total = [], [], 0.0
    for price, quantity in groups:
        total += quantity
        prices.append(price)
        totals.append(total)
    return prices, totals


def draw(cache: ldc.DepthCache, bps: float, points: int, file: str) -> None:
    """Draw both sides up to so many basis points from mid, in so many groups a side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    book = cache.view()
    mid = book.mid
    if mid is None:
        raise SystemExit("one side is empty: there is no mid to draw around")
    step = mid * bps / 10_000 / points
    figure, axes = plt.subplots(figsize=(9, 4.5))
    for side, color in (("bids", "tab:green"), ("asks", "tab:red")):
        prices, totals = running_total(book.grouped(side, step, points))
        axes.fill_between(prices, totals, step="post", color=color, alpha=0.3, label=side)
        axes.step(prices, totals, where="post", color=color)
        known = book.depth(side, bps=bps)
        if known is not None and not known.is_complete:
            print(f"{side}: less than {bps:g} bps are known; the horizon ends there")
    axes.axvline(mid, color="black", linewidth=0.8)
    axes.set(title=f"{cache.market} at update {book.last_update_id}", xlabel="price", ylabel="quantity", ylim=0)
    axes.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw one book, and print what the picture shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("market", nargs="?", default="BTCUSDT")
    parser.add_argument("--exchange", default="simulator")
    parser.add_argument("--bps", type=float, default=50.0, help="basis points from mid")
    parser.add_argument("--points", type=int, default=200, help="groups a side")
    parser.add_argument("--file", default="depth.png")
    options = parser.parse_args(arguments)

    with ldc.BinanceLocalDepthCacheManager(options.exchange) as manager:
        manager.create_depth_cache(options.market)
        if not manager.wait_until_synchronized(timeout=30):
            raise SystemExit(f"not synchronized in 30 s: {manager.get_status(options.market).last_error}")
        cache = manager.get_depth_cache(options.market)
        draw(cache, options.bps, options.points, options.file)
        for side, word in (("asks", "buy"), ("bids", "sell")):
            fill = cache.fill(side, notional=100_000)
            print(f"{word} for 100,000: {fill.average_price} on average, {fill.levels} levels, all: {fill.is_complete}")
    print(options.file)


if __name__ == "__main__":
    main()
