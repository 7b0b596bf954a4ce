"""The commands of a cluster: `ldc node`, and `ldc cluster status|markets|add|remove|drain|events`.

Rule 1: only these two commands import `ldc.cluster`, because it needs Zenoh.
Rule 2: SIGTERM and Ctrl-C drain a node: it serves until others have its markets. The second signal ends it at once.
Rule 3: with --json one document is written, for programs; `events` writes one a line.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from ldc.cli.log import logged_to
from ldc.cli.signals import Interruption
from ldc.cli.watch import ExitStatus, is_live_terminal
from ldc.cluster import operation
from ldc.cluster.node import Node
from ldc.cluster.operation import ClusterReport
from ldc.cluster.reader import ClusterBooks

if TYPE_CHECKING:
    from ldc.gateway import Gateway

logger = logging.getLogger("binance_local_depth_cache")

REDRAW_S = 1.0
"""Seconds between two statuses of the live view."""

LOOK_S = 0.5
"""Seconds between two looks whether a node still runs."""


def made_node(options: argparse.Namespace) -> Node:
    """Return the node of the options, not started yet. Raises ``ValueError`` for wrong ones."""
    manager: dict[str, Any] = {}
    for name in ("restful_base_uri", "websocket_base_uri"):
        uris = getattr(options, name)
        if uris:
            manager[name] = uris[0] if len(uris) == 1 else uris
    if options.share is not None:
        manager["share"] = options.share
    return Node(
        options.cluster,
        options.name,
        exchange=options.exchange,
        markets=[market for text in (*options.named, *options.markets) for market in text.split(",") if market],
        replicas=options.replicas,
        connect=options.connect,
        listen=options.listen,
        zone=options.zone,
        weight=options.weight,
        levels=options.levels,
        config=options.config,
        insecure=options.insecure,
        manager=manager,
    )


def made_gateway(node: Node, options: argparse.Namespace) -> "Gateway | None":
    """Return the gateway of a node, not started yet; None: there shall be none. The cluster decides what is kept."""
    if options.gateway is None:
        return None
    from ldc.cli.serve import read_token
    from ldc.gateway import Gateway

    return Gateway(
        node.manager,
        host=options.gateway_host,
        port=options.gateway,
        token=None if options.token_file is None else read_token(options.token_file),
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        allowed_hosts=options.allow_host,
        read_only=True,
        elsewhere=node.gateway_of,
    )


def run_node(
    node: Node, interruption: Interruption, drain_s: float, seconds: float | None, stream: TextIO
) -> ExitStatus:
    """Keep markets until the time is over or a signal ends it; then drain. The node is started already."""
    with logged_to(stream):
        return _run_node(node, interruption, drain_s, seconds)


def _run_node(node: Node, interruption: Interruption, drain_s: float, seconds: float | None) -> ExitStatus:
    ends_at = None if seconds is None else time.monotonic() + seconds
    logger.info("node %s of the cluster %s runs", node.name, node.keys.cluster)
    while not interruption.wait(LOOK_S if ends_at is None else min(LOOK_S, ends_at - time.monotonic())):
        if node.status().state == "stopped":
            return ExitStatus.OUT_OF_SYNC
        if ends_at is not None and time.monotonic() >= ends_at:
            break
    logger.info("node %s drains: its markets are served until other nodes have them", node.name)
    node.drain()
    if not node.wait_until_drained(drain_s):
        logger.warning("node %s ends with %d markets that no other node took", node.name, node.status().markets)
    node.stop()
    logger.info("node %s has ended", node.name)
    return ExitStatus.SYNCHRONIZED


def operate(options: argparse.Namespace, stream: TextIO) -> ExitStatus:
    """Run `ldc cluster`. Raises `DepthCacheClusterNotReachableError` without a node, ``ValueError`` for wrong words."""
    with ClusterBooks(options.cluster, connect=options.connect, config=options.config) as books:
        operation.wait_for_nodes(books, options.timeout)
        return _ACTIONS[options.action](books, options, stream)


def _status(books: ClusterBooks, options: argparse.Namespace, stream: TextIO) -> ExitStatus:
    report = operation.report(books)
    if options.json:
        stream.write(json.dumps(report.as_json()) + "\n")
    elif is_live_terminal(stream) and not options.plain:
        report = _live(books, report)
    else:
        stream.write(status_text(report))
    return ExitStatus.OUT_OF_SYNC if report.uncovered else ExitStatus.SYNCHRONIZED


def _live(books: ClusterBooks, report: ClusterReport) -> ClusterReport:
    """Show the status until q or Ctrl-C; return the last one."""
    from rich.live import Live
    from rich.text import Text

    with Interruption() as interruption, interruption.keyboard(sys.stdin), Live(screen=True) as live:
        while True:
            live.update(Text(status_text(report)))
            if interruption.wait(REDRAW_S):
                return report
            report = operation.report(books)


def status_text(report: ClusterReport) -> str:
    """Return a report as two tables."""
    lines = [f"{'node':<20} {'state':<10} {'zone':<12} {'weight':>6} {'replicas':>8}  gateway"]
    for node in report.nodes:
        zone, gateway = node.zone or "-", node.gateway or "-"
        lines.append(f"{node.name:<20} {node.state:<10} {zone:<12} {node.weight:>6g} {node.replicas:>8}  {gateway}")
    lines += ["", f"{'market':<20} {'replicas':>8}  where (update id, age; - is not synchronized)"]
    for market, replicas in report.markets.items():
        count = f"{sum(each.synchronized for each in replicas)}/{report.promised.get(market, 0)}"
        where = "  ".join(
            f"{each.node} {each.last_update_id} {each.age_ms:.0f} ms"
            if each.synchronized and each.age_ms is not None
            else f"{each.node} -"
            for each in replicas
        )
        lines.append(f"{market:<20} {count:>8}  {where or '-'}")
    return "\n".join([*lines, ""])


def _markets(books: ClusterBooks, options: argparse.Namespace, stream: TextIO) -> ExitStatus:
    wanted = {market: entry.replicas for market, entry in operation.wanted_list(books).items() if entry.is_wanted}
    if options.json:
        stream.write(json.dumps({"markets": wanted}) + "\n")
    else:
        stream.write("".join(f"{market:<20} {replicas}\n" for market, replicas in sorted(wanted.items())))
    return ExitStatus.SYNCHRONIZED


def _add(books: ClusterBooks, options: argparse.Namespace, stream: TextIO) -> ExitStatus:
    return _told(operation.add(books, options.markets, options.replicas), "added", options, stream)


def _remove(books: ClusterBooks, options: argparse.Namespace, stream: TextIO) -> ExitStatus:
    return _told(operation.remove(books, options.markets), "removed", options, stream)


def _drain(books: ClusterBooks, options: argparse.Namespace, stream: TextIO) -> ExitStatus:
    operation.drain(books, options.node, not options.undo)
    return _told([options.node], "takes markets again" if options.undo else "drains", options, stream)


def _told(changed: list[str], what: str, options: argparse.Namespace, stream: TextIO) -> ExitStatus:
    if options.json:
        stream.write(json.dumps({"changed": changed}) + "\n")
    else:
        stream.write("".join(f"{name} {what}\n" for name in changed) or "nothing to change\n")
    return ExitStatus.SYNCHRONIZED


def _events(books: ClusterBooks, options: argparse.Namespace, stream: TextIO) -> ExitStatus:
    """Write what happens, a line each, until the time is over or the user ends it."""

    def write(kind: str, node: str, market: str | None) -> None:
        event = {"time": round(time.time(), 3), "event": kind, "node": node, "market": market}
        text = json.dumps(event) if options.json else f"{event['time']:.3f} {kind} {node} {market or ''}".rstrip()
        stream.write(text + "\n")
        stream.flush()

    ends_at = None if options.seconds is None else time.monotonic() + options.seconds
    with Interruption() as interruption:
        books.observe(write)
        while not interruption.wait(1.0 if ends_at is None else min(1.0, ends_at - time.monotonic())):
            if ends_at is not None and time.monotonic() >= ends_at:
                break
    books.observe(None)
    return ExitStatus.SYNCHRONIZED


_ACTIONS: dict[str, Callable[[ClusterBooks, argparse.Namespace, TextIO], ExitStatus]] = {
    "status": _status,
    "markets": _markets,
    "add": _add,
    "remove": _remove,
    "drain": _drain,
    "events": _events,
}
