from __future__ import annotations

import pytest

from sidestep.config.urls import BaseURL


@pytest.mark.parametrize(
    ("text", "parts", "shown"),
    [
        ("https://api.openai.com/v1", ("https", "api.openai.com", 443, "/v1"), "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/", ("https", "api.openai.com", 443, "/v1"), "https://api.openai.com/v1"),
        ("https://API.Anthropic.com", ("https", "api.anthropic.com", 443, ""), "https://api.anthropic.com"),
        ("https://api.anthropic.com/", ("https", "api.anthropic.com", 443, ""), "https://api.anthropic.com"),
        ("HTTP://localhost:11434/v1", ("http", "localhost", 11434, "/v1"), "http://localhost:11434/v1"),
        ("http://localhost:80", ("http", "localhost", 80, ""), "http://localhost"),
        ("https://localhost:80", ("https", "localhost", 80, ""), "https://localhost:80"),
        ("http://[::1]:8000/v1", ("http", "::1", 8000, "/v1"), "http://[::1]:8000/v1"),
        (
            "https://Bücher.example/ü/v1",
            ("https", "bücher.example", 443, "/%C3%BC/v1"),
            "https://bücher.example/%C3%BC/v1",
        ),
        ("https://xn--bcher-kva.example/a", ("https", "bücher.example", 443, "/a"), "https://bücher.example/a"),
        ("https://[2001:DB8::1]/v1", ("https", "2001:db8::1", 443, "/v1"), "https://[2001:db8::1]/v1"),
    ],
)
def test_parse(text: str, parts: tuple[str, str, int, str], shown: str) -> None:
    """A base URL has a lower-case host, a port, and a path without a slash at its end; shown, it parses to itself."""
    base = BaseURL.parse(text)
    assert (*base.origin, base.path) == parts
    assert str(base) == shown
    assert BaseURL.parse(shown) == base


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a URL that begins with http:// or https://, found ''"),
        ("api.openai.com/v1", "expected a URL that begins with http:// or https://, found 'api.openai.com/v1'"),
        ("wss://a/v1", "expected a URL that begins with http:// or https://, found 'wss://a/v1'"),
        ("https:/a/v1", "expected a URL that begins with http:// or https://, found 'https:/a/v1'"),
        ("https://", "expected a URL with a host name, found 'https://'"),
        ("https:///v1", "expected a URL with a host name, found 'https:///v1'"),
        ("https://ü..a/v1", "expected a URL with a host name, found 'https://ü..a/v1'"),
        ("https://a b/v1", "expected a URL without spaces and backslashes, found 'https://a b/v1'"),
        ("https://a\\b/v1", "expected a URL without spaces and backslashes, found 'https://a\\\\b/v1'"),
        ("https://a/v1?key=secret", "expected a URL without a key in its query, found one after 'https://a/v1'"),
        ("https://a/v1?x=1&API%2Dkey=secret", "expected a URL without a key in its query, found one after"),
        ("https://a/v1#secret", "expected a URL without a fragment, found one after 'https://a/v1'"),
        ("https://a/v1?x=1#secret", "expected a URL without a fragment, found one after 'https://a/v1'"),
        ("https://me:secret@a/v1", "expected a URL without a user name or password, found one with '@' in it"),
        ("ftp://me:secret@a/v1", "expected a URL without a user name or password, found one with '@' in it"),
        ("https://a:0/v1", "expected a port from 1 to 65535, found 'https://a:0/v1'"),
        ("https://a:x/v1", "expected an http or https URL, found 'https://a:x/v1': "),
        ("https://a:99999/v1?secret", "expected an http or https URL, found 'https://a:99999/v1': it cannot be read"),
        ("https://[::1/v1", "expected an http or https URL, found 'https://[::1/v1': "),
    ],
)
def test_what_is_no_base_url(text: str, message: str) -> None:
    """What is no base URL is refused, saying what was expected and found, without a password or a query in it."""
    with pytest.raises(ValueError, match="expected") as caught:
        BaseURL.parse(text)
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "url", "tail"),
    [
        ("https://a/v1", ("https", "a", 443, "/v1/chat/completions"), "/chat/completions"),
        ("https://a/v1", ("https", "A", 443, "/v1/x"), "/x"),
        ("https://a/v1", ("wss", "a", 443, "/v1/realtime"), "/realtime"),
        ("http://a/v1", ("ws", "a", 80, "/v1/realtime"), "/realtime"),
        ("https://a", ("https", "a", 443, "/v1/messages"), "/v1/messages"),
        ("http://[::1]:8000", ("http", "::1", 8000, "/v1"), "/v1"),
        ("https://bücher.example", ("https", "XN--bcher-kva.example", 443, "/v1"), "/v1"),
        ("https://bücher.example", ("https", "bücher.example", 443, "/v1"), "/v1"),
        ("https://bücher.example", ("https", "xn--\udce4.example", 443, "/v1"), None),
        ("http://[::1]:8000", ("http", "[::1]", 8000, "/v1"), "/v1"),
        ("https://a/v1", ("https", "a", 443, "/v1/"), "/"),
        ("https://a/v1", ("https", "a", 443, "/v1"), None),
        ("https://a/v1", ("https", "a", 443, "/v1beta/models"), None),
        ("https://a/v1", ("https", "a", 443, "/v2/x"), None),
        ("https://a/v1", ("https", "b", 443, "/v1/x"), None),
        ("https://a/v1", ("https", "a", 8443, "/v1/x"), None),
        ("https://a/v1", ("http", "a", 443, "/v1/x"), None),
        ("https://a/v1", ("ws", "a", 443, "/v1/x"), None),
        ("https://a/v1", ("ftp", "a", 443, "/v1/x"), None),
    ],
)
def test_tail(base: str, url: tuple[str, str, int, str], tail: str | None) -> None:
    """A URL lies under a base from a segment boundary on, at the same origin; base and tail make its path again."""
    parsed = BaseURL.parse(base)
    assert parsed.tail_of(*url) == tail
    assert tail is None or parsed.join(tail) == url[3]


@pytest.mark.parametrize(
    ("base", "query", "merged"),
    [
        ("https://a/v1", "", ""),
        ("https://a/v1", "b=%20&c", "b=%20&c"),
        ("https://a/v1?", "b=1", "b=1"),
        ("https://a/d/gpt?api-version=2024-10-21", "", "api-version=2024-10-21"),
        ("https://a/d/gpt?api-version=2024-10-21", "beta=true&&x", "api-version=2024-10-21&beta=true&x"),
        ("https://a/d/gpt?api-version=2024-10-21", "api-version=1&x=2&api%2Dversion=3", "api-version=2024-10-21&x=2"),
    ],
)
def test_a_query_of_its_own(base: str, query: str, merged: str) -> None:
    """It goes with every call, beside the call's own query, and counts where both name the same; it is not shown, and
    calls are told apart without it."""
    parsed = BaseURL.parse(base)
    assert parsed.merged(query) == merged
    assert str(parsed) == base.partition("?")[0]
    assert "2024" not in repr(parsed)
    assert parsed.place == BaseURL.parse(base.partition("?")[0])
