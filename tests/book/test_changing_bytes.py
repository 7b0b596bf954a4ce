"""Bytes that change while they are read, as a mapped file can: any message may come of it, or none, but no harm.

What it proves. The writer is another process that shares the memory, so bytes change between any two reads of the C
code, with a GIL as without. Each round must end in a verdict or in `MalformedMessage`. It must leave a book whose
invariants hold and whose last header can be read. A read or a write past the bytes is a crash, at once in the sanitized
build (`make check`). What it cannot prove is that the harmful moment was met. It is met often, but not on purpose: the
first case crashed each time while `unescape` did not end at an invalid escape.

A thread that writes says little where there is a GIL, for it never runs while a message is read. Without a GIL it is as
good as the process. The book in plain Python copies a message before it reads it.
"""

import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from messages import make_update

ROUNDS = {"ldc._book": 5_000, "ldc.book.pure.book": 50}

ESCAPED = "".join(f"\\u{ord(character):04x}" for character in "BTCUSD") + "T"
LEVELS = [[f"{100 - level}.10", "1.5"] for level in range(100)]
UPDATE = make_update(101, bids=LEVELS, stream="btcusdt@depth\u00e9\u4f60", s="SYMBOL")
UPDATE = UPDATE.replace(b"SYMBOL", ESCAPED.encode())
NUMBER = b"00000000000000000099.1000000000"
KEY = b"\\u0070u"
CAREFUL = UPDATE.replace(b"99.10", NUMBER).replace(b'"b"', b'"\\u0062"').replace(b'"U"', b'"%s":100,"U"' % KEY)

CASES = {
    # name: the message, and what of it changes: (its first appearance, the byte in it, what that turns to)
    "the end of an escaped symbol": (UPDATE, [(ESCAPED.encode(), -1, b"\\")]),
    "an escape in a symbol": (UPDATE, [(ESCAPED.encode(), place, b"u\\0x") for place in range(len(ESCAPED))]),
    "the end of an escaped key": (CAREFUL, [(KEY, -1, b"\\")]),
    "the numbers of a level": (CAREFUL, [(NUMBER, place, b'.0"\\:') for place in range(len(NUMBER))]),
    "any byte": (CAREFUL, [(CAREFUL, place, b'\\"0.,]}\xc3') for place in range(len(CAREFUL))]),
}

WRITER = """
import mmap, random, sys
places = eval(sys.argv[2])
rng = random.Random(int(sys.argv[3]))
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
    sound = bytes(memory)
    print("ready", flush=True)
    while True:
        for place, turned in rng.sample(places, len(places)):
            for _ in range(20):
                memory[place] = rng.choice(turned)
                memory[place] = sound[place]
"""

READER = """
import mmap, random, sys, threading
from importlib import import_module
from ldc.errors import MalformedMessage
from messages import make_snapshot

module = import_module(sys.argv[1])
snapshot = make_snapshot([("100.10", "1")], [("300.10", "1")], 100)
book = module.OrderBook("spot", symbol="BTCUSDT")

def read(payload):
    book.load_snapshot(snapshot)
    try:
        book.apply(payload)
    except MalformedMessage:
        pass
    book.check()
    book.last_header
    for read in (book.load_snapshot, module.read_header):
        try:
            read(payload)
        except MalformedMessage:
            pass

with open(sys.argv[2], "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
    payload = memory
    if sys.argv[4] == "thread":
        places, rng, payload = eval(sys.argv[5]), random.Random(int(sys.argv[6])), bytearray(memory)
        sound, is_over = bytes(payload), threading.Event()

        def write():
            while not is_over.is_set():
                place, turned = rng.choice(places)
                payload[place] = rng.choice(turned)
                payload[place] = sound[place]

        thread = threading.Thread(target=write)
        thread.start()
    for _ in range(int(sys.argv[3])):
        with memoryview(payload) as view:
            read(view)
    if payload is not memory:
        is_over.set()
        thread.join()
"""


@pytest.mark.parametrize(("case", "writer"), [*((case, "process") for case in CASES), ("any byte", "thread")])
def test_bytes_that_change_while_they_are_read_do_no_harm(
    books: ModuleType, case: str, writer: str, tmp_path: Path
) -> None:
    message, changes = CASES[case]
    rounds = str(ROUNDS[books.__name__])
    seed = random.randrange(2**32)
    places = [(message.index(what) + place % len(what), list(turned)) for what, place, turned in changes]
    file = tmp_path / "message"
    file.write_bytes(message)
    path = {"PYTHONPATH": ":".join(sys.path)}
    read = [sys.executable, "-P", "-c", READER, books.__name__, str(file), rounds, writer, repr(places), str(seed)]
    write = [sys.executable, "-P", "-c", WRITER, str(file), repr(places), str(seed)]
    if writer == "thread":
        subprocess.run(read, env=os.environ | path, check=True, timeout=300)
        return
    with subprocess.Popen(write, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            done = subprocess.run(read, env=os.environ | path, check=False, timeout=300)
            assert done.returncode == 0, f"seed {seed}"
            assert other.poll() is None
        finally:
            other.kill()
