"""How Binance numbers its depth updates, and what a book at a known id may do with the next one.

Rule 1: the two families differ in data (`SequenceRule`), never in an ``if`` on an exchange's name.
Rule 2: this module is the definition. The compiled book judges ids itself; the tests hold it to `judge`.
Rule 3: nothing here knows levels, prices, sockets or time.

Theory of operation. An update carries the first and the last id of the changes folded into it (`U` and `u`), on
futures also the last id of the update before it on the same stream (`pu`). It says what every level it names is after
`u`; so it covers the ids from its *start*, exclusive, to `u`, inclusive. On spot the ids of a market are counted
without holes and the start is ``U - 1``. On futures one counter serves all markets of an engine: between two updates
of one market there are holes (2,788 of 2,797 recorded pairs had ``U > pu + 1``), so that only `pu` chains, and the
start is `pu`. Testing ``U == last u + 1`` on futures would see a gap nearly every time.

A book at `book_id` meets an update:

    u <= book_id            STALE     the book already has all of it
    start <= book_id < u    APPLIED   quantities are absolute, so an overlap is harmless
    book_id < start         GAP       what happened in between is lost

On one connection ``start == book_id`` held in every recorded pair; an overlap comes from a second connection, whose
windows have other borders. One exception: a futures snapshot's id usually lies *inside* an update, or is the `u` of
one; Binance's procedure starts with the update that has ``U <= id <= u``. Accepting also ``pu <= id <= u`` is sound
(nothing lies between `pu` and `U`) and cannot end in refetching for ever when `u` of the last update before
the subscription was the snapshot's id. So the first update after a futures snapshot is also applied at ``u == id``.
"""

from dataclasses import dataclass

from ldc.types import Verdict

UPDATE_ID_MAX = 2**63 - 1
"""Ids are read as int64 (they stood at 4.6e12 in 2024); a larger one is refused, never wrapped."""


@dataclass(frozen=True, slots=True)
class SequenceRule:
    """How one family of markets numbers its updates."""

    name: str
    """What ``OrderBook(name)`` takes."""
    chains_by_previous_id: bool
    """The start of an update is its `pu`, which it must have; otherwise it is ``U - 1``."""
    first_update_may_end_at_snapshot: bool
    """The first update after a snapshot is applied when ``pu <= id <= u`` or ``U <= id <= u``."""


SPOT = SequenceRule("spot", chains_by_previous_id=False, first_update_may_end_at_snapshot=False)
FUTURES = SequenceRule("futures", chains_by_previous_id=True, first_update_may_end_at_snapshot=True)

RULES = {rule.name: rule for rule in (SPOT, FUTURES)}


def resolve_rule(rule: str | SequenceRule) -> SequenceRule:
    """Return the rule of that name, or the rule itself; raise ``ValueError`` with the valid names otherwise."""
    if isinstance(rule, SequenceRule):
        return rule
    if isinstance(rule, str) and rule in RULES:
        return RULES[rule]
    raise ValueError(f"no sequence rule {rule!r}; the rules are {', '.join(map(repr, RULES))}, or a SequenceRule")


def check_ids(
    rule: SequenceRule, first_update_id: int | None, last_update_id: int | None, previous_update_id: int | None
) -> str | None:
    """Return what is wrong with the ids of an update, or None. With wrong ids it is not a depth update at all."""
    if first_update_id is None or last_update_id is None:
        return "U or u is missing"
    if previous_update_id is None and rule.chains_by_previous_id:
        return "pu is missing, and these updates chain by it"
    if first_update_id > last_update_id:
        return "U is past u"
    if previous_update_id is not None and previous_update_id >= last_update_id:
        return "pu is not before u"
    return None


def start_id(rule: SequenceRule, first_update_id: int, previous_update_id: int | None) -> int:
    """Return the id that a book must have reached for the update to continue it."""
    if rule.chains_by_previous_id:
        assert previous_update_id is not None, "check_ids() comes first"
        return previous_update_id
    return first_update_id - 1


def judge(
    rule: SequenceRule,
    book_id: int,
    is_first_after_snapshot: bool,
    first_update_id: int,
    last_update_id: int,
    previous_update_id: int | None,
) -> Verdict:
    """Return what a book at `book_id` does with an update whose ids passed `check_ids`.

    `is_first_after_snapshot`: no update has been applied since the snapshot. A pure function, O(1).
    """
    start = start_id(rule, first_update_id, previous_update_id)
    if is_first_after_snapshot and rule.first_update_may_end_at_snapshot:
        if min(start, first_update_id) <= book_id <= last_update_id:
            return Verdict.APPLIED
    if last_update_id <= book_id:
        return Verdict.STALE
    if start <= book_id:
        return Verdict.APPLIED
    return Verdict.GAP
