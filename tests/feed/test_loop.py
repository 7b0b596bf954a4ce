"""An event loop without a feed: when it reads, ticks, recovers and stops; and that no posted work is lost."""

import math
import socket
import threading
from collections.abc import Iterator

import pytest
from live_kit import no_thread_is_left  # noqa: F401
from log_kit import logged
from loopback_exchange import PATIENCE_S

from ldc.feed.loop import EventLoop
from ldc.feed.mailbox import Mailbox
from ldc.limits import Timing


class Owner:
    """Owns a loop with one socket, and notes what the loop calls, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.waited_for = 0
        self.changed = threading.Condition()
        self.next_due = math.inf
        self.stop_s = 0.0
        self.has_stopped = True
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.loop: EventLoop[socket.socket] = EventLoop(
            "ldc-loop-test", Timing(fault_pause_s=0.0),
            read=self.read, tick=self.tick, machine_slept=self.machine_slept, recover=self.recover,
            begin_stop=self.begin_stop, has_stopped=lambda: self.has_stopped, release=lambda: self.note("release"),
        )  # fmt: skip
        self.source, self.other = socket.socketpair()
        self.loop.watch(self.source)

    def note(self, call: str) -> None:
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()

    def wait_for(self, *calls: str) -> None:
        """Wait until the loop has made these calls in a row, after those that were waited for before."""

        def place() -> int:
            places = range(self.waited_for, len(self.calls))
            return next((place for place in places if self.calls[place : place + len(calls)] == list(calls)), -1)

        with self.changed:
            assert self.changed.wait_for(lambda: place() >= 0, PATIENCE_S), (calls, self.calls[self.waited_for :])
            self.waited_for = place() + len(calls)

    def read(self, source: socket.socket, now: float) -> None:
        received = source.recv(1).decode()
        self.note(f"read {received}")
        if received == "s":
            self.loop._slept_s_before -= 3600  # as if the clock that counts sleep had gone on by so much
        elif received == "f":
            raise RuntimeError("nobody foresaw this")
        elif received == "m":
            self.loop.unread.add(source)
        elif received == "e":
            self.has_stopped = True

    def tick(self, now: float) -> float:
        assert self.gate.wait(PATIENCE_S)
        self.note("tick")
        return self.next_due

    def machine_slept(self, seconds: float, now: float) -> None:
        self.note(f"slept {seconds:.0f}")

    def recover(self, error: Exception, now: float) -> None:
        self.error = error
        self.note("recover")

    def begin_stop(self, now: float) -> float:
        self.note("begin stop")
        return self.stop_s


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    owner.loop.start()
    owner.wait_for("tick")
    yield owner
    owner.loop.stop()
    assert owner.loop.join(PATIENCE_S)
    owner.source.close()
    owner.other.close()


def test_a_source_that_is_readable_is_read_and_no_deadline_is_checked(owner):
    owner.other.send(b"12")  # read one by one, in two turns
    owner.wait_for("read 1", "read 2")


def test_posted_work_is_run_before_sources_are_read_and_deadlines_come_last(owner):
    owner.gate.clear()
    owner.loop.post(lambda now: owner.note("first"))
    owner.wait_for("first")  # and now the thread waits in its tick
    owner.other.send(b"1")
    owner.loop.post(lambda now: owner.note("second"))
    owner.gate.set()
    owner.wait_for("second", "read 1", "tick")


def test_a_source_that_may_hold_more_is_read_again_though_the_selector_does_not_see_it(owner):
    owner.other.send(b"m1")
    owner.wait_for("read m", "read 1")


def test_a_tick_comes_when_the_last_one_wanted_it(owner):
    owner.next_due = 0.0
    owner.loop.post(lambda now: owner.note("work"))
    owner.wait_for("work", "tick", "tick", "tick")
    owner.next_due = math.inf


def test_room_to_write_brings_a_tick_if_it_is_wanted(owner):
    owner.loop.post(lambda now: owner.loop.watch_room(owner.source, is_wanted=True))
    owner.wait_for("tick", "tick", "tick")
    owner.loop.post(lambda now: owner.loop.watch_room(owner.source, is_wanted=False))
    owner.loop.post(lambda now: owner.note("no longer"))
    owner.wait_for("no longer", "tick")
    owner.other.send(b"12")
    owner.wait_for("read 1", "read 2")


def test_a_source_that_is_not_watched_any_more_is_not_read(owner):
    def unwatch(now: float) -> None:
        owner.loop.unread.add(owner.source)
        owner.loop.unwatch(owner.source)
        owner.other.send(b"1")

    owner.loop.post(unwatch)
    owner.wait_for("tick")
    owner.loop.post(lambda now: owner.note("work"))
    owner.wait_for("work", "tick")
    assert "read 1" not in owner.calls


def test_after_a_sleep_of_the_machine_the_owner_is_called_before_the_tick(owner):
    owner.other.send(b"s12")
    owner.wait_for("read s", "slept 3600", "tick", "read 1", "read 2")  # once


def test_an_exception_does_not_end_the_thread(owner, caplog):
    owner.other.send(b"f")
    owner.wait_for("read f", "recover", "tick")
    assert "nobody foresaw this" in str(owner.error)
    assert "nobody foresaw this" in logged(caplog).text
    owner.other.send(b"1")
    owner.wait_for("read 1")


def test_a_loop_stops_at_once_if_nothing_is_left_to_wait_for(owner):
    owner.stop_s = 2 * PATIENCE_S
    owner.loop.stop()
    owner.loop.stop()
    assert owner.loop.join(PATIENCE_S)
    assert owner.calls[-2:] == ["begin stop", "release"]
    assert owner.calls.count("begin stop") == 1
    assert not owner.loop.post(lambda now: None)


def test_a_loop_that_stops_goes_on_reading_until_the_owner_has_stopped(owner):
    owner.stop_s, owner.has_stopped = 2 * PATIENCE_S, False
    owner.loop.stop()
    owner.wait_for("begin stop")
    owner.other.send(b"e")
    assert owner.loop.join(PATIENCE_S)
    assert owner.calls[-1] == "release"
    assert "read e" in owner.calls


def test_a_loop_stops_at_the_deadline_though_the_owner_has_not_stopped(owner):
    owner.stop_s, owner.has_stopped = 0.05, False
    owner.loop.stop()
    assert owner.loop.join(PATIENCE_S)
    assert owner.calls[-1] == "release"


def test_a_loop_whose_thread_was_never_started_runs_what_was_posted_when_it_is_closed():
    owner = Owner()
    owner.loop.post(lambda now: owner.note("work"))
    assert owner.loop.join(PATIENCE_S)  # there is nothing to wait for
    owner.loop.close()
    assert owner.calls == ["release", "work"]
    owner.source.close()
    owner.other.close()


def test_posted_work_is_run_or_refused_also_while_the_mailbox_closes():
    for _ in range(100):
        mailbox = Mailbox()
        done: list[float] = []
        accepted: list[bool] = []

        def post(mailbox=mailbox, done=done, accepted=accepted):
            for _ in range(50):
                accepted.append(mailbox.post(done.append))

        posters = [threading.Thread(target=post) for _ in range(3)]
        for poster in posters:
            poster.start()
        mailbox.run_posted(1.0)
        mailbox.close()
        mailbox.run_posted(2.0)
        for poster in posters:
            poster.join()
        assert len(done) == accepted.count(True)


def test_a_mailbox_that_nobody_empties_refuses_what_is_too_much_and_counts_it():
    """A regression: it was the only queue without a limit."""
    mailbox, done = Mailbox(work_max=3), []
    assert [mailbox.post(done.append) for _ in range(5)] == [True, True, True, False, False]
    assert mailbox.refused == 2
    mailbox.run_posted(1.0)
    assert done == [1.0] * 3
    assert mailbox.post(done.append)
    mailbox.close()
