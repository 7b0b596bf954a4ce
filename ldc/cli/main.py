"""The command line: `ldc watch`, `ldc demo`, `ldc simulate`, `ldc feed`, `ldc serve`, `ldc node`, `ldc cluster`.

Rule 1: this module interprets the command line; the other modules of the package produce the output.
Rule 2: the exit status reports the result; `ExitStatus` has its values, `--help` their meaning.
"""

import argparse
import io
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ldc._version import __version__
from ldc.book import IMPLEMENTATION
from ldc.cli.completion import SHELLS, completion_of
from ldc.cli.log import LEVELS, logged_to
from ldc.cli.plain import FIELDS
from ldc.cli.shared import SharedSource
from ldc.cli.shared import feed as run_feed
from ldc.cli.signals import Interruption
from ldc.cli.watch import ExitStatus, Source, Watch, is_live_terminal
from ldc.errors import DepthCacheError
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.shared import Publisher, SharedBooks
from ldc.venues import VENUES

if TYPE_CHECKING:
    from ldc.simulator import Fault

EXIT_STATUS = """
exit status:
  0    every market was in sync when it ended, be it by --seconds, q or Ctrl-C
  1    at least one market was not
  2    the command line is wrong; nothing was started
  3    something that it needs is missing: an extra is not installed, or a port is taken
  130  Ctrl-C was pressed twice
"""

OUTPUT = (
    """
A terminal shows a live view. Anywhere else (a pipe, a file), or with --plain, the output is one line a second and
market: name=value, separated by single blanks. "-" is an unknown value, or one of a book that is not in sync.

"""
    + "\n".join(f"  {name:<18}{meaning}" for name, meaning in FIELDS.items())
    + "\n"
)

DESCRIPTION = "Exact local copies of Binance order books."

EXAMPLES = """
examples:
  ldc demo                                 a live book without a network
  ldc demo BTCUSDT ETHUSDT --fault drop:0.01
  ldc watch BTCUSDT --exchange binance.com-futures
  ldc watch BTCUSDT --plain | cut -d' ' -f2-8
  ldc simulate --port 8000                 an exchange for your own bot
  ldc serve BTCUSDT --open                 a page with the book, and Binance's own paths
  ldc feed BTCUSDT --share desk            books for other processes; then: ldc watch --shared desk
  source <(ldc completion bash)            completion by the Tab key; also zsh, fish

`ldc COMMAND --help` has the options of a command.
"""

FAULTS = """
faults:
  drop             once, when all markets are in sync      drop*3   three times
  drop:0.01        one update in a hundred                 reset@BTCUSDT   the connection of that market
  halt@BTCUSDT~5   for five seconds                        a wrong name is answered with all valid ones
"""


SERVED = """
The page is at the address that it prints. docs/gateway.md has the paths, the dialects and the rules of access.
"""

NODE_EXIT_STATUS = """
exit status:
  0    SIGTERM, SIGINT or --seconds ended it, after its markets were served until other nodes had them
  1    it ended by a fault of ldc
  2    the command line is wrong, or the cluster has a node of this name or another exchange
  3    the extra "cluster" is not installed, or an endpoint is taken
"""

CLUSTER_EXIT_STATUS = """
exit status:
  0    it was done; of status: every market has its replicas
  1    of status: a market has fewer synchronized replicas than promised
  2    the command line is wrong, or a node refuses
  3    the extra "cluster" is not installed, or no node can be reached
"""

CLUSTER_ACTIONS = {
    "status": "show the nodes, and where each market is",
    "markets": "list the markets that the cluster keeps",
    "add": "let the cluster keep markets, or change the number of their replicas",
    "remove": "let the cluster keep markets no more",
    "drain": "let a node give its markets away, and serve on until others have them",
    "events": "print what happens to nodes and replicas, a line each",
}


KINDS = {"spot": "simulator", "futures": "simulator-futures"}
"""What `ldc demo --exchange-kind` of earlier versions meant."""

COMPLETION = """
bash:  source <(ldc completion bash)         in ~/.bashrc
zsh:   source <(ldc completion zsh)          in ~/.zshrc, after compinit
fish:  ldc completion fish | source          in ~/.config/fish/config.fish
"""


class CannotStart(Exception):
    """The command cannot start: the exit status, and a sentence for the user."""

    def __init__(self, status: ExitStatus, sentence: object) -> None:
        self.status = status
        super().__init__(sentence)


@contextmanager
def starting() -> Iterator[None]:
    """Turn errors before the start into `CannotStart`. After the start the same errors would be bugs of ldc."""
    try:
        yield
    except ValueError as error:
        raise CannotStart(ExitStatus.USAGE, error) from error
    except (ImportError, DepthCacheError, OSError) as error:
        raise CannotStart(ExitStatus.UNAVAILABLE, error) from error


def seconds(text: str) -> float:
    """Return a positive number of seconds."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return value


def positive(text: str) -> int:
    """Return a positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def port(text: str) -> int:
    """Return the number of a TCP port."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 (any) to 65535")
    return value


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options that `watch` and `demo` share."""
    parser.add_argument("--seconds", type=seconds, metavar="N", help="end after N seconds (default: at q or Ctrl-C)")
    parser.add_argument("--levels", type=positive, metavar="N", help="show at most N levels a side")
    parser.add_argument("--plain", action="store_true", help="lines instead of the view, on a terminal too")


def add_exchange(parser: argparse.ArgumentParser) -> None:
    """Add the options that `demo` and `simulate` share."""
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another seed, other markets (default: 1)")
    parser.add_argument("--fault", action="append", default=[], metavar="SPEC", help="inject a fault; may be repeated")


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the options that `watch` and `feed` share."""
    parser.add_argument("--exchange", default="binance.com", metavar="NAME", help=f"one of {', '.join(VENUES)}")
    parser.add_argument("--update-interval", type=positive, metavar="MS", help="of the streams (default: the fastest)")
    parser.add_argument("--restful-base-uri", metavar="URI", help="another address, such as http://127.0.0.1:8000")
    parser.add_argument("--websocket-base-uri", metavar="URI", help="another address, such as ws://127.0.0.1:8000")
    parser.add_argument("--proxy", metavar="URL", help="HTTP or SOCKS proxy for both")


def make_parser() -> argparse.ArgumentParser:
    """Return the definition of the command line."""
    raw: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="ldc", description=DESCRIPTION, epilog=EXAMPLES, **raw)
    parser.add_argument("--version", action="version", version=f"ldc {__version__} ({IMPLEMENTATION})")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    what = "show live order books of an exchange"
    watch = commands.add_parser("watch", help=what, description=what + ".", epilog=OUTPUT + EXIT_STATUS, **raw)
    watch.add_argument("markets", nargs="*", metavar="MARKET", help="such as BTCUSDT; case does not matter")
    watch.add_argument("--shared", metavar="NAME", help="read the books of `ldc feed --share NAME`; no network is used")
    add_output(watch)
    add_source(watch)

    what = "feed order books to other processes of this machine, by shared memory"
    feed = commands.add_parser("feed", help=what, description=what + ".", epilog=EXIT_STATUS, **raw)
    feed.add_argument("markets", nargs="+", metavar="MARKET", help="such as BTCUSDT; case does not matter")
    feed.add_argument("--share", required=True, metavar="NAME", help="what readers call it: ldc.SharedBooks(NAME)")
    feed.add_argument("--levels", type=positive, default=100, metavar="N", help="levels a side (default: 100)")
    feed.add_argument("--group", action="store_true", help="let this user's group read, too")
    feed.add_argument("--replace", action="store_true", help="take over from a feeder that hangs")
    feed.add_argument("--seconds", type=seconds, metavar="N", help="end after N seconds (default: at Ctrl-C)")
    add_source(feed)

    add_embedded(commands, raw)
    add_serve(commands, raw)
    add_cluster(commands, raw)

    what = "print what makes a shell complete the words of ldc"
    completion = commands.add_parser("completion", help=what, description=what + ".", epilog=COMPLETION, **raw)
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    return parser


def add_embedded(commands: Any, raw: dict[str, Any]) -> None:
    """Add `ldc demo` and `ldc simulate`. Words of earlier versions are accepted, and not shown."""
    hidden = argparse.SUPPRESS
    what = "show live order books of the embedded exchange, without a network"
    demo = commands.add_parser("demo", help=what, description=what + ".", epilog=FAULTS + OUTPUT + EXIT_STATUS, **raw)
    demo.add_argument("markets", nargs="*", metavar="MARKET", help="such as BTCUSDT (default: BTCUSDT)")
    demo.add_argument("--count", "--markets", type=positive, metavar="N", help="N markets, if none is named")
    demo.add_argument(
        "--exchange", choices=("simulator", "simulator-futures"), default="simulator", help="(default: simulator)"
    )
    demo.add_argument("--exchange-kind", choices=tuple(KINDS), help=hidden)
    demo.add_argument("--market", nargs="+", default=[], help=hidden)
    add_output(demo)
    add_exchange(demo)

    what = "serve the embedded exchange to programs on this machine"
    simulate = commands.add_parser("simulate", help=what, description=what + ".", epilog=FAULTS, **raw)
    simulate.add_argument("markets", nargs="*", metavar="MARKET", help="(default: every requested one)")
    simulate.add_argument("--markets", nargs="+", dest="market", default=[], help=hidden)
    simulate.add_argument("--port", type=port, default=8000, metavar="N", help="0 is any free one (default: 8000)")
    simulate.add_argument(
        "--exchange", "--venue", default="binance.com", metavar="NAME", help="the exchange to imitate"
    )
    simulate.add_argument("--seconds", type=seconds, metavar="N", help="end after N seconds (default: at Ctrl-C)")
    add_exchange(simulate)


def add_cluster(commands: Any, raw: dict[str, Any]) -> None:
    """Add `ldc node` and `ldc cluster`."""
    what = "keep markets for a cluster of machines"
    node = commands.add_parser("node", help=what, description=what + ".", epilog=NODE_EXIT_STATUS, **raw)
    node.add_argument("--cluster", required=True, metavar="NAME", help="the name of the cluster")
    node.add_argument("--name", metavar="NAME", help="of this node (default: the name of the machine)")
    node.add_argument("--exchange", default="binance.com", metavar="NAME", help=f"one of {', '.join(VENUES)}")
    node.add_argument("named", nargs="*", metavar="MARKET", help="the cluster shall keep these")
    node.add_argument("--markets", action="append", default=[], metavar="A,B", help="the same, by commas")
    node.add_argument("--replicas", type=positive, default=2, metavar="N", help="nodes for each of them (default: 2)")
    node.add_argument("--listen", action="append", default=[], metavar="ENDPOINT", help="such as tcp/127.0.0.1:7447")
    add_connect(node)
    node.add_argument("--zone", metavar="NAME", help="replicas of a market are in different zones, if possible")
    node.add_argument("--weight", type=float, default=1.0, metavar="X", help="share of the markets (default: 1)")
    node.add_argument("--levels", type=positive, default=20, metavar="N", help="levels a side to push (default: 20)")
    node.add_argument("--restful-base-uri", action="append", default=[], metavar="URI", help="another address")
    node.add_argument("--websocket-base-uri", action="append", default=[], metavar="URI", help="another address")
    node.add_argument("--gateway", type=port, metavar="PORT", help="serve the books by HTTP too, as ldc serve does")
    node.add_argument("--gateway-host", default="127.0.0.1", metavar="HOST", help="(default: 127.0.0.1)")
    node.add_argument("--gateway-uri", metavar="URI", help="by which other nodes reach it (default: host and port)")
    node.add_argument("--token-file", metavar="FILE", help="its first line is the token that the gateway demands")
    node.add_argument("--tls-cert", metavar="FILE", help="certificate of the gateway, PEM")
    node.add_argument("--tls-key", metavar="FILE", help="its key, PEM")
    node.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name of this machine")
    node.add_argument("--share", metavar="NAME", help="publish the books of this node in shared memory")
    node.add_argument("--insecure", action="store_true", help="listen on a network address without TLS")
    node.add_argument("--drain-seconds", type=seconds, default=30.0, metavar="N", help="(default: 30)")
    node.add_argument("--seconds", type=seconds, metavar="N", help="end after N seconds (default: at a signal)")

    what = "show and change a cluster"
    cluster = commands.add_parser("cluster", help=what, description=what + ".", epilog=CLUSTER_EXIT_STATUS, **raw)
    actions = cluster.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in CLUSTER_ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text + ".")
        action.add_argument("--cluster", required=True, metavar="NAME", help="the name of the cluster")
        add_connect(action)
        action.add_argument("--json", action="store_true", help="for programs")
        action.add_argument("--timeout", type=seconds, default=5.0, metavar="N", help="wait for a node (default: 5)")
        if name in ("add", "remove"):
            action.add_argument("markets", nargs="+", metavar="MARKET", help="such as BTCUSDT")
        if name == "add":
            action.add_argument("--replicas", type=positive, default=2, metavar="N", help="(default: 2)")
        if name == "status":
            action.add_argument("--plain", action="store_true", help="once, on a terminal too")
        if name == "drain":
            action.add_argument("node", metavar="NODE", help="its name")
            action.add_argument("--undo", action="store_true", help="let it take markets again")
        if name == "events":
            action.add_argument("--seconds", type=seconds, metavar="N", help="end after N seconds")


def add_connect(parser: argparse.ArgumentParser) -> None:
    """Add the options that lead to a cluster."""
    parser.add_argument("--connect", action="append", default=[], metavar="ENDPOINT", help="of a node; may be repeated")
    parser.add_argument("--config", metavar="FILE", help="Zenoh's configuration: TLS, users, access control")


def add_serve(commands: Any, raw: dict[str, Any]) -> None:
    """Add the definition of `ldc serve`."""
    what = "serve order books to other programs and to browsers, by HTTP and websockets"
    serve = commands.add_parser("serve", help=what, description=what + ".", epilog=SERVED + EXIT_STATUS, **raw)
    serve.add_argument("markets", nargs="+", metavar="MARKET", help="such as BTCUSDT; case does not matter")
    serve.add_argument("--exchange", default="binance.com", metavar="NAME", help=f"one of {', '.join(VENUES)}")
    for name in ("--restful-base-uri", "--websocket-base-uri"):
        serve.add_argument(name, action="append", metavar="URI", help="another address; repeated: others of the same")
    serve.add_argument("--redundancy", type=positive, default=1, metavar="N", help="websockets a market (default: 1)")
    serve.add_argument("--host", default="127.0.0.1", metavar="HOST", help="(default: 127.0.0.1, this machine only)")
    serve.add_argument("--port", type=port, default=8080, metavar="N", help="0 is any free one (default: 8080)")
    serve.add_argument("--token-file", metavar="FILE", help="its first line is the token that requests must carry")
    serve.add_argument("--no-token", action="store_true", help="another host without a token: the books are public")
    serve.add_argument("--tls-cert", metavar="FILE", help="certificate, PEM, for https and wss")
    serve.add_argument("--tls-key", metavar="FILE", help="its key, PEM")
    serve.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name of this machine")
    serve.add_argument("--read-only", action="store_true", help="clients create and stop no depth caches")
    serve.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="of standard error (default: text)"
    )
    serve.add_argument("--log-level", choices=LEVELS, default="info", help="(default: info)")
    serve.add_argument("--open", action="store_true", help="open the page in a browser")
    serve.add_argument("--seconds", type=seconds, metavar="N", help="end after N seconds (default: at a signal)")


def parsed_faults(texts: Sequence[str]) -> "list[Fault]":
    """Return the faults of the command line; raise ``ValueError`` for a wrong one."""
    if not texts:
        return []
    from ldc.simulator import parse_fault

    return [parse_fault(text) for text in texts]


def watch(options: argparse.Namespace) -> ExitStatus:
    """Run `ldc watch`."""
    is_live = wants_view(options)
    if options.shared is not None:
        with starting():
            source = SharedSource(SharedBooks(options.shared), options.markets)
        return make_watch(options, source, f"ldc watch --shared {options.shared}").run(is_live=is_live)
    with starting():
        manager = make_manager(options)
    with manager:
        with starting():
            manager.create_depth_cache(options.markets)
        return make_watch(options, manager, f"ldc watch {options.exchange}").run(is_live=is_live)


def feed(options: argparse.Namespace) -> ExitStatus:
    """Run `ldc feed`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    with starting():
        publisher = Publisher(options.share, levels=options.levels, group=options.group, replace=options.replace)
    with publisher:
        with starting():
            manager = make_manager(options, share=publisher)
        with manager:
            with starting():
                manager.create_depth_cache(options.markets)
            logging.getLogger().addHandler(handler)
            try:
                return run_feed(manager, options.share, publisher.folder, options.seconds, sys.stdout)
            finally:
                logging.getLogger().removeHandler(handler)


def make_manager(options: argparse.Namespace, **named: Any) -> BinanceLocalDepthCacheManager:
    """Return the manager of the options that `watch` and `feed` share."""
    return BinanceLocalDepthCacheManager(
        options.exchange,
        depth_cache_update_interval=options.update_interval,
        restful_base_uri=options.restful_base_uri,
        websocket_base_uri=options.websocket_base_uri,
        proxy=options.proxy,
        **named,
    )


def demo(options: argparse.Namespace) -> ExitStatus:
    """Run `ldc demo`."""
    is_live = wants_view(options)
    with starting():
        from ldc.cli.simulate import FaultInjector, demo_exchange, demo_markets

        faults = parsed_faults(options.fault)
        venue = KINDS.get(options.exchange_kind, options.exchange)
        named = [*options.markets, *options.market]
        if named and options.count:
            raise ValueError("name the markets or their number, not both")
        markets = demo_markets(venue, named, options.count)
        exchange = demo_exchange(venue, markets, options.seed).start()
    with exchange:
        manager = BinanceLocalDepthCacheManager(
            venue, restful_base_uri=exchange.restful_base_uri, websocket_base_uri=exchange.websocket_base_uri
        )
        with manager:
            manager.create_depth_cache(markets)
            view = make_watch(options, manager, f"ldc demo {venue}")
            view.on_round = FaultInjector(exchange, faults).round
            return view.run(is_live=is_live)


def simulate(options: argparse.Namespace) -> ExitStatus:
    """Run `ldc simulate`."""
    with starting():
        from ldc.cli.simulate import serve, served_exchange

        faults = parsed_faults(options.fault)
        markets = [*options.markets, *options.market]
        exchange = served_exchange(options.port, markets, options.exchange, options.seed).start()
    with exchange:
        for fault in faults:
            exchange.inject(fault)
        return serve(exchange, markets, options.exchange, options.seed, options.seconds, sys.stdout)


def serve(options: argparse.Namespace) -> ExitStatus:
    """Run `ldc serve`."""
    with logged_to(sys.stderr, options.log_format, options.log_level):
        with starting():
            from ldc.cli.serve import read_token, run
            from ldc.gateway import Gateway

            manager = BinanceLocalDepthCacheManager(
                options.exchange,
                redundancy=options.redundancy,
                restful_base_uri=options.restful_base_uri,
                websocket_base_uri=options.websocket_base_uri,
            )
            gateway = Gateway(
                manager,
                host=options.host,
                port=options.port,
                token=None if options.token_file is None else read_token(options.token_file),
                no_token=options.no_token,
                tls_cert=options.tls_cert,
                tls_key=options.tls_key,
                allowed_hosts=options.allow_host,
                read_only=options.read_only,
            )
        with manager:
            with starting():
                manager.create_depth_cache(options.markets)
                gateway.start()
            with gateway:
                return run(
                    manager,
                    gateway,
                    options.markets,
                    seconds=options.seconds,
                    opens_browser=options.open,
                    stream=sys.stdout,
                )


def node(options: argparse.Namespace) -> ExitStatus:
    """Run `ldc node`."""
    with starting():
        from ldc.cli.cluster import made_gateway, made_node, run_node

        made = made_node(options)
        gateway = made_gateway(made, options)
    with Interruption() as interruption:  # before the start, so that no signal ends a node that has joined
        with starting():
            made.start()
        with made, ExitStack() as stack:
            if gateway is not None:
                with starting():
                    stack.enter_context(gateway)
                made.announce_gateway(options.gateway_uri or gateway.restful_base_uri)
            return run_node(made, interruption, options.drain_seconds, options.seconds, sys.stderr)


def cluster(options: argparse.Namespace) -> ExitStatus:
    """Run `ldc cluster`."""
    with starting():
        from ldc.cli.cluster import operate

        return operate(options, sys.stdout)


def complete(options: argparse.Namespace) -> ExitStatus:
    """Run `ldc completion`."""
    sys.stdout.write(completion_of(make_parser(), options.shell))
    return ExitStatus.SYNCHRONIZED


def make_watch(options: argparse.Namespace, manager: Source, title: str) -> Watch:
    """Return the `Watch` of the options that `watch` and `demo` share."""
    return Watch(
        manager=manager,
        title=title,
        stream=sys.stdout,
        error_stream=sys.stderr,
        seconds=options.seconds,
        levels_max=options.levels,
    )


def wants_view(options: argparse.Namespace) -> bool:
    """Return whether to draw the view. Where rich is missing, say so and return False."""
    if options.plain or not is_live_terminal(sys.stdout):
        return False
    try:
        import ldc.cli.terminal  # noqa: F401 - checked before anything starts
    except ImportError as error:
        sys.stderr.write(f"ldc: {error}; these are plain lines until then\n")
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status. Wrong arguments exit with status 2, as usual."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console may not know the characters of a market's name
            stream.reconfigure(errors="backslashreplace")
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command == "watch" and not options.markets and options.shared is None:
        parser.error("watch needs a MARKET, or --shared NAME")
    try:
        commands = {
            "watch": watch,
            "demo": demo,
            "simulate": simulate,
            "feed": feed,
            "serve": serve,
            "node": node,
            "cluster": cluster,
            "completion": complete,
        }
        return commands[options.command](options)
    except CannotStart as error:
        sys.stderr.write(f"ldc: {error}\n")
        return error.status
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
