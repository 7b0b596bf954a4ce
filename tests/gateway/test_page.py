"""The page in a real Chromium: the true book, its loss and return, keys, labels, and no request to anybody else."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_kit import Page, browser
from gateway_kit import Served, caught_up, served, until
from simulator_kit import decimals

from ldc.gateway.page import Page as Files

STATIC_BYTES_MAX = 150_000
VENDORED = {  # uplot 1.6.32 from the npm registry, MIT
    "/uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "/uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "/uplot-license.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
TOKEN = "0123456789abcdef-token"
SCREENSHOTS = os.environ.get("LDC_SCREENSHOTS")
"""A folder for pictures of the page; `make web-screenshots` sets it."""


def test_the_page_is_small_whole_and_what_was_vendored_is_unchanged():
    files = Files().files
    assert sum(len(reply.body) for path, reply in files.items() if path != "/") < STATIC_BYTES_MAX
    assert {path: hashlib.sha256(files[path].body).hexdigest() for path in VENDORED} == VENDORED
    text = b"".join(reply.body for path, reply in files.items() if not path.startswith("/uplot"))
    for no_more in (b"http://", b"https://", b"innerHTML", b"eval(", b"style=", b'onclick="'):
        assert no_more not in text.replace(b"http://www.w3.org/2000/svg", b"")


def test_its_content_security_policy_allows_nothing_from_elsewhere_and_no_inline_code():
    policy = Files().files["/"].headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy


@pytest.fixture(scope="module")
def row() -> Iterator[Served]:
    markets = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    with served(markets=markets, exchange_settings={"levels": 400, "updates_per_second": 20.0}) as served_row:
        yield served_row


@pytest.fixture(scope="module")
def page(row: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        opened.size(1440, 900)
        opened.open(row.gateway.restful_base_uri + "/")
        opened.until("document.getElementById('book')?.dataset.id")
        yield opened


def shown(page: Page) -> dict[str, str]:
    return json.loads(page.run("JSON.stringify(document.getElementById('book').dataset)"))


@pytest.mark.check
@pytest.mark.xdist_group("browser")
class TestInChromium:
    """The tests share a browser, in the order in which they stand here."""

    def test_the_ladder_is_the_true_book_and_rest_says_the_same(self, row: Served, page: Page):
        page.press("1")
        for _ in range(3):
            update_id = caught_up(row)
            page.until(f"document.getElementById('levels').dataset.id == '{update_id}'")
            cells = page.run(
                "[...document.querySelectorAll('#levels tbody tr')].map(row => [...row.cells].map(c => c.textContent))"
            )
            true_book = row.exchange.true_book("BTCUSDT", update_id, 20)
            sides = {name: decimals([cell[1:] for cell in cells if cell[0] == name]) for name in ("bid", "ask")}
            assert (tuple(sides["bid"]), tuple(sides["ask"])) == (true_book.bids, true_book.asks)
            rest = row.get("/api/v3/depth", symbol="BTCUSDT", limit=20).json()
            assert (rest["lastUpdateId"], decimals(rest["bids"])) == (update_id, sides["bid"])
            data = shown(page)
            assert (data["market"], data["id"], data["state"]) == ("BTCUSDT", str(update_id), "SYNCHRONIZED")
            assert (data["bestBid"], data["bestAsk"]) == (rest["bids"][0][0], rest["asks"][0][0])

    def test_a_fault_is_shown_within_a_second_and_so_is_its_end(self, row: Served, page: Page):
        page.press("1")
        row.exchange.inject("snapshot_503", count=200)
        row.manager.set_resync_request("BTCUSDT", unsubscribe=False)
        until(lambda: not row.manager.is_depth_cache_synchronized("BTCUSDT"))
        took_ms = page.run("""new Promise(done => {
            const began = performance.now(), data = document.getElementById('book').dataset;
            const look = () => data.state == 'OUT_OF_SYNC' ? done(performance.now() - began) : setTimeout(look, 5);
            look(); })""")
        data = shown(page)
        assert (data["id"], data["bestBid"], data["bestAsk"]) == ("", "", "")
        assert page.run("document.getElementById('state').textContent") == "REQUESTED"
        assert page.run("document.querySelectorAll('#levels tbody tr').length") == 0
        row.exchange.clear_faults()
        row.exchange.resume("BTCUSDT")
        until(lambda: row.manager.is_depth_cache_synchronized("BTCUSDT"))
        page.until("document.getElementById('book').dataset.state == 'SYNCHRONIZED'")
        page.until("document.querySelectorAll('#events .bad').length")
        row.exchange.pause("BTCUSDT")
        assert took_ms < 1000

    def test_keys_change_market_theme_group_and_find(self, row: Served, page: Page):
        page.press("2")
        page.until("document.getElementById('book').dataset.market == 'ETHUSDT'")
        page.press("ArrowRight")
        page.until("document.getElementById('book').dataset.market == 'SOLUSDT'")
        page.press("ArrowRight")
        page.until("document.getElementById('book').dataset.market == 'BTCUSDT'")
        before = page.run("document.documentElement.dataset.theme")
        page.press("t")
        assert page.run("document.documentElement.dataset.theme") != before
        page.press("t")
        page.press("g")
        assert page.run("[...document.querySelectorAll('#group button')].map(b => b.ariaPressed)") == [
            "false", "true", "false", "false",
        ]  # fmt: skip
        page.press("/")
        page.run("document.getElementById('search').value = 'sol';"
                 "document.getElementById('search').dispatchEvent(new Event('input'))")  # fmt: skip
        page.until("document.querySelectorAll('#markets button').length == 1")
        page.press("Enter")
        page.until("document.getElementById('book').dataset.market == 'SOLUSDT'")
        page.press("?")
        assert page.run("document.getElementById('keys').open")
        page.run("document.getElementById('keys').close()")

    def test_screen_readers_find_a_name_for_everything(self, page: Page):
        tree = page.call("Accessibility.getFullAXTree")["nodes"]
        nameless = [
            node["role"]["value"]
            for node in tree
            if not node.get("ignored")
            and node.get("role", {}).get("value") in ("button", "tab", "image", "img", "textbox", "searchbox", "region")
            and not node.get("name", {}).get("value")
        ]
        assert nameless == []

    def test_three_markets_are_drawn_at_the_speed_of_the_screen(self, row: Served, page: Page):
        page.press("1")
        for market in ("BTCUSDT", "ETHUSDT", "SOLUSDT"):
            row.exchange.resume(market)
        page.until("document.getElementById('book').dataset.id")
        frames = page.run("""new Promise(done => { let count = 0; const began = performance.now();
            const next = () => { count++; const took = performance.now() - began;
                took > 2000 ? done(count / took * 1000) : requestAnimationFrame(next); };
            requestAnimationFrame(next); })""")
        print(f"{frames:.1f} frames a second")
        assert frames > 30  # 60 on an idle machine: docs/gateway.md

    def test_the_screenshots_of_the_documents(self, row: Served, page: Page):
        if SCREENSHOTS is None:
            pytest.skip("LDC_SCREENSHOTS names no folder: `make web-screenshots` does")
        page.run("document.documentElement.dataset.theme == 'dark' || document.getElementById('theme').click()")
        page.press("1")
        page.until("document.querySelector('#time-note').textContent > '1.3'", 120)
        page.screenshot(Path(SCREENSHOTS) / "gateway-dark.png")
        page.press("t")
        page.run("new Promise(done => setTimeout(done, 800))")
        page.screenshot(Path(SCREENSHOTS) / "gateway-light.png")
        page.size(390, 844, 2, is_phone=True)
        page.run("new Promise(done => setTimeout(done, 800))")
        page.screenshot(Path(SCREENSHOTS) / "gateway-phone.png")
        page.size(1440, 900)
        page.press("t")

    def test_nobody_else_was_asked_and_the_console_is_empty(self, row: Served, page: Page):
        own = {row.gateway.restful_base_uri, row.gateway.websocket_base_uri}
        page.run("1")
        assert len(page.requests) > 8
        assert [url for url in page.requests if not any(url.startswith(base) for base in own)] == []
        assert page.errors == []

    def test_it_says_that_the_gateway_is_gone_and_comes_back_by_itself(self, row: Served, page: Page):
        port = row.gateway.port
        row.gateway.stop()
        page.until("!document.getElementById('banner').hidden")
        assert shown(page)["state"] == "NO_CONNECTION"
        row.gateway._port = port
        row.gateway.start()
        page.until("document.getElementById('banner').hidden")
        page.until("document.getElementById('book').dataset.state == 'SYNCHRONIZED'")

    def test_a_token_is_asked_for_once_and_never_stands_in_a_url(self, tmp_path: Path):
        with served(token=TOKEN) as locked, browser(tmp_path) as opened:
            opened.open(locked.gateway.restful_base_uri + "/")
            opened.until("document.getElementById('login')?.open")
            submit = "document.getElementById('login-form').requestSubmit()"
            opened.run(f"document.getElementById('token').value = 'wrong'; {submit}")
            opened.until("document.getElementById('login-error').textContent")
            opened.run(f"document.getElementById('token').value = '{TOKEN}'; {submit}")
            opened.until("document.getElementById('book').dataset.id")
            assert not any(TOKEN in url for url in opened.requests)
            assert opened.run("document.cookie") == ""
