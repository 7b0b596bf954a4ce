"""Programs whose threads are greenlets: gevent and eventlet replace `threading`, `socket`, `select` and `ssl`.

All greenlets share one thread of the system, so a wait in compiled code would stop them all. `make check-greenlets`
installs both libraries; without them the tests of real programs are skipped.
"""

import _thread
import importlib.util
import json
import os
import selectors
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from live_kit import eventually, live, no_jitter, no_thread_is_left, reach, synchronize  # noqa: F401
from loopback_exchange import PATIENCE_S, LoopbackExchange
from relays import Relay
from scripted_server import LOOPBACK_PEM, tls_context

from ldc.book import has_system_threads
from ldc.consume.signal import UpdateSignal
from ldc.feed import tls
from ldc.feed.loop import new_selector

STANDSTILL_S_MAX = 2.0
"""A greenlet of the program that does nothing else runs again within so long; a blocked one never does."""

PROGRAM = """
import json, sys
kind, rest, ws = sys.argv[1:]
if kind == "gevent-late":
    import ldc
if kind in ("gevent", "gevent-late"):
    from gevent import monkey
    monkey.patch_all()
elif kind == "gevent-real-threads":
    from gevent import monkey
    monkey.patch_all(thread=False)
elif kind == "eventlet":
    import eventlet
    eventlet.monkey_patch()
import threading, time
import ldc

is_over, longest_s = threading.Event(), 0.0

def watch():
    global longest_s
    before = time.monotonic()
    while not is_over.is_set():
        time.sleep(0.01)
        now = time.monotonic()
        longest_s, before = max(longest_s, now - before), now

watcher = threading.Thread(target=watch)
watcher.start()
restarts = []
manager = ldc.BinanceLocalDepthCacheManager(
    "binance.com", restful_base_uri=rest, websocket_base_uri=ws, _random=lambda: 0.0,
    on_restart=lambda market, at: restarts.append(market))
manager.create_depth_cache("BTCUSDT")
assert manager.wait_until_synchronized(timeout=20)
cache = manager.get_depth_cache("BTCUSDT")

def follow():
    update_id = None
    for _ in range(5):
        update_id = cache.wait_for_update(update_id, timeout=20)
        assert update_id is not None
        assert manager.get_book("BTCUSDT").last_update_id >= update_id

follow()
print("follows", flush=True)
waiters = [threading.Thread(target=follow) for _ in range(3)]
while manager.get_restart_count("BTCUSDT") == 0:
    time.sleep(0.01)
assert manager.wait_until_synchronized(timeout=20)
for waiter in waiters:
    waiter.start()
for waiter in waiters:
    waiter.join()
reading = [connection.reading for connection in manager.get_status("BTCUSDT").connections]
assert cache.wait_for_update(10**15, timeout=0.1) is None
began = time.monotonic()
manager.stop_manager()
stopped_s = time.monotonic() - began
try:
    cache.wait_for_update()
except ldc.DepthCacheAlreadyStopped:
    ended = True
is_over.set()
watcher.join()
result = {"reading": reading, "stopped_s": stopped_s, "longest_s": longest_s, "restarts": restarts}
print(json.dumps(result), flush=True)
"""


def needs(library: str) -> pytest.MarkDecorator:
    is_missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(is_missing, reason=f"{library} is not installed; make check-greenlets installs it")


@contextmanager
def way_to(exchange: LoopbackExchange, *, is_tls: bool, folder) -> Iterator[tuple[str, str]]:
    """The two addresses of an exchange, behind TLS if wanted."""
    if not is_tls:
        yield exchange.uris["restful_base_uri"], exchange.uris["websocket_base_uri"]
        return
    with Relay(exchange.restful_base_uri, tls=tls_context(folder)) as relay:
        yield f"https://127.0.0.1:{relay.port}", f"wss://127.0.0.1:{relay.port}"


@pytest.mark.check
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("settings", [{}, {"LDC_NATIVE_LOOP": "0"}, {"LDC_PURE_PYTHON": "1"}], ids=str)
@pytest.mark.parametrize("kind", [
    "plain",
    pytest.param("gevent", marks=needs("gevent")),
    pytest.param("gevent-late", marks=needs("gevent")),
    pytest.param("gevent-real-threads", marks=needs("gevent")),
    pytest.param("eventlet", marks=needs("eventlet")),
])  # fmt: skip
def test_a_program_runs_whatever_its_threads_are(kind, settings, is_tls, tmp_path):
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(LOOPBACK_PEM)
    environment = os.environ | settings | {"REQUESTS_CA_BUNDLE": str(trusted), "PYTHONPATH": os.pathsep.join(sys.path)}
    is_over = threading.Event()
    with LoopbackExchange() as exchange:
        exchange.add_market()

        def move() -> None:
            while not is_over.wait(0.05):
                exchange.update("BTCUSDT")

        mover = threading.Thread(target=move)
        mover.start()
        with way_to(exchange, is_tls=is_tls, folder=tmp_path) as uris:
            program = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-c", PROGRAM, kind, *uris],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            killer = threading.Timer(3 * PATIENCE_S, program.kill)
            killer.start()
            try:
                assert program.stdout is not None
                assert program.stdout.readline() == "follows\n"
                exchange.connections[-1].reset()
                out, err = program.communicate()
            finally:
                killer.cancel()
                is_over.set()
                mover.join()
                program.kill()
                program.communicate()
    assert program.returncode == 0, err
    assert "Traceback" not in err
    told = json.loads(out)
    assert told["stopped_s"] < 1.0
    assert told["longest_s"] < STANDSTILL_S_MAX
    assert told["restarts"] == ["BTCUSDT"]
    # With a socket or an ssl of a library, what is TLS goes through it.
    is_native = settings == {} and (kind == "plain" or (kind == "gevent-real-threads" and not is_tls))
    assert told["reading"] == ["native" if is_native else "python"]


@pytest.fixture
def greenlets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library does that replaces threads by greenlets, as far as ldc looks at it."""
    intact = _thread.get_ident
    monkeypatch.setattr(_thread, "get_ident", lambda: intact())


def test_threads_of_the_system_are_recognized():
    assert has_system_threads()


def test_greenlets_get_a_selector_and_a_tls_that_their_library_replaces(greenlets, monkeypatch, tmp_path):
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(LOOPBACK_PEM)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    assert not has_system_threads()
    with new_selector() as selector:
        assert type(selector) is selectors.DefaultSelector
    assert isinstance(tls.tls_context(), ssl.SSLContext)


def test_a_greenlet_that_waits_lets_others_run(greenlets, monkeypatch):
    """It sleeps by `time.sleep`, which such a library replaces, and never in the binding."""
    slept, looks = [], iter([False, False, True])
    monkeypatch.setattr("ldc.consume.signal.time.sleep", slept.append)
    signal = UpdateSignal(None)
    assert signal.wait_for(lambda: next(looks), None)
    assert len(slept) == 2
    assert not signal.wait_for(lambda: False, 0.0)


def test_a_feed_of_greenlets_is_read_by_python(greenlets, no_jitter):  # noqa: F811
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        reach(exchange, manager)
        assert [each.reading for each in manager.get_status("BTCUSDT").connections] == ["python"]
        update_id = manager.get_depth_cache("BTCUSDT").reader.last_update_id
        mover = threading.Timer(0.05, lambda: exchange.update("BTCUSDT"))
        mover.start()
        assert manager.wait_for_update("BTCUSDT", update_id, PATIENCE_S) > update_id
        mover.join()


SHARED_PROGRAM = """
import sys
kind, folder = sys.argv[1:]
import ldc, ldc.book, ldc.shared
if kind == "gevent":
    from gevent import monkey
    monkey.patch_all()
elif kind == "eventlet":
    import eventlet
    eventlet.monkey_patch()
import threading, time
from messages import loaded_book, make_update

with ldc.shared.Publisher("desk", folder=folder) as publisher:
    book = loaded_book(ldc.book, market="BTCUSDT")
    publisher.publish(book)
    reader = ldc.shared.SharedBooks("desk", folder=folder)["BTCUSDT"]
    missing = ldc.shared.SharedBooks("desk", folder=folder)["ETHUSDT"]
    found, waits = [], threading.Event()

    def wait():
        waits.set()
        found.append(reader.wait_for_update(reader.last_update_id, timeout=5))

    waiters = [threading.Thread(target=wait, daemon=True),
               threading.Thread(target=missing.wait_for_update, args=(None, 5), daemon=True)]
    for waiter in waiters:
        waiter.start()
    waits.wait()
    time.sleep(0.05)  # the waiters have their turn, and sleep
    update_id = reader.last_update_id + 1
    book.apply(make_update(update_id))
    waiters[0].join()
    print(found == [update_id], waiters[1].is_alive(), flush=True)
"""


@pytest.mark.parametrize("settings", [{}, {"LDC_PURE_PYTHON": "1"}], ids=str)
@pytest.mark.parametrize("kind", [
    "plain",
    pytest.param("gevent", marks=[needs("gevent"), pytest.mark.check]),
    pytest.param("eventlet", marks=[needs("eventlet"), pytest.mark.check]),
])  # fmt: skip
def test_a_wait_for_a_shared_book_holds_up_no_other_greenlet(kind, settings, tmp_path):
    """A regression: it slept in compiled code, so the greenlet that publishes had no turn until the wait was over."""
    environment = os.environ | settings | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", SHARED_PROGRAM, kind, str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=False,
    )  # fmt: skip
    assert program.stdout == "True True\n", program.stderr
