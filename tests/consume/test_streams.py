"""Streams over a book that another thread writes: for, async for, get, descriptors, merging, and the end of each."""

import asyncio
import contextlib
import gc
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback_exchange import PATIENCE_S
from messages import make_snapshot, make_update
from stream_kit import follow

from ldc.book import OrderBook, UpdateQueue
from ldc.consume.stream import UpdateStream, merge
from ldc.consume.updates import BookUpdate

needs_descriptors = pytest.mark.skipif(os.name == "nt", reason="event loops of Windows wait for no descriptors")


def new_eager_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose tasks run at once, up to their first wait."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    return loop


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if sys.version_info >= (3, 12):
    LOOPS["eager tasks"] = new_eager_loop
try:
    import uvloop
except ImportError:
    pass
else:
    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.fixture(params=["asyncio", *(["eager tasks"] if "eager tasks" in LOOPS else []), "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Run a coroutine, in debug mode, on each event loop there is; what is left in the loop is an error."""
    if request.param not in LOOPS:
        pytest.skip("uvloop is not installed")

    def run_it(coroutine: Any, patience_s: float = PATIENCE_S) -> Any:
        with asyncio.Runner(debug=True, loop_factory=LOOPS[request.param]) as runner:
            problems: list[Any] = []
            runner.get_loop().set_exception_handler(lambda _loop, context: problems.append(context))
            found = runner.run(asyncio.wait_for(coroutine, patience_s))
            runner.run(asyncio.sleep(0))
            assert problems == []
            return found

    return run_it


class Writer:
    """A book, and a thread that may write to it."""

    def __init__(self) -> None:
        self.book = OrderBook("spot", market="BTCUSDT")
        self.book.load_snapshot(make_snapshot([("100.00", "1")], [("101.00", "1")]), 1000)
        self.last = 100

    def move(self) -> None:
        """Apply one update."""
        self.last += 1
        self.book.apply(make_update(self.last, self.last, bids=[("99.00", f"{self.last}.0")]))

    def stream(self, policy: str = "latest") -> UpdateStream:
        """Return a stream of the book."""
        queue = UpdateQueue()
        follow(queue, self.book, policy)
        return UpdateStream(queue)

    @contextlib.contextmanager
    def moving(self, until: threading.Event) -> Iterator[None]:
        """Let a thread write until the event is set."""

        def write() -> None:
            while not until.is_set():
                self.move()
                time.sleep(0.0005)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            until.set()
            thread.join()


@pytest.fixture
def writer() -> Writer:
    return Writer()


def descriptor_count() -> int:
    """Return how many descriptors this process has; 0 where that cannot be seen."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def ids(updates: list[BookUpdate]) -> list[int | None]:
    return [each.last_update_id for each in updates]


def assert_in_a_row(updates: list[BookUpdate]) -> None:
    """No update is missing between the first and the last."""
    first = updates[0].last_update_id
    assert first is not None
    assert ids(updates) == list(range(first, first + len(updates)))


def test_get_returns_what_waits_and_raises_when_nothing_comes(writer: Writer) -> None:
    with writer.stream("every") as stream:
        assert stream.get(0).is_snapshot
        writer.move()
        assert stream.get(timeout=None).last_update_id == 101
        for timeout in (0, 0.01, -1):
            with pytest.raises(TimeoutError):
                stream.get(timeout)
        with pytest.raises(ValueError, match="NaN"):
            stream.get(float("nan"))
    with pytest.raises(EOFError):
        stream.get()


def test_a_blocked_loop_gets_every_update_of_a_thread(writer: Writer) -> None:
    over = threading.Event()
    with writer.stream("every") as stream, writer.moving(over):
        found = []
        for update in stream:
            found.append(update)
            if len(found) == 200:
                break
    assert_in_a_row(found)


@pytest.mark.parametrize("is_closed", [True, False])
def test_closing_and_ending_end_blocked_loops(writer: Writer, is_closed: bool) -> None:
    stream = writer.stream("every")
    found: list[list[BookUpdate]] = []
    threads = [threading.Thread(target=lambda: found.append(list(stream))) for _ in range(3)]
    for thread in threads:
        thread.start()
    while not stream.queue.has_ready and stream.queue.waiting:
        pass
    writer.move()
    (stream.close if is_closed else stream.end)()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    taken = sorted(update.last_update_id or 0 for each in found for update in each)
    assert taken == [100, 101] if not is_closed else set(taken) <= {100, 101}
    assert list(stream) == []


def test_what_waits_before_the_end_is_taken_and_after_a_close_it_is_dropped(writer: Writer) -> None:
    ended, closed = writer.stream("every"), writer.stream("every")
    ended.get(), closed.get()
    for _ in range(3):
        writer.move()
    ended.end()
    closed.close()
    closed.close()
    assert ids(list(ended)) == [101, 102, 103]
    assert list(closed) == []
    assert closed.is_closed


def test_async_for_gets_every_update_of_a_thread(writer: Writer, run: Callable[[Any], Any]) -> None:
    over = threading.Event()

    async def consume() -> list[BookUpdate]:
        found = []
        async with writer.stream("every") as stream:
            async for update in stream:
                found.append(update)
                if len(found) == 100:
                    break
        return found

    with writer.moving(over):
        found = run(consume())
    assert_in_a_row(found)


def test_an_event_loop_waits_in_its_selector_alone(writer: Writer, run: Callable[[Any], Any]) -> None:
    async def consume() -> None:
        with writer.stream() as stream:
            await anext(stream)
            threads = threading.active_count()
            waiting = asyncio.create_task(anext(stream))
            await asyncio.sleep(0.01)
            assert threading.active_count() == threads
            assert not waiting.done()
            writer.move()
            assert (await waiting).last_update_id == 101

    run(consume())


def test_cancelled_waits_and_timeouts_leave_nothing_behind(writer: Writer, run: Callable[[Any], Any]) -> None:
    async def consume() -> None:
        stream = writer.stream()
        await anext(stream)
        for _ in range(100):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await anext(stream)
        task = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not stream._reader.is_in_use  # type: ignore[union-attr]
        writer.move()
        assert (await anext(stream)).last_update_id == 101
        stream.close()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == len(
            {asyncio.current_task()} | {t for t in asyncio.all_tasks() if not t.done()}
        )

    run(consume())


def test_a_close_ends_tasks_that_wait_from_any_thread(writer: Writer, run: Callable[[Any], Any]) -> None:
    async def consume() -> None:
        stream = writer.stream()
        await anext(stream)

        async def count() -> int:
            return len([update async for update in stream])

        tasks = [asyncio.create_task(count()) for _ in range(3)]
        await asyncio.sleep(0.01)
        thread = threading.Thread(target=stream.close)
        thread.start()
        assert await asyncio.gather(*tasks) == [0, 0, 0]
        thread.join()

    run(consume())


def test_a_stream_that_nobody_holds_is_closed_and_its_descriptor_too(writer: Writer, run: Callable[[Any], Any]) -> None:
    async def consume() -> None:
        before = descriptor_count()
        for _ in range(5):
            stream = writer.stream()
            await anext(stream)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await anext(stream)
            reference = weakref.ref(stream)
            del stream
            await asyncio.sleep(0)  # Python keeps the traceback of a cancellation until the next turn
            gc.collect()
            assert reference() is None
        await asyncio.sleep(0)
        assert descriptor_count() <= before + 1

    run(consume())


def test_a_loop_may_be_closed_before_its_stream_and_another_may_go_on(
    writer: Writer, run: Callable[[Any], Any]
) -> None:
    stream = writer.stream()

    async def one(expected: int) -> None:
        task = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        if not task.done():
            writer.move()
        assert (await task).last_update_id == expected

    run(one(100))
    writer.move()
    run(one(101))
    writer.move()
    assert stream.get().last_update_id == 102
    stream.close()
    run(asyncio.sleep(0))


@needs_descriptors
def test_two_loops_that_wait_for_one_stream_are_told(writer: Writer, run: Callable[[Any], Any]) -> None:
    stream, waits, over = writer.stream(), threading.Event(), threading.Event()
    stream.get()

    async def wait() -> None:
        task = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.01)
        waits.set()
        await asyncio.to_thread(over.wait)
        task.cancel()

    thread = threading.Thread(target=run, args=(wait(),))
    thread.start()
    assert waits.wait(PATIENCE_S)

    async def fail() -> None:
        with pytest.raises(RuntimeError, match="one stream for each loop"):
            await anext(stream)

    run(fail())
    over.set()
    thread.join()
    stream.close()


@needs_descriptors
def test_a_descriptor_serves_any_other_loop(writer: Writer) -> None:
    over, found = threading.Event(), []
    with writer.stream("every") as stream, selectors.DefaultSelector() as selector, writer.moving(over):
        selector.register(stream.fileno(), selectors.EVENT_READ)
        while len(found) < 100:
            assert selector.select(PATIENCE_S)
            with contextlib.suppress(TimeoutError):
                while True:
                    found.append(stream.get(0))
        over.set()
    assert_in_a_row(found)
    with pytest.raises(ValueError, match="closed"):
        stream.fileno()


@needs_descriptors
def test_a_descriptor_is_readable_as_long_as_something_waits(writer: Writer) -> None:
    with writer.stream("every") as stream, selectors.DefaultSelector() as selector:
        stream.get(0)
        selector.register(stream.fileno(), selectors.EVENT_READ)
        writer.move()
        writer.move()
        for _ in range(2):
            assert selector.select(0)
            stream.get(0)
        assert selector.select(0)  # one more look is needed to know that nothing waits
        with pytest.raises(TimeoutError):
            stream.get(0)
        assert not selector.select(0)


def test_merged_streams_take_turns_and_end_after_the_last(run: Callable[[Any], Any]) -> None:
    writers = [Writer() for _ in range(3)]
    streams = [each.stream("every") for each in writers]
    merged = merge(*streams)
    for each in writers:
        each.move()
    assert ids([merged.get(0) for _ in range(3)]) == [101] * 3
    with pytest.raises(TimeoutError):
        merged.get(0)

    async def consume() -> int:
        return len([update async for update in merged])

    async def consume_all() -> int:
        task = asyncio.create_task(consume())
        with contextlib.ExitStack() as stack:
            for each in writers:
                stack.enter_context(each.moving(threading.Event()))
            await asyncio.sleep(0.2)
        for stream in streams:
            assert not task.done()
            stream.end()
        return await task

    count = run(consume_all())
    assert count > 100
    assert count == sum(each.last - 101 for each in writers)
    merged.close()
    assert all(stream.is_closed for stream in streams)


def test_merged_streams_are_merged_again(run: Callable[[Any], Any]) -> None:
    writers = [Writer() for _ in range(4)]
    streams = [each.stream("every") for each in writers]
    inner = merge(*streams[:2])
    outer = merge(inner, merge(streams[2]), streams[3])  # nobody else holds the one in the middle
    gc.collect()
    assert ids([outer.get(0) for _ in range(4)]) == [100] * 4
    with pytest.raises(ValueError, match="already"):
        merge(inner)
    with pytest.raises(ValueError, match="already"):
        merge(streams[0])

    async def consume() -> list[int | None]:
        taken = asyncio.create_task(anext(outer))
        await asyncio.sleep(0)
        found = []
        for each in writers:
            each.move()
            found.append((await taken).last_update_id)
            taken = asyncio.create_task(anext(outer))
            await asyncio.sleep(0)
        for stream in streams[2:]:
            stream.end()
        inner.close()
        with pytest.raises(StopAsyncIteration):
            await taken
        return found

    assert run(consume()) == [101] * 4
    assert all(stream.is_closed for stream in streams[:2])
    assert not streams[3].is_closed
    outer.close()
    assert all(stream.is_closed for stream in streams)


def test_several_loops_in_several_threads_each_follow_merged_streams(run: Callable[[Any], Any]) -> None:
    writers = [Writer() for _ in range(4)]
    streams = [each.stream("every") for each in writers]
    merged = [merge(*streams[:2]), merge(*streams[2:])]
    counts: dict[int, int] = {}
    for each in merged:
        assert ids([each.get(0), each.get(0)]) == [100] * 2

    async def consume(number: int) -> None:
        counts[number] = len([update async for update in merged[number]])

    threads = [threading.Thread(target=lambda number=number: run(consume(number))) for number in range(2)]
    with contextlib.ExitStack() as stack:
        over = threading.Event()
        for each in writers:
            stack.enter_context(each.moving(over))
        for thread in threads:
            thread.start()
        for each in writers:
            while each.last < 400:
                threading.Event().wait(0.001)
    for stream in streams:
        stream.end()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert counts == {0: sum(each.last - 100 for each in writers[:2]), 1: sum(each.last - 100 for each in writers[2:])}


def test_a_merge_that_makes_no_sense_is_refused(writer: Writer) -> None:
    stream, closed = writer.stream(), writer.stream()
    closed.close()
    for wrong in ((), (stream, stream), (closed,)):
        with pytest.raises(ValueError, match="merge"):
            merge(*wrong)
    with pytest.raises(TypeError, match="str"):
        merge("BTCUSDT")  # type: ignore[arg-type]
    merged = merge(stream)
    with pytest.raises(ValueError, match="already"):
        merge(stream)
    merged.close()


def test_streams_opened_and_dropped_while_a_thread_writes_leave_nothing(
    writer: Writer, run: Callable[[Any], Any]
) -> None:
    over = threading.Event()

    async def churn() -> None:
        for number in range(300):
            stream = writer.stream(("latest", "changes", "every")[number % 3])
            if number % 2:
                await anext(stream)
            if number % 5 == 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.0001):
                        await anext(stream)
            if number % 3:
                stream.close()

    with writer.moving(over):
        run(churn())
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, UpdateStream) and not each.is_closed]


EXIT = """
import asyncio, sys, threading, time
sys.path[:0] = sys.argv[1:]
from test_streams import Writer
writer = Writer()
streams = [writer.stream(policy) for policy in ("latest", "changes", "every")]
threading.Thread(target=lambda: [writer.move() for _ in iter(int, 1)], daemon=True).start()
threading.Thread(target=lambda: list(streams[0]), daemon=True).start()
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # a busy machine is slow, which -X dev would report
    await anext(streams[1])
    asyncio.create_task(anext(streams[2]))
    await asyncio.sleep(0.05)
asyncio.run(main())
print("over")
"""


def test_the_interpreter_may_exit_with_open_streams() -> None:
    """A thread writes, another one is blocked, and a loop was closed with a waiting task."""
    folders = [str(folder) for folder in sys.path if "tests" in folder]
    here = str(Path(__file__).parent)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-P", "-X", "dev", "-c", EXIT, here, *folders],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


@pytest.mark.check
def test_ten_thousand_streams_leave_nothing(writer: Writer, run: Callable[[Any], Any]) -> None:
    """Opened, cancelled, and collected while in use."""
    over = threading.Event()

    async def churn() -> None:
        for number in range(10_000):
            stream = writer.stream(("latest", "changes", "every")[number % 3])
            await anext(stream)
            task = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            task.cancel()
            if number % 2:
                stream.close()

    with writer.moving(over):
        run(churn(), 10 * PATIENCE_S)
    gc.collect()
    assert descriptor_count() < 100
