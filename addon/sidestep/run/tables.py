"""Prose and tables for a terminal of any width, in which no word is cut: an address that is cut cannot be copied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

Cell = str | Text
GAP = 2
HEADER = "bold underline"
_WORD = re.compile(r"\s*\S+")


class Prose:
    """A line that is broken between words, at the edge of a terminal alone. A word that is longer than that goes on
    beyond it. `indent`: of the lines after the first."""

    def __init__(self, text: Cell, indent: int = 0) -> None:
        self.text = Text(text) if isinstance(text, str) else text
        self.indent = indent

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.text.split(allow_blank=True):
            if not options.is_terminal:
                yield line
                continue
            for number, piece in enumerate(line.divide(list(_breaks(line.plain, options.max_width, self.indent)))):
                if number:
                    piece = Text(" " * self.indent) + piece[len(piece.plain) - len(piece.plain.lstrip()) :]
                yield piece


def _breaks(line: str, width: int, indent: int) -> Iterator[int]:
    """Where a line is broken."""
    column = 0
    for word in _WORD.finditer(line):
        size = cell_len(word[0])
        if column > 0 and column + size > width:
            yield word.start()
            column, size = indent, cell_len(word[0].lstrip())
        column += size


class Fitted:
    """Rows as wide as the place that they are shown in. What does not fit is wrapped by words. Where that is not enough
    the column `below` stands in a line of its own under each row, and else each cell in one, after its column's
    name."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], below: str = "") -> None:
        self.columns = columns
        self.rows = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
        self.below = below

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        columns, rows, place = self.columns, self.rows, options.max_width
        if (widths := _widths(place, columns, rows)) is not None:
            yield _table(columns, rows, widths)
            return
        if self.below:
            apart = columns.index(self.below)
            names, cells = _without(columns, apart), [_without(row, apart) for row in rows]
            if (widths := _widths(place, names, cells)) is not None:
                yield _table(names, [], widths)
                for cell, row in zip(cells, rows, strict=True):
                    yield _table(None, [cell], widths)
                    yield Prose(Text(" " * 2 * GAP) + row[apart], 2 * GAP)
                return
        for row in rows:
            yield from _block(columns, row)


def _without[T](items: Sequence[T], place: int) -> list[T]:
    return [item for i, item in enumerate(items) if i != place]


def _widths(width: int, columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> list[int] | None:
    """Of each column, so that all words are whole; None if there is no room for that."""
    cells = [[Text(name), *(row[i] for row in rows)] for i, name in enumerate(columns)]
    least = [max(max(map(len, cell.plain.split()), default=0) for cell in column) for column in cells]
    most = [max(cell.cell_len for cell in column) for column in cells]
    free = width - sum(least) - GAP * (len(columns) - 1)
    if free < 0:
        return None
    widths = list(least)
    wanting = sorted(range(len(columns)), key=lambda i: most[i] - least[i])
    for place, i in enumerate(wanting):  # those that want least are served first
        more = min(most[i] - least[i], free // (len(wanting) - place))
        widths[i] += more
        free -= more
    return widths


def _table(columns: Sequence[str] | None, rows: Sequence[Sequence[Text]], widths: Sequence[int]) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style=HEADER, show_header=columns is not None)
    for name, width in zip(columns or [""] * len(widths), widths, strict=True):
        made.add_column(name, width=width)
    for row in rows:
        made.add_row(*row)
    return made


def _block(columns: Sequence[str], row: Sequence[Text]) -> Iterator[RenderableType]:
    for place, (name, cell) in enumerate(zip(columns, row, strict=True)):
        if cell.plain:
            yield Prose(Text.assemble(" " * GAP if place else "", f"{name}: " if name else "", cell), 2 * GAP)
