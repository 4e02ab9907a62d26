"""Fixtures: providers and proxies that clean up after themselves, and a limit on every test's time."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from support import proxy as proxies
from support.provider import Provider
from support.proxy import Mitmdump, share_confdir
from support.ready import Ready

WAIT_SECONDS = 90
"""What a test that waits for processes and servers may take."""
CPU_SECONDS = 60
"""What a test of a pure room may take: of the processor, for how long it waits for that tells of the machine alone."""
_WAITING = ("fleet", "fleet_clocks", "fleet_servers", "fleet_store", "plan_sessions", "workers")
WAITS = {f"test_{name}.py" for name in _WAITING}
PURE = {"breaker", "config", "dialects", "routing"}

# Two cores are shared with real proxies: how long a draw takes says nothing about the code.
shared = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("shared machine", shared)
# For `./scripts/test --quick`: what is searched there often is searched deeper by the whole suite.
hypothesis.settings.register_profile("quick", shared, max_examples=25)
hypothesis.settings.load_profile("shared machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What mostly waits comes first: at the end one of several workers would wait alone."""
    items.sort(key=lambda item: item.path.name not in WAITS)


@pytest.fixture(scope="session", autouse=True)
def _one_ca(tmp_path_factory: pytest.TempPathFactory) -> None:
    share_confdir(tmp_path_factory.mktemp("conf"))


@pytest.fixture(scope="session", autouse=True)
def _loaded_once() -> Iterator[None]:
    if not hasattr(os, "pidfd_open"):  # Linux has it
        yield
        return
    proxies.READY = Ready()
    yield
    proxies.READY.close()


@pytest.fixture(scope="session", autouse=True)
def _trusted_by_nobody(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests trust is not remembered where whoever runs them keeps it."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def _time_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    pure = request.path.parent.name in PURE
    seconds, timer, sent = (
        (CPU_SECONDS, signal.ITIMER_PROF, signal.SIGPROF)
        if pure
        else (WAIT_SECONDS, signal.ITIMER_REAL, signal.SIGALRM)
    )

    def too_long(*_: object) -> None:
        faulthandler.dump_traceback()
        raise TimeoutError(f"a test took longer than {seconds} s{' of the processor' if pure else ''}")

    before = signal.signal(sent, too_long)
    signal.setitimer(timer, seconds)
    yield
    signal.setitimer(timer, 0)
    signal.signal(sent, before)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def provider(stack: ExitStack) -> Callable[..., Provider]:
    """Make a provider that ends with the test."""

    def make(name: str, **more: Any) -> Provider:
        return stack.enter_context(Provider(name, **more))

    return make


@pytest.fixture
def proxy(stack: ExitStack, tmp_path: Path) -> Callable[..., Mitmdump]:
    """Start a mitmdump that ends with the test."""

    def start(config: str | None, *options: str, **more: Any) -> Mitmdump:
        return stack.enter_context(Mitmdump(tmp_path / "proxy", config, *options, **more))

    return start
