"""What `sidestep run` and the proxy that it starts hand to each other, and a supervisor to its workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

CONTROL_FD = "SIDESTEP_CONTROL_FD"
"""In a proxy's environment: the number of the socket by which `running` and `companion` talk."""
FORCED_OPTIONS = "SIDESTEP_FORCED_OPTIONS"
"""In a proxy's environment: options of mitmproxy, as JSON, that nothing else may set otherwise."""
DIRECT_HOSTS = "SIDESTEP_DIRECT_HOSTS"
"""In a proxy's environment: the user's NO_PROXY, where there is a proxy behind it that others are reached through."""
UPSTREAM_AUTH = "SIDESTEP_UPSTREAM_AUTH"
"""In a proxy's environment: `user:password` for the proxy behind it. Every user of a machine can read command lines."""
WORKER = "SIDESTEP_WORKER"
"""In a worker's environment: the number of the socket by which it talks with its supervisor."""


Kept = tuple[str | None, str | None]
"""A configuration's path and its text; None: the catalog."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a supervisor tells a worker. `number`: from 1, of `workers`. `pid`: the supervisor's. `token`: for the
    controls, the same at all workers. `store`: the URL of the store that it has started for what they know, and the
    secret for the names in it; None: there is none. Not in the environment: all processes of the user see that.
    `folder`: where each leaves its figures for the others to show. `kept`: the configuration that is in force at the
    workers that run, as one of them has told it."""

    number: int
    workers: int
    pid: int
    token: str = field(repr=False)
    folder: str
    store: tuple[str, str] | None = field(default=None, repr=False)
    kept: Kept | None = field(default=None, repr=False)


share: Share | None = None
"""Where this process is one of several workers."""
keep: Callable[[Kept], None] = lambda kept: None  # noqa: E731
"""Is told the configuration that has been taken, for whoever may start in the place of a worker."""
