"""Random questions about random books by the million, judged with plain Decimals: `make analytics CASES=1000000`.

Prints how many were asked, and each that was answered wrongly, with its seed. Uses all processors.
"""

import argparse
import importlib
import multiprocessing
import os
import sys
import time

import analytics_cases
import implementations

CASES_PER_SEED = 10_000


def wrong_answers(seed: int) -> list[str]:
    modules = [importlib.import_module(name) for name in implementations.MODULES.values()]
    return list(analytics_cases.failures(seed, CASES_PER_SEED, modules))


def main(words: list[str] | None = None) -> int:
    """Ask; return the exit code."""
    parser = argparse.ArgumentParser(description="ask random questions about random books")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first 10,000 questions")
    options = parser.parse_args(words)
    began = time.monotonic()
    seeds = range(options.seed, options.seed + -(-options.cases // CASES_PER_SEED))
    wrong = 0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for found in pool.imap_unordered(wrong_answers, seeds):
            wrong += len(found)
            for line in found[:3]:
                print(line, flush=True)
    cases = len(seeds) * CASES_PER_SEED
    print(f"{cases} questions from seed {options.seed}, asked of both books and of a view: {wrong} wrong answers, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
