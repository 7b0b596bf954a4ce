"""Whatever comes from outside is one printable line of bounded length, without the secrets of a proxy."""

import pytest

from ldc.network.proxy import parse
from ldc.network.text import TEXT_CHARACTERS_MAX, described, printable, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("Invalid symbol.", "Invalid symbol."),
        ("größere Störung 币安", "größere Störung 币安"),
        ("a\nb", r"a\x0ab"),
        ("a\r\nb\tc", r"a\x0d\x0ab\x09c"),
        ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066\u200f", r"\u2066\u200f"),
        ("\udc80", r"\udc80"),
        ("\U000e0001", r"\U000e0001"),
        ("x\x00y\x7f", r"x\x00y\x7f"),
        (OSError(5, "a\nb"), r"[Errno 5] a\x0ab"),
    ],
)
def test_what_is_not_printable_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable(text).isprintable()


@pytest.mark.parametrize("text", ["x" * 301, "\n" * 200, "a" * 299 + "\n", "\U000e0001" * 10**5])
@pytest.mark.parametrize("limit", [0, 2, 3, 10, TEXT_CHARACTERS_MAX])
def test_a_long_text_is_cut_and_no_escape_is_cut_in_two(text, limit):
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.endswith("..."[:limit])
    kept = shown.removesuffix("...")
    whole = {"x": "x", "\n": r"\x0a", "a": "a", "\U000e0001": r"\U000e0001"}
    assert kept.replace("..", "") in "".join(whole[character] for character in text[: limit + 1])
    assert limit < 3 or all(len(kept) % len(whole[text[0]]) == 0 for _ in kept)


def test_a_text_of_exactly_the_limit_is_whole():
    assert printable("x" * 300) == "x" * 300
    assert printable("\n" * 75) == r"\x0a" * 75


PROXY = parse("http://me%40home:s%23cret%2Fword@Proxy.example:8080")


@pytest.mark.parametrize(
    "text",
    [
        "cannot parse http://me%40home:s%23cret%2Fword@proxy.example:8080",
        "user me@home with s#cret/word",
        "Proxy-Authorization: Basic bWVAaG9tZTpzI2NyZXQvd29yZA==",
        "socks5://me@home:other@PROXY.example/",
        "('s#cret/word',)",
    ],
)
def test_user_and_password_are_removed_in_every_spelling(text):
    shown = without_secrets(text, PROXY)
    for secret in ("me@home", "me%40home", "cret", "bWVAaG9tZ", "other"):
        assert secret not in shown
    assert "***" in shown


def test_short_secrets_are_removed_where_a_url_has_them_and_words_stay():
    proxy = parse("http://a:b@proxy:8080")
    assert without_secrets("bad http://a:b@proxy:8080 about it", proxy) == "bad http://***@proxy:8080 about it"
    assert without_secrets("bad", None) == "bad"


def test_secrets_are_removed_before_the_text_is_cut():
    said = described(ValueError("x" * 290 + " s#cret/word and more"), PROXY)
    assert "s#" not in said
    assert len(said) <= TEXT_CHARACTERS_MAX


def test_an_exception_is_described_in_one_line():
    assert described(ValueError("Failed to parse:\n  it")) == "Failed to parse: it"
    assert described(ValueError()) == "ValueError"
    assert described(ValueError("\x1b[2J")) == r"\x1b[2J"
