"""The commands that ask a proxy that runs: `status`, `tail`, `circuit`, `mode`; and `doctor`, which looks at what is
around it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.live import Live
from rich.text import Text

from sidestep.config.settings import MODES
from sidestep.run import streams, trust
from sidestep.run.environment import HOLDERS_WORD
from sidestep.run.tables import Prose

AGAIN_SECONDS = 1.0
SHOWN_BEFORE = 10
"""Lines of what has been already, with which `tail` begins."""

URL_OPTION = click.option("--url", metavar="URL", help="The proxy's own address; by default the one that runs.")
TOKEN_OPTION = click.option(
    "--token", envvar=HOLDERS_WORD, metavar="TOKEN", help="What its log tells; for proxies of other users."
)


def _with_errors(act: Callable[[], Any]) -> Any:
    from sidestep.run.asking import AskError

    try:
        return act()
    except AskError as e:
        raise click.ClickException(str(e)) from None


@click.command()
@click.option("--watch", is_flag=True, help="Show it anew as it changes, until you press Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch one object a line.")
@URL_OPTION
def status(watch: bool, as_json: bool, url: str | None) -> None:
    """Show how a running proxy is: who serves which calls and why, its providers, the last hour.

    Exits with 1 if no provider takes calls, or if there is no such proxy.
    """
    from sidestep.run import asking, showing

    proxy = _with_errors(lambda: asking.find(url))
    if watch:
        _watch(proxy, as_json)
        return
    picture = _with_errors(lambda: asking.picture(proxy))
    if as_json:
        click.echo(json.dumps(picture, indent=1))
    else:
        streams.console().print(showing.status(picture))
    raise SystemExit(picture["status"] == "unhealthy")


def _watch(proxy: Any, as_json: bool) -> None:
    from sidestep.run import asking, showing

    console = streams.console()
    if as_json or not console.is_terminal:
        for picture in _lasting(proxy):
            click.echo(json.dumps(picture)) if as_json else console.print(showing.status(picture), "")
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for picture in asking.lasting(proxy, AGAIN_SECONDS):
            live.update(showing.status(picture) if isinstance(picture, dict) else picture, refresh=True)


def _lasting(proxy: Any) -> Any:
    """Pictures as they change; while the proxy is gone that is said once, and it is waited for."""
    from sidestep.run import asking

    for picture in asking.lasting(proxy, AGAIN_SECONDS):
        if isinstance(picture, str):
            streams.note(picture)
        else:
            yield picture


@click.command()
@URL_OPTION
def tail(url: str | None) -> None:
    """Show the calls and events of a running proxy as they come, a line each, until you press Ctrl-C."""
    from sidestep.run import asking, showing

    proxy = _with_errors(lambda: asking.find(url))
    console, news = streams.console(), showing.News(before=SHOWN_BEFORE)
    for picture in _lasting(proxy):
        for line in news.of(picture):
            console.print(line)


@click.group()
def circuit() -> None:
    """Hold a provider of a running proxy by hand, or give it back."""


def _circuit(how: str, text: str, done: str) -> None:
    @circuit.command(how, help=text)
    @click.argument("name")
    @URL_OPTION
    @TOKEN_OPTION
    def command(name: str, url: str | None, token: str | None) -> None:
        from sidestep.run import asking

        where = _with_errors(lambda: asking.hold(_with_token(asking.find(url), token), how, name))
        click.echo(f"{name} {done}" + (f" ({where})" if where else ""))


_circuit("open", "Send nothing to NAME until it is given back.", "is held open: it gets no calls")
_circuit("disable", "Let everything through to NAME, whatever fails.", "is disabled: it gets calls, whatever fails")
_circuit("auto", "Let NAME's own circuit decide again, and forget its limits.", "is automatic: its circuit decides")


@click.command()
@click.argument("mode", type=click.Choice(MODES))
@URL_OPTION
@TOKEN_OPTION
def mode(mode: str, url: str | None, token: str | None) -> None:
    """Set a running proxy's mode: enforce, observe (it looks on and changes nothing) or off."""
    from sidestep.run import asking

    where = _with_errors(lambda: asking.set_mode(_with_token(asking.find(url), token), mode))
    click.echo(f"mode {mode}" + (f" ({where})" if where else ""))


def _with_token(proxy: Any, token: str | None) -> Any:
    return msgspec.structs.replace(proxy, token=token) if token else proxy


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Where a proxy is to listen."
)
@click.option(
    "--confdir",
    type=click.Path(path_type=Path, file_okay=False),
    default=trust.DEFAULT_CONFDIR,
    show_default=True,
    help="Where mitmproxy keeps its CA.",
)
def doctor(port: int, confdir: Path) -> None:
    """Look for what keeps calls from going through Sidestep, and say what helps.

    Exits with 1 if something is wrong.
    """
    from sidestep.run import doctor as checks

    console = streams.console()
    found = list(checks.examine(os.environ, port, confdir))
    for finding in found:
        word, style = {True: ("ok  ", "green"), None: ("note", "yellow"), False: ("bad ", "red")}[finding.ok]
        console.print(Prose(Text.assemble((word, style), f"  {finding.text}"), 6))
        if finding.cure:
            console.print(Prose(f"      → {finding.cure}", 8))
    raise SystemExit(any(f.ok is False for f in found))


COMMANDS = (status, tail, circuit, mode, doctor)
