"""What fuzzing begins with: messages made by code, the cases of JSON, real messages; and the alphabet."""

import random
from collections.abc import Iterator
from pathlib import Path

import json_cases
from messages import make_snapshot, make_update
from recordings import RECORDINGS, messages_of

SEED_BYTES_MAX = 2_000
REAL_MESSAGES_PER_RECORDING = 60

NUMBERS = (
    "0", "1", "0.0", "00.100", "61737.63000000", "0.00000001", "2671.65", "20.506", "92233720368.54775807",
    "9223372036854775807", "9223372036854775808", "92233720368.54775808", "9.223372036854775807",
    "0.000000000000000001",
    "0.0000000000000000010", "0.0000000000000000001", "999999999999999", "9999999999999999", "123456789012345.12345678",
    "1.123456789", "922337203685.47758070", "1e5", "-1", "+1", ".5", "5.", "", " 1", "1 ", "1_0", "NaN", "\\u0031.5",
    "-0", "-9223372036854775808", "-9223372036854775809", "1.5e3", "0x10", "\u0661",
)  # fmt: skip

TOKENS = (
    *(f'"{key}":' for key in ("e", "E", "T", "s", "U", "u", "pu", "b", "a", "ps", "st", "stream", "data", "x")),
    *(f'"{key}":' for key in ("lastUpdateId", "bids", "asks")),
    '"depthUpdate"', "true", "false", "null", "[]", "{}", "[[", "]]", '["', '"]', '","', "],[", "},{", "\\u", "\\u0055",
    "\\ud83d\\ude00", "\\\\", '\\"', "\u20ac", "\U0001f600", " ", "\t\r\n", "0.00000000", "e+", "E-", ".",
    "0000000000000000", '"1","0"', '["1","1"],',
)  # fmt: skip


def made_up(target: str) -> list[bytes]:
    """Return the messages that code can make; the same in every run."""
    if target == "number":
        return [number.encode() for number in NUMBERS]
    levels = [("1", "2"), ("61737.63000000", "0.00000000"), ("2671.65", "20.506"), ("1.50", "0"), ("1.5", "3")]
    if target == "snapshot":
        made = [
            make_snapshot(),
            make_snapshot(levels[:1], levels[1:2], 7),
            make_snapshot([("3", "1"), ("1", "1"), ("2", "0.5")], [("4.5", "1"), ("4.25", "0")], 2**63 - 1, E=5, T=6),
            *(make_snapshot([], [(number, number)]) for number in NUMBERS),
        ]
        frames = (
            b'{"x":%s,"lastUpdateId":9,"bids":[["1","1"]],"asks":[]}',
            b'{"lastUpdateId":9,"E":%s,"bids":[],"asks":[]}',
        )
    else:
        made = [
            make_update(2, 3, 1, bids=levels, asks=levels, T=5, ps="X", st=1),
            make_update(2, 3, 1, bids=levels[::-1], stream="btcusdt@depth@100ms"),
            b'{"data":{},"stream":"x"}',
            b'{"data":{"U":2,"u":3,"b":[],"a":[]}, "stream" : "x", "x" : [ ] }',
            make_update(50093239189, 50093239202, asks=[("61837.64000000", "1.54698000")] * 3),
            *(make_update(2, bids=[(number, "1"), ("1", number)]) for number in NUMBERS),
            *(make_update(2, asks=[(number, "0"), ("3", "0")]) for number in NUMBERS),
            # Many short levels up to the end of the message, where one reads too far most easily.
            *(make_update(2, 3, 1, asks=[(f"{price}.5", "2") for price in range(count)]) for count in range(1, 20)),
            *(f'{{"U":2,"u":3,"b":[],"a":[],"E":{number},"pu":{number}}}'.encode() for number in NUMBERS),
        ]
        frames = b'{"x":%s,"U":2,"u":3,"b":[["1","1"]],"a":[]}', b'{"data":{"U":2,"u":3,"b":[],"a":[],"E":%s}}'
    for value in (json_cases.ALLOWED | json_cases.FORBIDDEN).values():
        made += [frame % value for frame in frames]
    return [message for message in made if len(message) <= SEED_BYTES_MAX]


def recorded(target: str, captures: Path) -> Iterator[bytes]:
    """Yield real messages, drawn with a fixed seed; the levels of snapshots are cut to a few."""
    dice = random.Random(5)
    for name in RECORDINGS:
        messages = messages_of(captures, name)
        if target == "snapshot":
            for body in (message.payload for message in messages if message.kind == "snapshot"):
                yield shortened(body)
            continue
        payloads = [m.payload for m in messages if m.kind == "depthUpdate" and len(m.payload) <= SEED_BYTES_MAX]
        for payload in dice.sample(payloads, min(REAL_MESSAGES_PER_RECORDING, len(payloads))):
            yield payload if target == "update" else payload.split(b'[["')[-1].split(b'"')[0]


def shortened(body: bytes) -> bytes:
    """Return a snapshot with the first five levels of each side."""
    parts = body.split(b"]]")
    return b"]]".join(b"],".join(part.split(b"],")[:5]).removesuffix(b"]") for part in parts[:-1]) + b"]]" + parts[-1]


def corpus(target: str, captures: Path | None) -> list[bytes]:
    """Return all seeds of a target."""
    return made_up(target) + (list(recorded(target, captures)) if captures else [])


def dictionary() -> str:
    """Return the alphabet in the form that libFuzzer reads."""
    quoted = ("".join(f"\\x{byte:02x}" for byte in token.encode()) for token in (*TOKENS, *NUMBERS) if token)
    return "".join(f'"{token}"\n' for token in quoted)


def mutated(dice: random.Random, seeds: list[bytes], length_max: int = 4096) -> bytes:
    """Return a seed after one to four changes, without any knowledge of what a change did."""
    data = dice.choice(seeds)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 4))):
        at, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
        match dice.randrange(9):
            case 0:
                data = data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[min(end, at + dice.randrange(1, 9)) :]
            case 2 | 3:
                data = data[:at] + dice.choice(TOKENS).encode() + data[at + dice.choice((0, 0, 1, 4)) :]
            case 4:
                data = data[:at] + dice.choice(NUMBERS).encode() + data[at + dice.choice((0, 1, 8)) :]
            case 5:
                data = data[:end] + data[at:end] + data[end:]
            case 6:
                other = dice.choice(seeds)
                data = data[:at] + other[dice.randrange(len(other) + 1) :]
            case 7:
                data = data[:at] + dice.choice(b'0123456789.,:"{}[]\\eEuUbap- \x00\x7f\x80').to_bytes() + data[at + 1 :]
            case _:
                data = data[:at] if dice.random() < 0.3 else data[:at] + data[at:end][::-1] + data[end:]
    return data[:length_max]
