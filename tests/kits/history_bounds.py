"""What the oracles of the simulated histories allow, in numbers.

Rule 1: the numbers are promises: docs/reliability.md states each of them, under "Bounds of the oracles". None is
        imported from the implementation, or a wrong constant there would move the oracle with it.
"""

REFUSED_IN_A_ROW_MAX = 2
"""Snapshots in a row that a market may refuse as implausible. More would keep it out of sync without need."""

BACKOFF_S_FIRST = 1.0
"""The longest first backoff after useless snapshots. The second may be twice as long, and so on."""

BACKOFF_S_MAX = 30.0
"""The longest backoff, of downloads that fail. What a full buffer spans is more."""

USELESS_S_MAX = 2.0
"""The longest backoff after snapshots that came and were of no use."""

RESTART_AFTER_SNAPSHOT_S = 10.0
"""How long after a snapshot restarted ids may stay unnoticed: until then REST may have been ahead of the stream."""

RESTART_WITHOUT_TIMES_S = 10.0
"""How long restarted ids may stay unnoticed if no event time shows them."""

LEASE_S = 9.0
"""How old the last proof of a book that can be read may be: ping interval (5) + ping timeout (3) + 1."""

REFRESH_AHEAD_S_MAX = 300.0
"""How long a refresh may wait for a stream that does not reach its snapshot."""
