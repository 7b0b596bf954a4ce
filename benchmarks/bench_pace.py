"""At the pace of real markets: from the exchange's write to a thread that waits, beside websocket-client's bare loop.

    python benchmarks/bench_pace.py                        `make bench-pace`; all rows, about seven minutes
    python benchmarks/bench_pace.py --rows bare waiting --seconds 160    enough for a p99 of 1,500 updates of one market

Each market updates ten times a second, as the exchange's do. Each row runs in a process of its own, in turn with the
others; the bare loop looks for the id and makes no book, every other row keeps the books, and a wrong one has no
number. The processor time is that of the whole process, so of a row that spins it is that of the cores it spins on.

    bare, bare-tls              websocket-client's `recv_frame` in a loop
    waiting, waiting-tls        a thread in `wait_for_update`
    spinning                    the same with `feed_spin=True` and `spin_us`: neither thread sleeps
    bare-20                     20 markets on one connection, the bare loop
    waiting-20                  20 markets, a thread for each in `wait_for_update`
    any-20                      20 markets, one thread in `wait_for_any`
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, NamedTuple

import bench_loopback_clients
from bench_consume import WaitForAny
from bench_loopback import WARM_UP_UPDATES, Truth, measure
from bench_loopback_clients import CLIENTS, NO_BOOK, Ldc, LdcManager
from bench_recordings import load_busy_spot_recording, synthetic_recording

UPDATES_PER_S = 10.0
SAMPLES_MIN = 1_500
"""A p99 of fewer updates is not told."""

SECONDS = 20.0
ROUNDS = 2
SPIN_US = 1_000_000.0


class Spinning(Ldc):
    """Neither the feed nor the waiting thread sleeps."""

    def follow(self) -> None:
        self.manager = LdcManager("binance.com", restful_base_uri=self.http, websocket_base_uri=self.ws, feed_spin=True)
        self.manager.create_depth_cache(self.names)
        self.manager.wait_until_synchronized(timeout=30)
        [name] = self.names
        reader, update_id = self.manager.get_depth_cache(name).reader, None
        while True:
            update_id = self.manager.wait_for_update(name, update_id, spin_us=SPIN_US)
            woken_ns = time.time_ns()
            self.note(name, update_id or 0)
            self.woken_ns.append(woken_ns - (reader.view(0).received_time_ns or 0))


class OverTls:
    """The same with other addresses."""

    def __init__(self, port: int, names: list[str]) -> None:
        super().__init__(port, names)  # type: ignore[call-arg]
        self.http, self.ws = f"https://127.0.0.1:{port}", f"wss://127.0.0.1:{port}"


class LdcOverTls(OverTls, Ldc):
    """A thread that waits, over TLS."""


class BareOverTls(OverTls, bench_loopback_clients.Yardstick):
    """The bare loop, over TLS."""


class Row(NamedTuple):
    """What is measured, and beside what."""

    client: str
    markets: int = 1
    beside: str = ""
    """The row whose figures these are divided by."""
    needs_p99: bool = False
    musts: tuple[tuple[str, float], ...] = ()
    """By the figure: at most so much."""


IS_FASTER = (("p50 / bare", 1.0), ("processor / bare", 1.0))
ROWS = {
    "bare": Row(NO_BOOK),
    "waiting": Row("ldc", 1, "bare", musts=IS_FASTER),
    "bare-tls": Row("bare-tls"),
    "waiting-tls": Row("ldc-tls", 1, "bare-tls", musts=IS_FASTER),
    "spinning": Row("spinning", 1, "bare", needs_p99=True, musts=(
        ("p50 / bare", 0.6), ("p99 us", 300.0), ("received to woken, p50 us", 5.0))),
    "bare-20": Row(NO_BOOK, 20),
    "waiting-20": Row("ldc", 20, "bare-20", musts=(("p99 us", 500.0),)),
    "any-20": Row("any", 20, "bare-20", musts=(("p99 us", 500.0),)),
}  # fmt: skip
ADDED: dict[str, type[bench_loopback_clients.Client]] = {
    "spinning": Spinning, "ldc-tls": LdcOverTls, "bare-tls": BareOverTls, "any": WaitForAny,
}  # fmt: skip


def run(pipe: Pipe, name: str, port: int, markets: list[str], patience_s: float) -> None:
    """Be the process of a row."""
    CLIENTS.update(ADDED)
    bench_loopback_clients.run(pipe, name, port, markets, patience_s)


def measured(row: Row, seconds: float, truth: Truth, folder: Path) -> dict[str, Any]:
    """Run a row once."""
    updates = round(UPDATES_PER_S * seconds)
    is_tls, makes_book = row.client.endswith("-tls"), not row.client.startswith(("bare", NO_BOOK))
    [found] = measure(
        row.client, row.markets, truth, [(UPDATES_PER_S, updates)],
        target=run, tls_folder=folder if is_tls else None, makes_book=makes_book,
    )  # fmt: skip
    return found


def figures(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of a row: the p50 and the processor time are medians of the rounds, the p99 is of all."""
    delays = sorted(delay / 1000 for found in rounds for delay in found["delays ns"])
    result = {
        "n": len(delays),
        "p50 us": statistics.median(found["p50 us"] for found in rounds),
        "p99 us": delays[len(delays) * 99 // 100],
        "processor us": statistics.median(found["us per update"] for found in rounds),
    }
    woken = sorted(each / 1000 for found in rounds for each in found.get("woken ns", ()))
    if woken:
        result["received to woken, p50 us"] = woken[len(woken) // 2]
        result["received to woken, p99 us"] = woken[len(woken) * 99 // 100]
    return result


def said(name: str, found: dict[str, float], beside: dict[str, float] | None) -> str:
    """Return a row, with what it must be."""
    row = ROWS[name]
    p99 = f"{found['p99 us']:8.0f}" if found["n"] >= SAMPLES_MIN else "       -"
    text = (
        f"{name:<12} n {found['n']:>6}  p50 {found['p50 us']:7.0f}  p99 {p99}  processor {found['processor us']:8.0f}"
    )
    if beside is not None:
        found = found | {
            "p50 / bare": found["p50 us"] / beside["p50 us"],
            "processor / bare": found["processor us"] / beside["processor us"],
        }
        text += f"  of {row.beside}: p50 {found['p50 / bare']:.2f}, processor {found['processor / bare']:.2f}"
    for what in ("received to woken, p50 us", "received to woken, p99 us"):
        if what in found:
            text += f"  {what.removesuffix(' us')} {found[what]:.1f}"
    for what, must in row.musts:
        if what == "p99 us" and found["n"] < SAMPLES_MIN:
            text += f"\n             must {what} {must:g}: not judged, of fewer than {SAMPLES_MIN:,}"
        elif what in found:
            text += f"\n             must {what} {must:g}: {'kept' if found[what] <= must else 'MISSED'}"
    return text


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, help=f"length of a round (default: {SECONDS:g}, or enough for a p99)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of all rows (default: {ROUNDS})")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    options = parser.parse_args()
    seconds_of = {
        name: options.seconds
        or (1.05 * SAMPLES_MIN / UPDATES_PER_S / options.rounds if ROWS[name].needs_p99 else SECONDS)
        for name in options.rows
    }
    needed = WARM_UP_UPDATES + round(UPDATES_PER_S * max(seconds_of.values()))
    captures = os.environ.get("LDC_CAPTURES")
    recorded = load_busy_spot_recording(Path(captures), needed) if captures else synthetic_recording(40, needed)
    truth = Truth(recorded.markets[0])
    load = f"load {os.getloadavg()[0]:.2f}, " if hasattr(os, "getloadavg") else ""
    print(
        f"{load}Python {sys.version.split()[0]}, {recorded.name}; us; {UPDATES_PER_S:g} a second of a market",
        flush=True,
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.rows}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for variable in ("REQUESTS_CA_BUNDLE", "WEBSOCKET_CLIENT_CA_BUNDLE"):
            os.environ[variable] = str(folder / "loopback.pem")
        for number in range(options.rounds):
            for name in options.rows if number % 2 == 0 else options.rows[::-1]:
                found[name].append(measured(ROWS[name], seconds_of[name], truth, folder))
    numbers = {
        name: figures(rounds) for name, rounds in found.items() if all(each.get("wrong") == "" for each in rounds)
    }
    for name, rounds in found.items():
        if name in numbers:
            print(said(name, numbers[name], numbers.get(ROWS[name].beside)), flush=True)
        else:
            print(f"{name:<12} no number: {[each for each in rounds if each.get('wrong') != '']}", flush=True)
    return 0 if len(numbers) == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
