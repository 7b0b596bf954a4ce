"""A share: files, feeders that come and go, readers that stay."""

import contextlib
import errno
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from messages import loaded_book, make_update

import ldc
import ldc.book
import ldc.shared
from ldc.errors import DepthCacheError, DepthCacheOutOfSync, MalformedMessage
from ldc.shared import Publisher, SharedBooks, decode, encode
from ldc.shared.feeder import FeederFile, starting
from ldc.shared.folder import base_folder, book_file, make_folder, market_of, new_file

HOUR_NS = 3_600_000_000_000


def book_of(market: str = "BTCUSDT") -> Any:
    return loaded_book(ldc.book, market=market)


def cause_of(read: Callable[[], object]) -> str:
    with pytest.raises(DepthCacheError) as refusal:
        read()
    assert refusal.value.cause is not None
    return refusal.value.cause


@pytest.fixture
def share(tmp_path: Path) -> Iterator[tuple[Publisher, SharedBooks]]:
    with Publisher("desk", folder=tmp_path) as publisher:
        yield publisher, SharedBooks("desk", folder=tmp_path)


# ---------------------------------------------------------------------------------------------- feeders come and go


def test_a_reader_may_start_first_outlive_its_feeder_and_go_on_with_the_next(tmp_path: Path) -> None:
    books = SharedBooks("desk", folder=tmp_path)
    reader = books["BTCUSDT"]
    assert cause_of(reader.view) == "FEEDER_GONE"
    assert (books.feeder, books.markets(), reader.last_update_id, reader.generation) == (None, [], None, None)
    generations = []
    for last_id in (100, 101):
        book = book_of()
        if last_id == 101:
            book.apply(make_update(101))
        with Publisher("desk", folder=tmp_path) as publisher:
            with pytest.raises(DepthCacheOutOfSync, match=f"process {os.getpid()} .* does not publish this market"):
                reader.view()
            publisher.publish(book, exchange="binance.com")
            assert reader.view() == book.view()
            assert (books.markets(), publisher.markets, reader.exchange) == (["BTCUSDT"], ["BTCUSDT"], "binance.com")
            feeder = books.feeder
            assert feeder is not None
            assert (feeder.pid, feeder.is_alive, feeder.generation) == (os.getpid(), True, reader.generation)
            generations.append(reader.generation)
        assert cause_of(reader.view) == "FEEDER_GONE"
        assert reader.last_update_id == last_id  # where it was lost
        assert not (tmp_path / "desk" / "feeder").exists()
        assert book.region is None
    assert generations[0] < generations[1]


def test_a_market_that_is_withdrawn_and_published_again_goes_on(share: tuple[Publisher, SharedBooks]) -> None:
    publisher, books = share
    reader, book = books["BTCUSDT"], book_of()
    publisher.publish(book)
    assert reader.is_readable
    publisher.withdraw("BTCUSDT")
    publisher.withdraw("BTCUSDT")
    assert cause_of(reader.view) == "FEEDER_GONE"
    assert books.markets() == []
    publisher.publish(book)
    assert reader.view() == book.view()


def test_a_share_has_one_feeder_unless_it_is_replaced(tmp_path: Path) -> None:
    books = SharedBooks("desk", folder=tmp_path)
    old_book, new_book = book_of(), book_of()
    new_book.apply(make_update(101))
    with Publisher("desk", folder=tmp_path) as old:
        old.publish(old_book)
        assert books["BTCUSDT"].last_update_id == 100
        with pytest.raises(DepthCacheError, match=f"is fed by process {os.getpid()}; end that process"):
            Publisher("desk", folder=tmp_path)
        with Publisher("other", folder=tmp_path), Publisher("desk", folder=tmp_path, replace=True) as new:
            new.publish(new_book)
            assert SharedBooks("desk", folder=tmp_path)["BTCUSDT"].last_update_id == 101
            old.close()
            assert books["BTCUSDT"].last_update_id == 101  # the new files are not the old feeder's to remove
            assert books.markets() == ["BTCUSDT"]


def test_two_feeders_that_start_at_once_do_not_both_win(tmp_path: Path) -> None:
    results: list[object] = []
    barrier = threading.Barrier(4)

    def start() -> None:
        barrier.wait()
        try:
            results.append(Publisher("desk", folder=tmp_path))
        except DepthCacheError as error:
            results.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [result for result in results if isinstance(result, Publisher)]
    assert (len(results), len(won)) == (4, 1)
    won[0].close()
    won[0].close()


def test_a_feeder_that_starts_for_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldc.shared.feeder.START_WAIT_S", 0.01)
    make_folder(tmp_path / "desk", group=False)
    with starting(tmp_path / "desk"), pytest.raises(TimeoutError, match="another feeder has been starting"):
        Publisher("desk", folder=tmp_path)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from messages import loaded_book
import ldc.book
from ldc.shared import Publisher
publisher = Publisher("desk", folder=sys.argv[2])
publisher.publish(loaded_book(ldc.book, market="BTCUSDT"))
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def feeder_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    kits = str(Path(__file__).parents[1] / "kits")
    command = [sys.executable, "-P", "-c", KILLED, kits, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_killed_feeder_is_gone_and_what_it_left_is_no_hindrance(tmp_path: Path) -> None:
    books = SharedBooks("desk", folder=tmp_path)
    with feeder_process(tmp_path) as process:
        assert books["BTCUSDT"].best_bid == (100.1, 1.0)
        process.kill()
        process.wait()
        while books["BTCUSDT"].is_readable:  # until the heartbeat is late
            pass
        with pytest.raises(DepthCacheOutOfSync, match=f"process {process.pid} that fed the share 'desk' has ended"):
            books["BTCUSDT"].view()
    feeder = books.feeder
    assert feeder is not None
    assert (feeder.pid, feeder.is_alive) == (process.pid, False)
    assert books.markets() == []
    (tmp_path / "desk" / ".new.ETHUSDT.book").touch()
    with Publisher("desk", folder=tmp_path) as publisher:
        assert sorted(path.name for path in (tmp_path / "desk").iterdir()) == [".start", "feeder", "waiters"]
        publisher.publish(book_of("ETHUSDT"))
        assert books.markets() == ["ETHUSDT"]


def test_a_reader_that_was_there_first_leaves_a_stopped_feeder_for_its_replacement(tmp_path: Path) -> None:
    """The time of the first look was not set before there was a feeder: then no replacement was ever looked for."""
    reader = SharedBooks("desk", folder=tmp_path)["BTCUSDT"]
    assert cause_of(reader.view) == "FEEDER_GONE"
    with feeder_process(tmp_path) as process:
        assert reader.is_readable
        process.send_signal(signal.SIGSTOP)
        with Publisher("desk", folder=tmp_path, replace=True) as publisher:
            publisher.publish(book_of())
            give_up_at = time.monotonic() + 30
            while reader.generation != publisher.generation and time.monotonic() < give_up_at:
                assert reader.is_readable
            assert reader.generation == publisher.generation


def test_a_process_that_ends_without_close_takes_its_files_away(tmp_path: Path) -> None:
    with feeder_process(tmp_path) as process:
        process.communicate("")
    assert process.returncode == 0
    assert SharedBooks("desk", folder=tmp_path).feeder is None
    assert [path.name for path in (tmp_path / "desk").glob("*.book")] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_neither_feeds_nor_keeps_the_feeder_alive(share: tuple[Publisher, SharedBooks]) -> None:
    publisher, books = share
    book = book_of()
    publisher.publish(book)
    to_child, from_parent = os.pipe()
    from_child, to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            book.apply(make_update(101, bids=[("100.15", "7")]))
            is_refused = False
            try:
                publisher.publish(book_of("ETHUSDT"))
            except DepthCacheError:
                is_refused = True
            publisher.close()
            is_right = is_refused and book.last_update_id == 101 and books["BTCUSDT"].last_update_id == 100
            os.write(to_parent, b"+" if is_right else b"-")
            os.read(to_child, 1)  # lives on
            status = 0
        finally:
            os._exit(status)
    assert os.read(from_child, 1) == b"+"
    assert books["BTCUSDT"].best_bid == (100.1, 1.0)
    publisher.close()
    assert cause_of(books["BTCUSDT"].view) == "FEEDER_GONE"
    with Publisher("desk", folder=publisher.folder.parent):
        pass
    os.write(from_parent, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for fd in (to_child, from_parent, from_child, to_parent):
        os.close(fd)


# ------------------------------------------------------------------------------------------------------------- waiting


def test_a_waiter_is_woken_by_an_update_and_by_the_end(share: tuple[Publisher, SharedBooks]) -> None:
    publisher, books = share
    reader, book = books["BTCUSDT"], book_of()
    publisher.publish(book)
    results: list[object] = []

    def wait() -> None:
        results.append(reader.wait_for_update(100, timeout=30))
        try:
            reader.wait_for_update(101, timeout=30)
        except DepthCacheOutOfSync as error:
            results.append(error.cause)

    thread = threading.Thread(target=wait)
    thread.start()
    book.apply(make_update(101))
    while not results:
        thread.join(0.001)
    publisher.withdraw("BTCUSDT")
    thread.join()
    assert results == [101, "FEEDER_GONE"]


def test_a_wait_without_an_id_waits_for_a_feeder(tmp_path: Path) -> None:
    reader = SharedBooks("desk", folder=tmp_path)["BTCUSDT"]
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(reader.wait_for_update(timeout=30)))
    thread.start()
    with Publisher("desk", folder=tmp_path) as publisher:
        book = book_of()
        publisher.publish(book)
        last_id = 100
        while thread.is_alive():  # if it began to wait only now, it waits for the next id
            last_id += 1
            book.apply(make_update(last_id))
            thread.join(0.001)
    assert results[0] is not None
    with pytest.raises(DepthCacheOutOfSync):
        reader.wait_for_update(100, timeout=30)


# --------------------------------------------------------------------------------------------------------------- files


def modes(folder: Path) -> dict[str, str]:
    paths = [folder, folder / "desk", *(folder / "desk").iterdir()]
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in paths}


def test_files_are_of_their_user_alone_or_of_the_group(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        for group, folder_mode, file_mode, waiters in (
            (False, "0o700", "0o600", "0o600"),
            (True, "0o750", "0o640", "0o660"),
        ):
            base = tmp_path / f"base{group}"
            with Publisher("desk", folder=base, group=group) as publisher:
                publisher.publish(book_of())
                found = modes(base)
                assert found.pop(base.name) == found.pop("desk") == folder_mode
                assert found == {
                    ".start": "0o600", "feeder": file_mode, "BTCUSDT.book": file_mode, "waiters": waiters
                }  # fmt: skip
    finally:
        os.umask(previous)


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="not this user's alone"):
        Publisher("desk", folder=tmp_path)
    tmp_path.chmod(0o700)
    (tmp_path / "desk").symlink_to("elsewhere")
    with pytest.raises(PermissionError, match="not this user's alone"):
        Publisher("desk", folder=tmp_path)


def test_no_room_is_an_error_at_creation_and_leaves_nothing_behind(
    share: tuple[Publisher, SharedBooks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a full tmpfs says to posix_fallocate; the next test fills a real one, where it may mount it."""
    publisher, books = share

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ldc.shared.folder.reserve", full)
        with pytest.raises(OSError, match="no room for 6912 bytes") as error:
            publisher.publish(book_of())
    assert error.value.errno == errno.ENOSPC
    assert not list(publisher.folder.glob("*BTCUSDT*"))
    assert publisher.markets == []
    publisher.publish(book_of())
    assert books["BTCUSDT"].is_readable


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB in memory."""
    folder = tmp_path / "small"
    folder.mkdir(0o700)
    mounting = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", str(folder)]
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or subprocess.run(mounting, check=False).returncode:
        pytest.skip("a file system can only be mounted by root, on Linux")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_file_system_is_an_error_and_harms_no_book_that_is_published(small_tmpfs: Path) -> None:
    """Memory that were not reserved would end the feeder, or a reader, with SIGBUS at the first write."""
    with Publisher("desk", folder=small_tmpfs, levels=1000) as publisher:
        books = SharedBooks("desk", folder=small_tmpfs)
        published: dict[str, Any] = {}

        def publish_until_it_is_full() -> None:
            for number in range(100):
                market = f"M{number}USDT"
                published[market] = book_of(market)
                publisher.publish(published[market])

        with pytest.raises(OSError, match="no room for .* publish fewer levels, or give the file system") as error:
            publish_until_it_is_full()
        assert error.value.errno == errno.ENOSPC
        refused = published.popitem()[0]
        assert published
        assert sorted(publisher.markets) == sorted(books.markets()) == sorted(published)
        unread = published.popitem()[0]  # memory that a reader has mapped stays in use
        for market, book in published.items():
            book.apply(make_update(book.last_update_id + 1))
            assert books[market].view() == book.view()
        publisher.withdraw(unread)
        publisher.publish(book_of(refused))
        assert books[refused].is_readable


def test_memory_is_reserved_and_not_sparse(tmp_path: Path) -> None:
    fd = new_file(tmp_path / "new", 1 << 20, 0o600)
    assert os.fstat(fd).st_blocks * 512 >= os.fstat(fd).st_size == 1 << 20
    os.close(fd)


@pytest.mark.parametrize("market", ["BTCUSDT", "BTC-261225-100000-C", "币安人生USDT", "a/b", "..", "%", "a b"])
def test_every_market_has_a_file_name(market: str) -> None:
    name = book_file(market)
    assert "/" not in name
    assert not name.startswith("..book/")
    assert market_of(name) == market


def test_names_that_cannot_be_are_refused(share: tuple[Publisher, SharedBooks], tmp_path: Path) -> None:
    publisher, books = share
    for wrong in ("", "a/b", ".hidden", "x" * 65, None):
        with pytest.raises(ValueError, match="name of a share"):
            SharedBooks(wrong)  # type: ignore[arg-type]
    for market in ("", None, "x" * 300):
        with pytest.raises(ValueError, match="market"):
            books[market]  # type: ignore[index]
    with pytest.raises(ValueError, match="needs a name"):
        publisher.publish(ldc.OrderBook("spot"))
    book = book_of()
    publisher.publish(book)
    with pytest.raises(ValueError, match="published already"):
        publisher.publish(book_of())
    with pytest.raises(ValueError, match="shared already"):
        publisher.publish(book, "OTHER")
    with pytest.raises(ValueError, match="from 1 to 50000"):
        Publisher("desk", folder=tmp_path, levels=0)
    with pytest.raises(ValueError, match="max_age"):
        SharedBooks("desk", max_age=0)
    publisher.close()
    with pytest.raises(DepthCacheError, match="is closed"):
        publisher.publish(book_of("ETHUSDT"))


def test_the_case_of_a_market_does_not_matter(share: tuple[Publisher, SharedBooks]) -> None:
    publisher, books = share
    publisher.publish(book_of())
    assert books["btcusdt"].best_bid == (100.1, 1.0)
    assert books["BTCUSDT"] is books["BTCUSDT"]
    assert list(books) == ["BTCUSDT"]
    assert "BTCUSDT" in books
    assert "ETHUSDT" not in books


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDC_SHARED_FOLDER", str(tmp_path))
    assert base_folder() == tmp_path
    with Publisher("desk") as publisher:
        assert publisher.folder == tmp_path / "desk" == SharedBooks("desk").folder
    monkeypatch.delenv("LDC_SHARED_FOLDER")
    assert str(os.getuid()) in base_folder().name


def test_files_that_are_none_are_refused_and_a_good_one_is_found_later(share: tuple[Publisher, SharedBooks]) -> None:
    publisher, books = share
    path = publisher.folder / "BTCUSDT.book"
    path.write_bytes(b"x" * 300)
    with pytest.raises(MalformedMessage, match="300 bytes are no shared book"):
        books["BTCUSDT"].view()
    assert books["BTCUSDT"].unreadable_cause == "FEEDER_GONE"
    path.write_bytes(b"")
    with pytest.raises(MalformedMessage, match="0 bytes are no shared book"):
        books["BTCUSDT"].view()
    publisher.publish(book_of())
    assert books["BTCUSDT"].is_readable
    (publisher.folder / "feeder").write_bytes(b"short")
    assert FeederFile.open(publisher.folder) is None


def test_books_can_be_pickled_and_readers_cannot(share: tuple[Publisher, SharedBooks]) -> None:
    publisher, books = share
    publisher.publish(book_of())
    again = pickle.loads(pickle.dumps(books))
    assert again["BTCUSDT"].best_bid == (100.1, 1.0)
    with pytest.raises(TypeError, match="pickle its SharedBooks"):
        pickle.dumps(books["BTCUSDT"])


def test_a_message_is_decoded_with_its_market_and_grows_old() -> None:
    book = book_of()
    book.lease = ldc.book.Lease(HOUR_NS)
    book.lease.renew(ldc.book.Lease.now_ns())
    message = encode(book.reader, 2, exchange="binance.com")
    reader = decode(memoryview(b"1" + message)[1:])  # at any place in memory
    assert (reader.market, reader.exchange, reader.best_bid) == ("BTCUSDT", "binance.com", (100.1, 1.0))
    book.lease.renew(max(ldc.book.Lease.now_ns() - HOUR_NS // 2, 0))
    assert decode(encode(book), max_age=1e-10).unreadable_cause == "TOO_OLD"
    with pytest.raises(MalformedMessage):
        decode(message[:-1])
