"""Every case of tests/kits/json_cases.py, under unknown keys of each kind of message, and as a whole message."""

from types import ModuleType

import pytest
from fuzz_targets import SnapshotTarget, UpdateTarget
from json_cases import ALLOWED, FORBIDDEN
from messages import loaded_book

from ldc.errors import MalformedMessage
from ldc.types import Verdict

UPDATES = (
    b'{"x":%s,"U":101,"u":101,"b":[],"a":[]}',
    b'{"U":101,"u":101,"b":[],"a":[],"x":%s}',
    b'{"U":101,"u":101,"b":[],"a":[],"st": %s }',
    b'{"x":%s,"data":{"U":101,"u":101,"b":[],"a":[]}}',
    b'{"U":101,"u":101,"b":[],"x":\n{"":%s}\r,"a":[["1.5","2"]]}',
    b'{"stream":"x","data":{"U":101,"u":101,"x":{"y":%s},"b":[],"a":[]}}',
)
"""Only in the last two does the case stand deeper than in one container."""
SNAPSHOT = b'{"lastUpdateId":7,"x":%s,"bids":[["1","1"]],"asks":[["2","1"]]}'
DEEP = {name for name in ALLOWED if name.startswith("y_nested")}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_json_allows_is_skipped(books: ModuleType, name: str) -> None:
    for frame in UPDATES[:-2] if name in DEEP else UPDATES:
        assert loaded_book(books).apply(frame % ALLOWED[name]) is Verdict.APPLIED, frame
        assert books.read_header(frame % ALLOWED[name]).last_update_id == 101
    book = loaded_book(books)
    book.load_snapshot(SNAPSHOT % ALLOWED[name])
    assert book.last_update_id == 7


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_json_forbids_is_refused_where_it_would_be_skipped(books: ModuleType, name: str) -> None:
    book = loaded_book(books)
    for frame in UPDATES:
        for read in (book.apply, books.read_header):
            with pytest.raises(MalformedMessage):
                read(frame % FORBIDDEN[name])
    with pytest.raises(MalformedMessage):
        book.load_snapshot(SNAPSHOT % FORBIDDEN[name])
    assert (book.last_update_id, book.counters.updates_malformed) == (100, len(UPDATES))


def test_each_case_as_a_whole_message_is_what_the_second_opinion_says(books: ModuleType) -> None:
    update, snapshot = UpdateTarget(books), SnapshotTarget(books)
    for case in (ALLOWED | FORBIDDEN).values():
        for payload in (case, b" " + case + b"\n", b"{" + case + b"}", case + case):
            assert not update(payload)
            assert not snapshot(payload)
