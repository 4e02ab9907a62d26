"""The `sidestep` command: what can be known and started without mitmproxy's own command line."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from sidestep import runtime
from sidestep.config import advice, catalog, initial, keys, local, reach, reading, trusting
from sidestep.config.locating import FILE, Choice, choose, places
from sidestep.config.problems import ConfigError
from sidestep.config.settings import Provider, Settings
from sidestep.routing import explaining
from sidestep.run import environment, live, proxy, steps, streams, tables, trust

SHOWN_MODELS = 20
MOST_WORKERS = 256

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
CONFIG_OPTION = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="The TOML file; by default as the addon finds it."
)
CONFDIR_OPTION = click.option(
    "--confdir",
    type=click.Path(path_type=Path, file_okay=False),
    default=trust.DEFAULT_CONFDIR,
    show_default=True,
    help="Where mitmproxy keeps its CA.",
)


@contextlib.contextmanager
def _minded() -> Iterator[None]:
    """What click would do otherwise: end with 1 where nobody reads us or who does has seen enough, tell errors in one
    long line."""
    try:
        yield
    except BrokenPipeError:
        streams.end_of_pipe()
    except KeyboardInterrupt:
        click.echo(err=True)  # below the terminal's own ^C
        raise SystemExit(streams.ENDED_BY_SIGINT) from None
    except click.exceptions.NoArgsIsHelpError:
        raise  # a help, which has its width already
    except click.ClickException as e:
        message = streams.wrapped(f"Error: {e.format_message()}").removeprefix("Error: ")
        if isinstance(e, click.UsageError):
            raise click.UsageError(message, e.ctx) from None
        raise click.ClickException(message) from None


class _Commands(click.Group):
    """Names its commands with whole sentences, and minds the streams."""

    def main(self, *args: Any, **more: Any) -> Any:
        streams.open_closed()
        try:
            return super().main(*args, **more)
        except BrokenPipeError:  # stderr's, in telling an error
            streams.end_of_pipe()
        finally:
            streams.let_go()

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _minded():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _minded():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        wide = streams.UNFOLDED
        rows = [(name, command.get_short_help_str(limit=wide)) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sidestep")
def main() -> None:
    """Send an unchanged app's LLM calls to a provider that works."""


def script_path() -> Path:
    """The file that `mitmdump -s` loads: installed beside this one, or in the source tree above it."""
    here = Path(__file__).resolve().parent
    installed = here / "script.py"
    return installed if installed.is_file() else here.parent / "main.py"


@main.command()
def script() -> None:
    """Print the path to give to `mitmdump -s`."""
    click.echo(script_path())


@main.command()
def dashboard() -> None:
    """Print a dashboard for Grafana, whose queries are for Prometheus."""
    click.echo((Path(__file__).parent / "page" / "grafana.json").read_text(), nl=False)


def _start(tool: str, arguments: tuple[str, ...], workers: int = 1) -> None:
    """Become one of mitmproxy's own tools, with the addon loaded; or what starts several."""
    # Not the program of that name: it need not lie beside this interpreter, nor on PATH.
    code = f"import sys; from mitmproxy.tools.main import {tool}; sys.argv[0] = {tool!r}; {tool}()"
    first: tuple[str, ...] = ()
    if workers > 1:
        code = "import sys; from sidestep.workers.supervisor import main; sys.exit(main(sys.argv[1:]))"
        first = (str(workers),)
    try:
        trusted = proxy.trusted_upstream(arguments, os.environ)
    except trust.TrustError as e:
        raise click.ClickException(str(e).replace("--confdir names", "--set confdir=… names")) from None
    command = [sys.executable, "-P", "-c", code, *first, "-s", str(script_path()), *trusted, *arguments]
    os.execv(sys.executable, command)  # noqa: S606  # without a shell


def _tool(name: str, tool: str) -> None:
    @main.command(
        name,
        help=f"Start {tool} with the addon loaded; every further argument is {tool}'s."
        + (" --workers N: so many processes share the port (0: one a core)." if tool == "mitmdump" else ""),
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
    )
    @click.option("--workers", type=click.IntRange(0, MOST_WORKERS), default=1)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def start(workers: int, arguments: tuple[str, ...]) -> None:
        count = workers or len(os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1))
        if count > 1 and tool != "mitmdump":
            raise click.UsageError(f"--workers: {tool} shows what one process sees; several share a port in dump alone")
        if count > 1 and sys.platform == "win32":
            raise click.UsageError("--workers: processes cannot share a port on Windows")
        _start(tool, arguments, count)


_tool("dump", "mitmdump")
_tool("web", "mitmweb")
_tool("console", "mitmproxy")
for _command in live.COMMANDS:
    main.add_command(_command)


@main.command(context_settings={"allow_interspersed_args": False})
@click.option("--web", is_flag=True, help="Use mitmweb, to look at what happens, and print its address.")
@click.option("--keep", is_flag=True, help="Leave the proxy running at the end.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors; not who has answered.")
@CONFIG_OPTION
@CONFDIR_OPTION
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(web: bool, keep: bool, quiet: bool, config_file: Path | None, confdir: Path, command: tuple[str, ...]) -> None:
    """Run COMMAND with its LLM calls going through Sidestep; everything else it does passes unopened.

    Exits as the command does: with 128+n if signal n ended it, 127 if there is no such command, 126 if it cannot be
    executed; with 125 if the proxy did not start.
    """
    from sidestep.run import running

    options = proxy.RunOptions(web=web, keep=keep, quiet=quiet, config=str(config_file or ""), confdir=confdir)
    raise SystemExit(running.run(command, options, script_path(), os.environ))


@main.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8080,
    show_default=True,
    help="Where the proxy listens, on this machine.",
)
@click.option(
    "--shell",
    type=click.Choice(environment.SHELLS),
    default="sh",
    show_default=True,
    help="Which one is to read them.",
)
@click.option("--create-ca", is_flag=True, help="Make mitmproxy's CA if there is none yet.")
@click.option("--unset", is_flag=True, help="Print what takes them away again, in a shell that has them.")
@CONFDIR_OPTION
def env(port: int, shell: str, create_ca: bool, unset: bool, confdir: Path) -> None:
    """Print the variables that send a program through a proxy that runs already: eval "$(sidestep env)"."""
    missing = False
    try:
        missing = not create_ca and not trust.ca_file(confdir).exists()
        if create_ca:
            trust.create_ca(confdir)
        trusted = trust.prepare(confdir, os.environ)
    except trust.TrustError as e:
        hint = "; the proxy's first start makes it, or sidestep env --create-ca" if missing else ""
        raise click.ClickException(f"{e}{hint}") from None
    found = environment.variables(os.environ, port, trusted)
    if unset:
        # What the shell has by now is what it would be given: only that is ours.
        found = {name: value for name, value in found.items() if os.environ.get(name) == value}
    elif not runtime.answers(port):
        streams.note(f"note: nobody listens on port {port} yet, and until then programs reach nothing")
    click.echo(environment.phrase(found, shell, unset=unset))


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path), default=Path(FILE))
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(file: Path, force: bool) -> None:
    """Write a commented configuration from the keys in the environment, by default to ./sidestep.toml, and trust it."""
    text = initial.configuration(os.environ)
    # It must pass the check that it recommends.
    reading.parse(text, os.environ, str(file))
    try:
        with open(file, "w" if force else "x", encoding="utf-8", opener=_not_through_links) as out:
            out.write(text)
    except FileExistsError:
        raise click.ClickException(f"{file} is there already; --force writes over it") from None
    except OSError as e:
        raise click.ClickException(f"{file}: {e.strerror}") from None
    try:
        trusting.trust(file, text)
    except OSError as e:
        streams.note(f"note: it could not be trusted, so name it with --config: {e.strerror or e}")
    # Without a name it is found by itself; one with a space in it can be copied.
    told = "sidestep check" if file == Path(FILE) else shlex.join(["sidestep", "check", str(file)])
    click.echo(f"wrote {file}; `{told}` shows what it comes to")


def _not_through_links(path: str, flags: int) -> int:
    """A folder's link may lead to any file of the user's."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@main.command("trust")
@click.argument("file", required=False, type=click.Path(path_type=Path), default=Path(FILE))
@click.option("--revoke", is_flag=True, help="Trust it no longer.")
def trust_command(file: Path, revoke: bool) -> None:
    """Trust a folder's configuration, by default ./sidestep.toml, with all that it reaches, and show that.

    An edit that reaches nothing new needs no second word; one that does is not used until it is trusted. A file that is
    named with --config or sidestep_config, or lies in your own configuration folder, needs none.
    """
    path = file / FILE if file.is_dir() else file
    shown = trusting.shown(path)
    if not revoke and not os.path.lexists(path):
        raise click.ClickException(f"{shown}: expected a file, found nothing there; `sidestep init` writes one")
    try:
        if revoke:
            was = trusting.revoke(path)
            after = "is not trusted any more; proxies that run keep what they have" if was else "was not trusted"
            click.echo(f"{shown} {after}")
            return
        reached = trusting.trust(path, reading.text_of(path))
        others = trusting.others_may_write(path)
    except ConfigError as e:
        raise click.ClickException(str(e)) from None
    except OSError as e:
        raise click.ClickException(f"{shown} could not be trusted: {e.strerror or e}") from None
    click.echo(f"{shown} is trusted with:")
    for line in sorted(map(reach.in_words, reached)):
        click.echo(f"  {line}")
    if others:
        streams.note(f"note: others may write it ({others}): all but the above is theirs to choose")
    if path.name != FILE:
        streams.note(f"note: in a folder only {FILE} is looked for; this one is used where --config names it")


@main.command()
@click.argument("url")
@click.option("--model", help="The model that the call asks for.")
@click.option("--method", help="By default POST, or a WebSocket handshake for a wss:// URL.")
@CONFIG_OPTION
@JSON_OPTION
def explain(url: str, model: str | None, method: str | None, config_file: Path | None, as_json: bool) -> None:
    """Say where a call to URL would go, and why."""
    _, settings = _settings(config_file, as_json=as_json)
    settings = _with_local_servers(settings)
    try:
        found = explaining.explain(settings, url, model, method and method.upper())
    except ValueError as e:
        raise click.BadParameter(str(e), param_hint="URL") from None
    if "route" in found:
        found["missing"] = explaining.missing(settings, found, os.environ)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    console = streams.console()
    if not found["routed"]:
        console.print(f"It goes where the app sent it: {found['why']}.")
        _print_rejected(console, found)
        _print_missing(console, found)
        return
    asked = f" for {found['model']}" if found["model"] else " for a model that was not said (--model)"
    # One provider has no order.
    order = f"; {explaining.order(found['strategy'])}" if len(found["providers"]) > 1 else ""
    line = f"{found['operation']}{asked}, by the route {found['route']} from {found['intercept']}{order}:"
    console.print(line)
    if found["mode"] == "observe":
        console.print("(mode observe: Sidestep would only look on)")
    columns = ("", "provider", "base URL", "model", "credential", "why")
    rows = []
    for number, p in enumerate(found["providers"], 1):
        own = " (own)" if p["own"] else ""
        rows.append((str(number), p["name"] + own, p["base_url"], p["model"] or "-", p["credential"], p["why"]))
    console.print(tables.Fitted(columns, rows, below="base URL"))
    _print_rejected(console, found)
    _print_missing(console, found)


def _print_rejected(console: Console, found: dict[str, Any]) -> None:
    for p in found.get("rejected", ()):
        console.print(f"not {p['name']}: {p['why']}")


def _print_missing(console: Console, found: dict[str, Any]) -> None:
    if lacking := [f"{p['name']} ({p['why']})" for p in found.get("missing", ())]:
        console.print(f"could stand in as well: {', '.join(lacking)}")


def _with_local_servers(settings: Settings) -> Settings:
    """The settings with the servers of this machine that answer now, as a proxy that is started now would use them."""
    wanted = local.looked_for(settings)
    if not wanted or settings.mode == "off":
        return settings
    # It brings mitmproxy's types along, which takes its time.
    from sidestep import probing

    found = {name: models for name, models in probing.models_of(wanted).items() if models is not None}
    return local.with_found(settings, found)


def _settings(file: Path | None, *, as_json: bool) -> tuple[Choice, Settings]:
    """The configuration that would be used. Ends the program where there is something wrong with it."""
    chosen = choose(places("" if file is None else str(file)))
    if chosen.untrusted is not None:
        streams.note(f"note: {chosen.untrusted}")
    try:
        return chosen, chosen.settings(os.environ)
    except ConfigError as e:
        if as_json:
            click.echo(json.dumps({"ok": False, "problems": [str(p) for p in e.problems]}, indent=1))
        else:
            streams.note(str(e))
        raise SystemExit(1) from None


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--probe", is_flag=True, help="Ask each provider for its list of models, with its key.")
@JSON_OPTION
def check(file: Path | None, probe: bool, as_json: bool) -> None:
    """Validate a configuration and show what would be used; keys are never shown.

    Exits with 1 if there is a problem, or if a provider that was asked (--probe) fails.
    """
    chosen, settings = _settings(file, as_json=as_json)
    found = _keys(chosen, settings)
    settings = _with_local_servers(settings)
    probes = []
    if probe:
        # It brings mitmproxy's types along, which takes its time.
        from sidestep import probing

        with steps.steps(Console(stderr=True), len(settings.providers), ended=True) as step:
            probes = probing.probe(settings.providers, tell=lambda name: step(f"asked for models: {name}"))
    failed = any(p.ok is False for p in probes)
    if as_json:
        data = _as_data(settings) | {"keys": found, "advice": advice.advice(settings)}
        if probe:
            data["probes"] = [asdict(p) for p in probes]
            data["ok"] = not failed
        click.echo(json.dumps(data, indent=1))
        raise SystemExit(failed)
    console = streams.console()
    head = Text.assemble((settings.source, "bold"), f": no problems, mode {settings.mode}")
    console.print(head)
    columns = ("provider", "dialect", "base URL", "credential", "models")
    rows = [(p.name, p.dialect, str(p.base_url), _credential(p), _models(p)) for p in settings.providers]
    console.print(tables.Fitted(columns, rows, below="base URL"))
    for line in reading.describe(settings):
        console.print(line)
    lacking = []
    if settings.fleet is not None and find_spec("valkey") is None:
        lacking.append("[fleet] url is set, and the client for it is not installed: install sidestep[fleet]")
    for line in (*advice.advice(settings), *lacking):
        console.print(f"note: {line}")
    for word, wanted in (("set", True), ("not set", False)):
        if names := [name for name, is_set in found.items() if is_set is wanted]:
            console.print(f"keys that are {word}: {', '.join(names)}")
    for p in probes:
        style, word = {True: ("green", "ok"), False: ("red", "failed"), None: ("", "-")}[p.ok]
        name = p.provider if len(settings.by_name[p.provider]) == 1 else f"{p.provider} ({p.dialect})"
        console.print(Text.assemble(f"{name}: ", (word, style), f", {p.text}"))
    raise SystemExit(failed)


def _keys(chosen: Choice, settings: Settings) -> dict[str, bool]:
    """Which of the keys that may be used are in the environment. The file has been read before, without a problem."""
    if chosen.path is None:
        return keys.of_catalog(os.environ)
    keyed = {p.name for p in settings.providers if p.api_key is not None}
    return keys.of_file(chosen.raw(), keyed, os.environ)


def _credential(provider: Provider) -> str:
    if provider.api_key is not None:
        return f"a key of yours ({provider.auth})"
    return "none" if provider.auth == "none" else "the app's own"


def _models(provider: Provider) -> str:
    if provider.only is None:
        return "all"
    more = len(provider.only) - SHOWN_MODELS
    return ", ".join(provider.only[:SHOWN_MODELS]) + (f", {more} more" if more > 0 else "")


def _as_data(settings: Settings) -> dict[str, Any]:
    return {
        "ok": True,
        "source": settings.source,
        "mode": settings.mode,
        "providers": [
            {
                "name": p.name,
                "dialect": p.dialect,
                "base_url": str(p.base_url),
                "credential": _credential(p),
                "only": None if p.only is None else list(p.only),
            }
            for p in settings.providers
        ],
        "routes": [
            {
                "name": r.name,
                "intercept": [str(b) for b in r.intercepts],
                "providers": [p.name for p in r.providers],
                "strategy": r.strategy,
            }
            for r in settings.routes
        ],
        **({} if (fleet := settings.fleet) is None else {"fleet": {"group": fleet.group, "store": fleet.place}}),
    }


@main.command()
@JSON_OPTION
def providers(as_json: bool) -> None:
    """Show the built-in catalog, and whose keys are in the environment."""
    found = [
        (name, entry, keys.variable_of(name, entry, os.environ) is not None) for name, entry in catalog.CATALOG.items()
    ]
    if as_json:
        rows = [
            {
                "name": name,
                "dialect": next(iter(entry.endpoints)),
                "base_url": next(iter(entry.base_urls.values())),
                "base_urls": entry.base_urls,
                "key": " or ".join(entry.env),
                "key_is_set": is_set,
            }
            for name, entry, is_set in found
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    console = streams.console()
    columns = ("provider", "dialect", "base URL", "key in", "set")
    lines = [
        (name, dialect, base, " or ".join(entry.env) or "-", "yes" if is_set else "")
        for name, entry, is_set in found
        for dialect, base in entry.base_urls.items()
    ]
    console.print(tables.Fitted(columns, lines, below="base URL"))


if __name__ == "__main__":
    main()
