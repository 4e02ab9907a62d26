"""Signals while a command runs: which are passed on to it, which end it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

_FORWARDED = frozenset(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGWINCH", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
WATCHED = _FORWARDED | ({signal.SIGCHLD} if hasattr(signal, "SIGCHLD") else frozenset())
_BY_TERMINAL = frozenset(getattr(signal, n) for n in ("SIGINT", "SIGQUIT", "SIGWINCH") if hasattr(signal, n))
IGNORED_BY_PYTHON = [getattr(signal, n) for n in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, n)]


class Signalled(BaseException):
    """A signal that came before there was a command to give it to."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Until the command runs, signals end the start; what was begun is undone on the way."""

    def leave(number: int, _: object) -> NoReturn:
        raise Signalled(number)

    deadly = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {n: signal.signal(n, leave) for n in deadly if signal.getsignal(n) is not signal.SIG_IGN}
    # Where the default is to ignore, a blocked signal may not even be kept.
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        while signal.sigpending() & WATCHED:
            signal.sigwait(WATCHED)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def wait_for(child: int) -> int:
    """Wait for the child, giving it every signal that it has not had yet; its exit code as a shell tells it."""
    while True:
        number, had = _next_signal()
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif not had:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, number)


def _next_signal() -> tuple[int, bool]:
    """A signal, and whether the terminal sent it: then the child, in the same group, has had it too."""
    if hasattr(signal, "sigwaitinfo"):
        info = signal.sigwaitinfo(WATCHED)
        # Above zero: sent by the kernel, as the terminal's signals are.
        return info.si_signo, info.si_code > 0
    number = signal.sigwait(WATCHED)
    return number, number in _BY_TERMINAL and _in_foreground()


def _in_foreground() -> bool:
    try:
        terminal = os.open(os.ctermid(), os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
