"""Nodes as processes that are killed, stopped, drained and restarted, while a reader reads all the time.

Each view is held to the exchange's own book at its update id. ``LDC_CLUSTER_FAULTS=<count>`` kills more often.
"""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from cluster_kit import ClusterProcesses, Judge, Partition, is_covered, wait_until
from network_kit import free_port

from ldc.cluster.placement import owners
from ldc.cluster.reader import LEASE_S, MAX_AGE_S
from ldc.simulator import SimulatedExchange

pytestmark = pytest.mark.check

MARKETS = [f"M{number:02}USDT" for number in range(20)]
FAULTS = int(os.environ.get("LDC_CLUSTER_FAULTS", "3"))
SEED = int(os.environ.get("LDC_CLUSTER_SEED", time.time_ns() % 10_000))
COVERED_S_MAX = 15.0
"""Seconds until all replicas are back: of a machine under load. The figures are printed."""


@pytest.fixture(scope="module")
def exchange():
    # All nodes share one address here, hence one budget of weight. A first snapshot has 100 levels: of fewer it shows
    # all, so that no book waits for the weight of a deeper one, and leaves its horizon meanwhile.
    with SimulatedExchange(MARKETS, levels=90) as running:
        yield running


@pytest.fixture
def nodes(exchange):
    with ClusterProcesses(exchange, MARKETS, "abc").start_all() as running:
        yield running


@pytest.fixture
def books(nodes):
    with nodes.connect(markets=MARKETS) as connected:
        assert connected.wait_until_synchronized(MARKETS, timeout=60)
        wait_until(lambda: len(connected.nodes()) == 3 and is_covered(connected, MARKETS, 2), "the start")
        yield connected


def covered(books, names, replicas=2):
    """Wait until exactly these nodes are there and all markets have their replicas."""
    return wait_until(
        lambda: {node.name for node in books.nodes()} == set(names) and is_covered(books, MARKETS, replicas),
        f"{replicas} replicas on {names}",
        COVERED_S_MAX + 15,
    )


def at_rest(books, names="abc"):
    """Wait until each market is on its owners, and nowhere else."""

    def is_at_rest():
        return all(books.holders(market) == set(owners(market, names, 2)) for market in MARKETS)

    return wait_until(is_at_rest, "each market on its owners", 40)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_loss_of_any_node_is_no_event_for_a_reader(nodes, books, exchange, number, capsys):
    chance, took = random.Random(SEED), []
    with Judge(books, exchange, MARKETS) as judge:
        for _ in range(FAULTS):
            name = chance.choice("abc")
            nodes.signal(name, number)
            lost_at = time.monotonic()
            covered(books, set("abc") - {name})
            took.append(time.monotonic() - lost_at)
            if number == signal.SIGSTOP:
                nodes.signal(name, signal.SIGCONT)
            else:
                nodes.kill(name)
                nodes.start(name)
            covered(books, "abc")
            at_rest(books)
    with capsys.disabled():
        print(f"\n{number.name} x {FAULTS}, seed {SEED}: replicas back after {max(took):.2f} s at most; ", end="")
        print(f"{judge.reads} reads, {judge.refusals.total()} refused, oldest {judge.oldest_ms:.0f} ms, ", end="")
        print(f"{books.misrouted_messages} messages under a wrong key")
    judge.check()
    assert judge.oldest_ms < MAX_AGE_S * 1000
    assert max(took) < COVERED_S_MAX


def test_a_rolling_restart_and_a_join_leave_no_market_without_a_book(nodes, books, exchange):
    least = []
    with Judge(books, exchange, MARKETS) as judge:
        for name in "abc":
            assert nodes.end(name) == 0
            least.append(is_covered(books, MARKETS, 2))
            nodes.start(name)
            covered(books, "abc")
        at_rest(books)
    judge.check()
    assert all(least), "a node that drained left before others had its markets"


def test_both_replicas_killed_at_once_are_refused_in_time_and_come_back(nodes, books, exchange):
    market = MARKETS[0]
    first, second = owners(market, "abc", 2)
    [third] = set("abc") - {first, second}
    books.get_book(market)
    for name in (first, second, third):
        nodes.kill(name)
    killed_at = time.monotonic()
    wait_until(lambda: not books.is_depth_cache_synchronized(market), "the refusal", LEASE_S + 5)
    assert time.monotonic() - killed_at < LEASE_S + 1
    with pytest.raises(Exception, match="FEEDER_GONE"):
        books.get_book(market)
    nodes.start(first)
    wait_until(lambda: books.nodes(), "the node's return")
    wait_until(lambda: books.is_depth_cache_synchronized(market), "its book", 15)


def test_a_clock_that_is_an_hour_off_decides_nothing(nodes, books, exchange, tmp_path):
    """One node's wall clock is an hour ahead: ages are durations, and the list counts its versions."""
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(
        textwrap.dedent(
            """
            #define _GNU_SOURCE
            #include <dlfcn.h>
            #include <time.h>
            int clock_gettime(clockid_t id, struct timespec *t) {
                int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
                int result = real(id, t);
                if (id == CLOCK_REALTIME) t->tv_sec += 3600;
                return result;
            }
            """
        )
    )
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("there is no C compiler")
    shifted = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(shifted.stdout) > time.time() + 3500
    assert nodes.end("a") == 0
    with Judge(books, exchange, MARKETS) as judge:
        nodes.start("a", LD_PRELOAD=str(library))
        covered(books, "abc")
        at_rest(books)
        assert nodes.operate("remove", MARKETS[-1]).returncode == 0
        wait_until(lambda: MARKETS[-1] not in books.markets(), "the end of a market")
        judge.markets.remove(MARKETS[-1])
        reads = judge.reads
        wait_until(lambda: judge.reads > reads + 1000, "reads")
    judge.check(refusals_max=judge.refusals["STOPPED"] + judge.refusals["FEEDER_GONE"])


def test_a_partition_in_two_and_its_healing_are_no_event_for_a_reader(exchange, capsys):
    """Node c is parted from a and b; the reader sees all three. Each half keeps all markets, until they meet again."""
    nodes = ClusterProcesses(exchange, MARKETS, "abc")
    nodes.endpoints["c"] = max(f"tcp/127.0.0.1:{free_port()}" for _ in range(20))
    with Partition(nodes, "c") as partition, nodes.start_all(), nodes.connect(markets=MARKETS) as books:
        assert books.wait_until_synchronized(MARKETS, timeout=60)
        covered(books, "abc")
        at_rest(books)
        with Judge(books, exchange, MARKETS) as judge:
            partition.begin()
            wait_until(lambda: all("c" in books.holders(market) for market in MARKETS), "all markets on c")
            wait_until(lambda: all({"a", "b"} <= books.holders(market) for market in MARKETS), "all on a and b")
            partition.heal()
            at_rest(books)
            rest_s = wait_until(
                lambda: all(
                    {each.node for each in books.status(market).replicas if each.synchronized}
                    == set(owners(market, "abc", 2))
                    for market in MARKETS
                ),
                "the end of what is too much",
            )
        judge.check()
    with capsys.disabled():
        print(f"\npartition: {rest_s:.2f} s after its healing nothing is too much; {judge.reads} reads, 0 refused")


def test_the_list_of_markets_changes_while_all_is_read(nodes, books, exchange):
    exchange.add_market("NEWUSDT")
    with Judge(books, exchange, MARKETS) as judge:
        assert nodes.operate("add", "NEWUSDT", "--replicas", "3").returncode == 0
        wait_until(lambda: len(books.holders("NEWUSDT")) == 3, "three replicas")
        assert nodes.operate("status", "--json").returncode == 0
        assert nodes.operate("remove", "NEWUSDT").returncode == 0
        wait_until(lambda: "NEWUSDT" not in books.markets(), "its end")
    judge.check()
