"""The `[fleet]` table: what is read of it, what secret there is, and what is shown."""

from __future__ import annotations

import pytest

from sidestep.config import reading
from sidestep.config.reach import reach
from sidestep.config.settings import FleetSettings

PROVIDER = '[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "https://p.test/v1"\napi_key = "{key}"\n'


def fleet(text: str, key: str = "k", **env: str) -> FleetSettings | None:
    return reading.parse(f"{text}\n{PROVIDER.format(key=key)}", env).fleet


def test_none_without_a_url() -> None:
    assert fleet("") is None
    assert fleet('[fleet]\ngroup = "g"') is None


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("rediss://u:CANARY@h:7/3", "rediss://h:7/3"),
        ("valkey://[::1]/1", "valkey://[::1]:6379/1"),
        ("unix://u:CANARY@/run/v.sock?db=1", "unix:///run/v.sock"),
        ("redis://:${PASSWORD}@h", "redis://h:6379/0"),
    ],
)
def test_a_url_and_how_it_is_shown(url: str, place: str) -> None:
    """With its password where it is used, without it where it is shown."""
    found = fleet(f'[fleet]\nurl = "{url}"', PASSWORD="CANARY")
    assert found is not None
    assert (found.place, found.group) == (place, "sidestep")
    assert found.url.reveal() == url.replace("${PASSWORD}", "CANARY")
    assert "CANARY" not in repr(found)


def test_a_secret_is_made_of_the_keys() -> None:
    """The same in all proxies with the same keys, another with another key, and no key can be read from it."""
    text = '[fleet]\nurl = "redis://h"'
    one, same, other = fleet(text), fleet(text), fleet(text, key="other")
    assert one is not None
    assert same is not None
    assert other is not None
    assert one.secret == same.secret != other.secret
    assert one.secret_from == "the providers' keys"
    written = fleet(f'{text}\nsecret = "${{S}}"', S="x" * 16)
    assert written is not None
    assert (written.secret.reveal(), written.secret_from) == ("x" * 16, "S")


def test_check_tells() -> None:
    """`sidestep check` and the start's log: where what is known goes, and what the secret comes from."""
    text = f'[fleet]\nurl = "redis://u:CANARY@h"\n{PROVIDER.format(key="k")}'
    line = reading.describe(reading.parse(text, {}))[-1]
    assert line == (
        "what is known of providers is shared in group sidestep by redis://h:6379/0 (secret: the providers' keys)"
    )


def test_a_store_is_something_that_a_file_reaches() -> None:
    """A folder's file that is trusted may not gain one, nor send a variable there, by an edit."""
    plain = PROVIDER.format(key="k")
    more = reach(f'[fleet]\nurl = "redis://:${{PW}}@h"\n{plain}', "f") - reach(plain, "f")
    assert more == {"what is known of providers → redis://h:6379/0", "${PW} → redis://h:6379/0"}
