"""Clusters in virtual time by the thousand, on all processors: `make simulate-cluster`. A failure prints its seed.

--first is the first seed; without it, a random one, which is printed. So each run tries other histories.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from cluster_history import run_cluster_seed

BLOCK = 50


def run_block(seeds: Iterable[int]) -> list[str]:
    """Live through these histories; return what was objected to."""
    objections = []
    for seed in seeds:
        try:
            run_cluster_seed(seed)
        except AssertionError as error:
            objections.append(str(error))
    return objections


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=random.randrange(10**9))
    options = parser.parse_args()
    end = options.first + options.histories
    blocks = [range(start, min(start + BLOCK, end)) for start in range(options.first, end, BLOCK)]
    started, objections = time.monotonic(), []
    with ProcessPoolExecutor() as pool:
        for found in pool.map(run_block, blocks):
            objections += found
            for objection in found:
                print(objection, flush=True)
    took_s = time.monotonic() - started
    print(f"seeds {options.first} to {end - 1}: {len(objections)} objections in {took_s:.0f} s")
    return bool(objections)


if __name__ == "__main__":
    sys.exit(main())
