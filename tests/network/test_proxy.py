"""A proxy is one value, however it is spelt and wherever it is named; none of its texts is repeated."""

import importlib.util

import pytest
from network_kit import clear_environment

from ldc.network.proxy import Proxy, ProxyRules, address_key, from_environment, parse


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


# ------------------------------------------------------------------------------------------------------------- parse


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy.example:8080", Proxy("http", "proxy.example", 8080)),
        ("http://proxy.example:8080/", Proxy("http", "proxy.example", 8080)),
        ("HTTP://Proxy.Example.", Proxy("http", "proxy.example", 80)),
        ("proxy.example:3128", Proxy("http", "proxy.example", 3128)),
        ("me:secret@proxy:3128", Proxy("http", "proxy", 3128, "me", "secret")),
        ("socks5h://10.0.0.1", Proxy("socks5h", "10.0.0.1", 1080)),
        ("socks4a://proxy:9", Proxy("socks4a", "proxy", 9)),
        ("http://[::1]:8080", Proxy("http", "::1", 8080)),
        ("http://[0:0::1]", Proxy("http", "::1", 80)),
        ("http://me@proxy", Proxy("http", "proxy", 80, "me")),
        ("http://me:@proxy", Proxy("http", "proxy", 80, "me", "")),
        ("http://m%40e:s%23%2F%3F@proxy", Proxy("http", "proxy", 80, "m@e", "s#/?")),
        ("http://me:p@ss:word@proxy:81", Proxy("http", "proxy", 81, "me", "p@ss:word")),
    ],
)
def test_a_proxy_is_read(url, proxy):
    assert parse(url) == proxy
    assert parse(proxy.url) == proxy


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hush#hush@127.0.0.1:9",
        "http://user:hush/hush@127.0.0.1:9",
        "http://user:hush?hush@127.0.0.1:9",
        "http://hush#hush@127.0.0.1:9",
        "http://user:hush[hush@127.0.0.1:9]",
        "http://user:hush@127.0.0.1:99999",
        "http://user:hush@127.0.0.1:0",
        "http://user:hush@127.0.0.1:999999",
        "http://user:hush@127.0.0.1:port",
        "http://user:hush@127.0.0.1:",
        "http://user:hush@",
        "http://user:hush@:::",
        "http://user:hush@[",
        "http://user:hush@127.0.0.1/hush",
        "http://user:hush @127.0.0.1",
        "http://user:hush@127.0.0.1\n",
        "ftp://user:hush@127.0.0.1",
        "https://user:hush@127.0.0.1",
        "hush://user:hush@127.0.0.1",
        "user:hush@",
        "",
        None,
    ],
)
def test_what_is_no_proxy_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match="proxy") as refused:
        parse(url)
    assert "hush" not in str(refused.value)
    assert refused.value.__cause__ is refused.value.__context__ is None
    with pytest.raises(ValueError, match="proxy"):
        ProxyRules(url or "")


def test_no_text_of_a_proxy_shows_user_or_password():
    proxy = parse("http://someone:secret@proxy.example:8080")
    for text in (str(proxy), repr(proxy), f"{proxy}", f"{[proxy]}", f"{proxy.place}"):
        assert "secret" not in text
        assert "someone" not in text
    assert str(proxy) == "http://proxy.example:8080"


def test_socks_without_its_packages_is_refused_with_their_names(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    parse("http://proxy")
    with pytest.raises(ValueError, match=r"pip install PySocks python-socks"):
        parse("socks5://proxy")


# ------------------------------------------------------------------------------------------------------- environment

HTTPS, WSS, HTTP, WS = (f"{scheme}://exchange.example:4443/x" for scheme in ("https", "wss", "http", "ws"))


@pytest.mark.parametrize(
    ("variables", "secure", "plain"),
    [
        ({}, None, None),
        ({"https_proxy": "http://a:1"}, "http://a:1", None),
        ({"HTTPS_PROXY": "http://a:1"}, "http://a:1", None),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, "http://a:1", None),
        ({"http_proxy": "http://a:1"}, None, "http://a:1"),
        ({"all_proxy": "http://a:1"}, "http://a:1", "http://a:1"),
        ({"ALL_PROXY": "http://a:1"}, "http://a:1", "http://a:1"),
        ({"all_proxy": "http://a:1", "https_proxy": "http://b:1"}, "http://b:1", "http://a:1"),
        ({"https_proxy": "", "all_proxy": "http://a:1"}, "http://a:1", "http://a:1"),
        ({"all_proxy": "a:1"}, "http://a:1", "http://a:1"),
        ({"http_proxy": "socks5h://a:1"}, None, "socks5h://a:1"),
        ({"wss_proxy": "http://a:1"}, None, None),
        ({"all_proxy": "http://a:1", "no_proxy": "exchange.example"}, None, None),
        ({"all_proxy": "http://a:1", "NO_PROXY": "exchange.example"}, None, None),
        ({"all_proxy": "http://a:1", "NO_PROXY": "other, .example"}, None, None),
        ({"all_proxy": "http://a:1", "no_proxy": "example"}, None, None),
        ({"all_proxy": "http://a:1", "no_proxy": "ample"}, "http://a:1", "http://a:1"),
        ({"all_proxy": "http://a:1", "no_proxy": "exchange.example:4443"}, None, None),
        ({"all_proxy": "http://a:1", "no_proxy": "*"}, None, None),
    ],
)
def test_the_environment_says_the_same_for_websockets_and_rest(monkeypatch, variables, secure, plain):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for urls, expected in (((HTTPS, WSS), secure), ((HTTP, WS), plain)):
        for url in urls:
            found = from_environment(url)
            assert (found and str(found)) == expected
            assert ProxyRules().for_url(url) == found


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_direct"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("localhost", "localhost", True),
    ],
)
def test_no_proxy_takes_addresses_and_networks(monkeypatch, no_proxy, host, is_direct):
    monkeypatch.setenv("all_proxy", "http://a:1")
    monkeypatch.setenv("no_proxy", no_proxy)
    for scheme in ("https", "wss", "http", "ws"):
        assert (from_environment(f"{scheme}://{host}/") is None) == is_direct


def test_a_proxy_of_the_environment_that_cannot_be_one_is_refused_by_the_name_of_its_variable(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hush#hush@127.0.0.1:9")
    with pytest.raises(ValueError, match="environment variable HTTPS_PROXY") as refused:
        from_environment(WSS)
    assert "hush" not in str(refused.value)
    assert from_environment(WS) is None


def test_a_given_proxy_counts_for_all_hosts_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("https_proxy", "http://other:1")
    rules = ProxyRules("http://proxy:8080")
    assert rules.for_url(WSS) == rules.for_url(HTTP) == parse("http://proxy:8080")


def test_the_environment_is_read_once_for_a_host(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://a:1")
    rules = ProxyRules()
    assert rules.for_url(WSS) == parse("http://a:1")
    monkeypatch.setenv("https_proxy", "http://b:1")
    assert rules.for_url(HTTPS) == parse("http://a:1")
    assert ProxyRules().for_url(HTTPS) == parse("http://b:1")


# --------------------------------------------------------------------------------------------------------- addresses


def test_one_proxy_has_one_key_however_it_is_spelt(monkeypatch):
    monkeypatch.setenv("https_proxy", "me:secret@PROXY.example.:80")
    spelt = ["http://proxy.example", "http://a@proxy.example:80", "HTTP://b:c@Proxy.Example:80/", "proxy.example"]
    keys = {address_key(ProxyRules(url).for_url(WSS)) for url in [*spelt, None]}
    assert keys == {"proxy.example:80"}


def test_other_proxies_and_no_proxy_have_keys_of_their_own():
    keys = [address_key(None), *(address_key(parse(url)) for url in ("http://a", "http://b", "http://a:81"))]
    assert len(set(keys)) == 4
