"""The addon in a program of somebody's own, added to a master that has mitmproxy's addons already."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.calls import APP_KEY, Client
from support.provider import Behaviour, Provider, text_of
from support.proxy import ADDON, Mitmdump
from support.settings import key_of, route
from support.waiting import until

PROGRAM = """
import asyncio, logging, sys
from mitmproxy import options
from mitmproxy.tools.dump import DumpMaster
from sidestep import Sidestep

async def main(confdir, config, late):
    own = options.Options(confdir=confdir, listen_host="127.0.0.1", listen_port=0)
    master = DumpMaster(own, with_dumper=False)
    if late:
        master.addons.add(Sidestep())
        own.update(sidestep_config=config)
    else:
        own.set(f"sidestep_config={config}", defer=True)
        master.addons.add(Sidestep())
    await master.run()

logging.getLogger().setLevel(logging.INFO)
asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] == "late"))
"""


@pytest.mark.parametrize("option", ["early", "late"])
def test_added_after_mitmproxys_own_addons(
    option: str, provider: Callable[..., Provider], stack: ExitStack, tmp_path: Path
) -> None:
    """`master.addons.add(Sidestep())` routes as a script does, over plain HTTP and inside a CONNECT, whether its
    option is set before or after."""
    own, a, b = provider("own"), provider("a"), provider("b")
    own.default = a.default = Behaviour(status=503)
    text = "\n".join([route("chat", own, b, own=own, suffix="-plain"), route("messages", a, b)])
    m = Mitmdump(tmp_path / "proxy", text, env={"PYTHONPATH": str(ADDON.parent)})
    m._command = [sys.executable, "-c", PROGRAM, str(m.confdir), str(m.config), option]
    stack.enter_context(m)
    until(m.ca.exists, "mitmproxy's CA is there: it listens a moment before")
    with Client(m, {"openai": own.url()}) as app:
        for stream in (False, True):
            plain = app.call("chat", stream=stream)
            assert plain.error is None, m.log
            assert (plain.text, plain.provider) == (text_of("b", Behaviour()), "b-plain")
            tunnelled = app.call("messages", stream=stream)
            assert tunnelled.error is None, m.log
            assert (tunnelled.text, tunnelled.provider) == (text_of("b", Behaviour()), "b")
    for seen in b.requests:
        assert key_of("b") in str(seen.headers)
        assert APP_KEY not in str(seen.headers)
