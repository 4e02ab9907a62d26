"""What a command does with streams that are closed, or that nobody reads."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from sidestep import cli
from sidestep.run import streams


class Unread(io.TextIOWrapper):
    """A pipe whose reader has gone: what is written is refused once it is flushed."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        super().__init__(os.fdopen(writer, "wb"))


def refuse(*_: Any, **__: Any) -> None:
    raise BrokenPipeError


@pytest.mark.parametrize("arguments", [["--help"], ["providers"], ["providers", "--json"], ["check"], ["nonsense"]])
def test_a_reader_that_has_gone_ends_a_command_as_a_signal_would(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Unread())
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == streams.ENDED_BY_SIGPIPE
    for stream in (sys.stdout, sys.stderr):
        stream.close()  # as at the interpreter's end: what was held back goes nowhere, without a word


def test_closed_streams_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has none of them then, and the numbers of closed ones are taken by what goes nowhere."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    opened: list[int] = []

    def fstat(number: int) -> None:
        if number == 1:
            raise OSError

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", fstat)
        patched.setattr(os, "set_inheritable", lambda number, _: opened.append(number))
        streams.open_closed()
    assert len(opened) == 1
    os.close(opened[0])
    assert sys.stdout.write("x") == sys.stderr.write("x") == 1
    sys.stdout.close()
    sys.stderr.close()


def test_a_console_for_no_terminal_folds_nothing() -> None:
    runner = CliRunner()
    with runner.isolation() as (out, _, _):
        streams.console().print("word " * 100)
        assert out.getvalue().count(b"\n") == 1
