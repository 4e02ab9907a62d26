"""What `[fleet] url` says, and what is wrong with one: no part of it that may be a password is ever told."""

from __future__ import annotations

import pytest

from sidestep.config import reading
from sidestep.config.problems import ConfigError
from sidestep.config.stores import Address, AddressError, Tls, address_of

LOGIN = {"username": "u", "password": "p@/:"}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", Address("redis://h:6379/0", (("h", 6379),), {})),
        ("valkey://u:p%40%2F%3A@h:7/3", Address("valkey://h:7/3", (("h", 7),), {**LOGIN, "db": 3})),
        ("redis://[::1]:7?db=2&password=x", Address("redis://[::1]:7/2", (("::1", 7),), {"db": 2, "password": "x"})),
        ("unix://:x@/run/a%20b", Address("unix:///run/a b", (), {"password": "x", "path": "/run/a b"})),
        (
            "unix:///run/s?db=1&username=u",
            Address("unix:///run/s", (), {"db": 1, "username": "u", "path": "/run/s"}),
        ),
        (
            "rediss://h",
            Address("rediss://h:6379/0", (("h", 6379),), {}, Tls(None, None, None, is_verified=True, checks_host=True)),
        ),
        (
            "valkeys://h?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k&ssl_check_hostname=false",
            Address(
                "valkeys://h:6379/0", (("h", 6379),), {}, Tls("/ca", "/c", "/k", is_verified=True, checks_host=False)
            ),
        ),
        (
            "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=true",
            Address(
                "rediss://h:6379/0", (("h", 6379),), {}, Tls(None, None, None, is_verified=False, checks_host=False)
            ),
        ),
        (
            "redis+sentinel://u:p%40%2F%3A@a,b:1,[::2]:3/m/4?sentinel_password=s&sentinel_username=t",
            Address(
                "redis+sentinel://a:26379,b:1,[::2]:3/m/4",
                (("a", 26379), ("b", 1), ("::2", 3)),
                {**LOGIN, "db": 4},
                None,
                "m",
                ("t", "s"),
            ),
        ),
        (
            "rediss+sentinel://a/m",
            Address(
                "rediss+sentinel://a:26379/m/0",
                (("a", 26379),),
                {},
                Tls(None, None, None, is_verified=True, checks_host=True),
                "m",
            ),
        ),
    ],
)
def test_a_url_says(url: str, address: Address) -> None:
    assert address_of(url) == address
    assert repr(address) == f"Address({address.place})"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("CANARY", "a URL that begins with one of redis://, "),
        ("http://CANARY", "a URL that begins with one of redis://, "),
        ("redis+sentinels://CANARY", "a URL that begins with one of redis://, "),
        ("redis://", "a URL with a host name, "),
        ("redis://:CANARY@", "a URL with a host name, "),
        ("redis://u:CANARY/x@h", "a URL with a host name, "),
        ("redis://u:12/CANARY@h", "the number of a database at the end, "),
        ("redis://u:12?CANARY@h", "no parameter but username, password, db"),
        ("redis://u:1#CANARY@h", "a URL without a fragment"),
        ("redis://[CANARY", "a URL with a host name"),
        ("redis://h:0", "a URL with a host name, and a port from 1 to 65535 if any"),
        ("redis://h:65536", "a URL with a host name, and a port from 1 to 65535 if any"),
        ("redis://h:CANARY", "a URL with a host name, and a port from 1 to 65535 if any"),
        ("redis://h/CANARY", "the number of a database at the end, "),
        ("redis://h/1/2", "the number of a database at the end, "),
        ("redis://h?db=CANARY", "for db [0-9]{1,6}"),
        ("redis://a,b", "one host"),
        ("redis://h?ssl_ca_certs=/ca", "no parameter but username, password, db"),
        ("rediss://h?ssl_cert_reqs=CANARY", "for ssl_cert_reqs required or none"),
        ("rediss://h?ssl_check_hostname=CANARY", "for ssl_check_hostname true or false"),
        ("rediss://h?sentinel_password=CANARY", "no parameter but "),
        ("redis+sentinel://a,b", "a service after the hosts, "),
        ("redis+sentinel://a,,b/m", "a URL with a host name, "),
        ("redis+sentinel://a/m/CANARY", "the number of a database at the end, "),
        ("unix://", "the path of a socket, "),
        ("unix:///", "the path of a socket, "),
        ("unix://CANARY/run/s", "the path of a socket, "),
    ],
)
def test_what_is_wrong_with_a_url(url: str, expected: str) -> None:
    with pytest.raises(AddressError) as found:
        address_of(url)
    assert found.value.expected.startswith(expected)
    assert "CANARY" not in f"{found.value.expected} {found.value.found} {found.value.hint}"
    with pytest.raises(ConfigError, match=r"fleet\.url: expected ") as told:
        reading.parse(f'[fleet]\nurl = "{url}"\nsecret = "{"s" * 16}"', {})
    assert "CANARY" not in str(told.value)


def test_what_is_to_be_written_otherwise_is_told() -> None:
    """A password with a slash in it is the usual mistake."""
    with pytest.raises(ConfigError, match="are written as %3A %2F"):
        reading.parse('[fleet]\nurl = "redis://u:${PW}@h"\nsecret = "0123456789abcdef"', {"PW": "CANARY/"})
