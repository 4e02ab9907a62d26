"""The `sidestep` command: what can be known and started without mitmproxy's own command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sidestep import catalog, config
from sidestep.config import ConfigError, Settings
from sidestep.locating import find_config, load_settings

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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


def _start(tool: str, arguments: tuple[str, ...]) -> None:
    """Become one of mitmproxy's own tools, with the addon loaded."""
    program = Path(sys.executable).parent / tool
    command = [str(program), "-s", str(script_path()), *arguments]
    os.execv(program, command)  # noqa: S606  # the very program that was asked for, without a shell


def _tool(name: str, tool: str) -> None:
    @main.command(
        name,
        help=f"Start {tool} with the addon loaded; every further argument is {tool}'s.",
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def start(arguments: tuple[str, ...]) -> None:
        _start(tool, arguments)


_tool("dump", "mitmdump")
_tool("web", "mitmweb")
_tool("console", "mitmproxy")


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@JSON_OPTION
def check(file: Path | None, as_json: bool) -> None:
    """Validate a configuration and show what would be used; keys are never shown."""
    path = find_config("" if file is None else str(file))
    try:
        settings = load_settings(path, os.environ)
    except ConfigError as e:
        if as_json:
            click.echo(json.dumps({"ok": False, "problems": [str(p) for p in e.problems]}, indent=1))
        else:
            click.echo(str(e), err=True)
        raise SystemExit(1) from None
    if as_json:
        click.echo(json.dumps(_as_data(settings), indent=1))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{settings.source}[/bold]: no problems, mode {settings.mode}")
    table = Table("provider", "dialect", "base URL", "credential", "models")
    for provider in settings.providers:
        table.add_row(provider.name, provider.dialect, str(provider.base_url), _credential(provider), _models(provider))
    console.print(table)
    for line in config.describe(settings):
        console.print(line, markup=False, soft_wrap=True)


def _credential(provider: config.Provider) -> str:
    if provider.api_key is not None:
        return f"a key of yours ({provider.auth})"
    return "none" if provider.auth == "none" else "the app's own"


def _models(provider: config.Provider) -> str:
    return "all" if provider.only is None else ", ".join(provider.only)


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
    }


@main.command()
@JSON_OPTION
def providers(as_json: bool) -> None:
    """Show the built-in catalog, and whose keys are in the environment."""
    rows = []
    for name, entry in catalog.CATALOG.items():
        found = next((v for v in entry.env if os.environ.get(v)), None)
        rows.append((name, entry.dialect, str(entry.base_url), " or ".join(entry.env), found is not None))
    if as_json:
        names = ("name", "dialect", "base_url", "key", "key_is_set")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1))
        return
    table = Table("provider", "dialect", "base URL", "key in", "set")
    for name, dialect, base, env, is_set in rows:
        table.add_row(name, dialect, base, env or "–", "yes" if is_set else "")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
