"""What `sidestep run` and the proxy that it starts hand to each other."""

from __future__ import annotations

CONTROL_FD = "SIDESTEP_CONTROL_FD"
"""In a proxy's environment: the number of the socket by which `running` and `companion` talk."""
FORCED_OPTIONS = "SIDESTEP_FORCED_OPTIONS"
"""In a proxy's environment: options of mitmproxy, as JSON, that nothing else may set otherwise."""
DIRECT_HOSTS = "SIDESTEP_DIRECT_HOSTS"
"""In a proxy's environment: the user's NO_PROXY, where there is a proxy behind it that others are reached through."""
UPSTREAM_AUTH = "SIDESTEP_UPSTREAM_AUTH"
"""In a proxy's environment: `user:password` for the proxy behind it. Every user of a machine can read command lines."""

fleet_given: tuple[str, str] | None = None
"""Set in a worker before Sidestep is loaded: the URL of the store that its supervisor has started for it, and the
secret for the names in it. No variable of the environment: those are seen by every process of the user, and by
children."""
