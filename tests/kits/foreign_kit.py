"""Live clients of other libraries, each in a process of its own, that follow markets at an address.

The clients are those of `benchmarks/bench_loopback_clients.py`. What a library raises is caught, and the library is
started again, as in any program that is to run for long: `restarts` counts it.
"""

import asyncio
import contextlib
import importlib.util
import logging
import multiprocessing
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

AGAIN_S = 0.2
"""Seconds until a library that has raised is started again."""

ANSWER_S = 30.0
"""Seconds in which a client's process answers."""

PACKAGES = {
    "python-binance": "binance",
    "ccxt": "ccxt",
    "cryptofeed": "cryptofeed",
    "UBLDC": "unicorn_binance_local_depth_cache",
    "ldc": "ldc",
}
"""The clients, and what must be importable for each."""


def _loaded() -> ModuleType:
    """Return the module that has the clients; benchmarks are no package."""
    path = Path(__file__).parents[2] / "benchmarks" / "bench_loopback_clients.py"
    spec = importlib.util.spec_from_file_location("bench_loopback_clients", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


clients = _loaded()


class PythonBinance(clients.PythonBinance):  # type: ignore[misc, name-defined]
    """Starts a manager again after an exception, and after an error that it reports."""

    async def _read(self, name: str) -> None:
        while True:
            with contextlib.suppress(Exception):
                async with self.managers[name] as manager:
                    while not isinstance(await manager.recv(), dict):
                        if manager._last_update_id is not None:
                            self.note(name, manager._last_update_id)
            self.restarts += 1
            await asyncio.sleep(AGAIN_S)


class Ccxt(clients.Ccxt):  # type: ignore[misc, name-defined]
    """Calls again after an exception, as ccxt's examples do."""

    async def _read(self, name: str) -> None:
        symbol = f"{name.removesuffix('USDT')}/USDT"
        while True:
            try:
                book = self.books[name] = await self.exchange.watch_order_book(symbol)
                self.note(name, book["nonce"])
            except Exception:
                self.restarts += 1
                await asyncio.sleep(AGAIN_S)


CLIENTS: dict[str, Any] = {
    **{name: clients.CLIENTS[name] for name in PACKAGES},
    "python-binance": PythonBinance,
    "ccxt": Ccxt,
}


def _answer(client: Any, pipe: Any) -> None:
    """Answer until the pipe is closed: the ids at which the books stand, and their best levels."""
    try:
        while True:
            order = pipe.recv()
            if order == "ids":
                pipe.send((dict(client.ids), client.restarts, len(client.noted)))
                continue
            try:
                pipe.send({name: client.top(name) for name in client.names})
            except Exception:
                pipe.send(traceback.format_exc(limit=-1))
    except EOFError:
        os._exit(0)


def run(pipe: Any, name: str, port: int, markets: list[str]) -> None:
    """Be a process that follows the markets with one library. What it prints is thrown away."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    logging.disable()
    if "LDC_FOREIGN_OUTPUT" not in os.environ:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    client = CLIENTS[name](port, markets)
    client.restarts = 0
    threading.Thread(target=_answer, args=(client, pipe), daemon=True).start()
    while True:
        try:
            client.follow()
        except Exception:
            traceback.print_exc()
        client.restarts += 1
        time.sleep(AGAIN_S)


class Foreign:
    """A client in its process."""

    def __init__(self, name: str, port: int, markets: list[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=run, args=(other, name, port, markets), daemon=True)
        self._process.start()
        other.close()

    def _ask(self, order: str) -> Any:
        self._pipe.send(order)
        if not self._pipe.poll(ANSWER_S):
            raise TimeoutError("the client's process does not answer")
        return self._pipe.recv()

    def ids(self) -> dict[str, int]:
        """Return the ids at which the books stood when they were last readable; 0: not yet."""
        return self._ask("ids")[0]  # type: ignore[no-any-return]

    def restarts(self) -> int:
        """Return how often the library was started or called again."""
        return self._ask("ids")[1]  # type: ignore[no-any-return]

    def tops(self) -> Any:
        """Return (id, bids, asks) of each book, or the text of what was raised. The books must stand still."""
        return self._ask("tops")

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.kill()
        self._process.join()
