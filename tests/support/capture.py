"""mitmproxy's local capture, confined: its eBPF program sees one control group, its network is the test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.namespaces import skipping
from support.proxy import Mitmdump, clean_env

_IN_GROUP = 'mount --make-rprivate / && mount --bind "$0" /sys/fs/cgroup && exec "$@"'
"""The redirector attaches its program to /sys/fs/cgroup: let that be the group alone."""


class Group:
    """A control group (version 2) for the programs to be captured."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def before(self, m: Mitmdump) -> None:
        """Let a proxy that is not started yet capture this group and no other."""
        m._command[:0] = ["unshare", "--mount", "sh", "-c", _IN_GROUP, str(self.path)]
        folder = m.folder / "bin"
        folder.mkdir()
        sudo = folder / "sudo"  # called by mitmproxy whoever it is; as root there is nothing to ask for
        sudo.write_text('#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n')
        sudo.chmod(0o755)
        m._env["PATH"] = f"{folder}:{m._env['PATH']}"

    def run(self, *command: str) -> bytes:
        """What a program of this group prints."""
        enter = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.path)]
        ran = subprocess.run([*enter, *command], capture_output=True, env=clean_env(), timeout=20)
        return ran.stdout or ran.stderr


@contextlib.contextmanager
def group() -> Iterator[Group]:
    """A group of the test's own; the test skips where there is no such thing."""
    for tool in ("curl", "unshare", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    root = next((Path(m[1]) for m in mounts if m[2] == "cgroup2"), None)
    if root is None or not Path("/sys/fs/cgroup").exists():
        pytest.skip("control groups of version 2 are not mounted")
    path = root / f"sidestep-test-{os.getpid()}"
    with skipping("a control group"):
        path.mkdir()
    try:
        yield Group(path)
    finally:
        path.rmdir()
