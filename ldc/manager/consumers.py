"""The consumers of a manager's updates: streams, callbacks, and the waits of coroutines.

Rule 1: no method here blocks. What waits, waits in the thread or in the event loop of its consumer.
Rule 2: the lock is a leaf: no book starts while a consumer is added, and nothing foreign runs under it.
"""

import asyncio
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ldc.book import UpdateQueue
from ldc.consume.callbacks import CallbackHandle, CallbackThread, LoopCalls, is_coroutine_function, loop_of_caller
from ldc.consume.followers import Followed, FollowedName, Followers, wish
from ldc.consume.stream import UpdateStream
from ldc.consume.updates import Source, UpdateNumberType
from ldc.feed.market import LiveMarket
from ldc.manager.depth_cache import DepthCache
from ldc.manager.routes import StateCallbacks
from ldc.sync.actions import StateChanged

_abandoned: list[object] = []
"""Of a forked child: what must not be freed there, because its locks may be held."""


def _followed(cache: DepthCache) -> Followed:
    return Followed((cache.exchange, cache.live.symbol), cache.market, cache.live.book, cache.group.inline_queue)


class Consumers:
    """The streams and callbacks of one manager. Thread-safe."""

    def __init__(self, callbacks: CallbackThread, caches: Mapping[str, DepthCache], states: StateCallbacks) -> None:
        self._callbacks, self._caches, self._states = callbacks, caches, states
        self._lock = threading.Lock()
        self._followers = Followers()

    # the manager's side

    def market_started(self, cache: DepthCache) -> None:
        """Attach all that want a depth cache which has just been made."""
        with self._lock:
            self._followers.market_started(_followed(cache))

    def end(self) -> None:
        """Let every stream end after its last item. The books are stopped before."""
        with self._lock:
            self._followers.end()
            self._states.functions = ()

    def end_in_child(self, callbacks: CallbackThread) -> None:
        """End in a forked child."""
        _abandoned.append((self._followers.abandon(), self._callbacks, self._followers))
        self._lock = threading.Lock()
        self._callbacks, self._followers = callbacks, Followers()
        self._followers.end()

    # the user's side

    def updates(
        self, markets: Iterable[FollowedName] | None, policy: str, number: UpdateNumberType, queue_max: int
    ) -> UpdateStream:
        """Return a stream of these markets; None: of all, also of those that are created later."""
        if isinstance(queue_max, bool) or not isinstance(queue_max, int) or not 1 <= queue_max < 2**31:
            raise ValueError(f"queue_max must be an int from 1 to {2**31 - 1}, not {queue_max!r}")
        wanted = wish(markets, policy, number)
        with self._lock:
            return self._followers.open_stream(wanted, self._present(), queue_max)

    def on_update(
        self,
        function: Callable[..., object],
        markets: Iterable[FollowedName] | None,
        policy: str,
        number: UpdateNumberType,
        inline: bool,
    ) -> CallbackHandle:
        """Call a function with each item, and return its handle."""
        handle = CallbackHandle(_checked(function))
        if is_coroutine_function(function):
            if inline:
                raise ValueError(f"{function!r} is a coroutine function, which no feed's thread can run inline")
            calls = LoopCalls(loop_of_caller(function), handle)
            calls.follow(self.updates(markets, policy, number, 10_000))
            return handle
        wanted = wish(markets, policy, number)

        def queue_of(market: Followed) -> UpdateQueue:
            return market.inline_queue() if inline else self._callbacks.queue

        if not inline:
            self._callbacks.start()
        with self._lock:
            self._followers.add_callback(handle, wanted, self._present(), queue_of)
        handle.on_cancelled(lambda: self._remove(handle))
        return handle

    def on_state_change(
        self, function: Callable[..., object], markets: frozenset[FollowedName] | None
    ) -> CallbackHandle:
        """Call a function with (market, state, cause) at each change, and return its handle."""
        handle = CallbackHandle(_checked(function))
        is_async = is_coroutine_function(function)
        queue: Callable[..., None]
        if is_async:
            queue = LoopCalls(loop_of_caller(function), handle).follow_calls()
        else:
            callbacks = self._callbacks

            def queue(*arguments: Any) -> None:
                callbacks.call(handle.call, *arguments)

        def state_changed(exchange: str, live: LiveMarket, change: StateChanged) -> None:
            if not handle.is_cancelled and (markets is None or (exchange, live.symbol) in markets):
                queue(live.market, change.state, change.cause)

        with self._lock:
            self._states.functions = (*self._states.functions, state_changed)
        cancel_task = handle.release

        def release() -> None:
            with self._lock:
                self._states.functions = tuple(each for each in self._states.functions if each is not state_changed)
            if cancel_task is not None:
                cancel_task()

        handle.on_cancelled(release)
        return handle

    def _remove(self, handle: CallbackHandle) -> None:
        with self._lock:
            self._followers.remove_callback(handle)

    def _present(self) -> list[Followed]:
        return [_followed(cache) for cache in list(self._caches.values())]


def _checked(function: Callable[..., object]) -> Callable[..., object]:
    if not callable(function):
        raise TypeError(f"the callback must be callable, and {function!r} is not")
    return function


async def wait_async(
    caches: Sequence[DepthCache], is_decided: Callable[[], bool], timeout: float | None, what: str
) -> None:
    """Wait in the running event loop until `is_decided()`. Raises ``TimeoutError`` if `timeout` seconds are over first.

    It looks whenever a book of the caches has changed, and every half second, because a state may change after that.
    """
    if timeout is not None and math.isnan(timeout):
        raise ValueError("timeout must be a number of seconds, or None to wait without end; it is NaN")
    if is_decided():
        return
    queue = UpdateQueue()
    for cache in caches:
        queue.add(cache.live.book, Source(cache.market, cache.exchange), 0)
    with UpdateStream(queue) as stream:
        try:
            async with asyncio.timeout(timeout):
                while not is_decided():
                    await stream.changed()
        except TimeoutError:
            raise TimeoutError(f"{what} within {timeout:g} s") from None


async def run_in_thread(function: Callable[[], object], name: str) -> None:
    """Run a function in a thread of its own, and wait for it in the running event loop.

    A cancellation ends the wait, not the function. Nothing is left in the loop.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if not done.done():
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            function()
        except BaseException as raised:  # noqa: BLE001 - a thread's top: the waiting task raises it
            error = raised
        try:
            loop.call_soon_threadsafe(finish, error)
        except RuntimeError:  # the loop is closed, and nobody waits
            pass

    threading.Thread(target=run, name=name, daemon=True).start()
    await done
