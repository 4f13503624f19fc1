# SPDX-License-Identifier: MIT
"""Makes the lines that show the workers, as plain text or in colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from wsserver.admin.top.rates import quantile, total
from wsserver.admin.top.watched import Row
from wsserver.status import Histogram

_GAP = "  "
_NAME = 16
_RESET = "\x1b[0m"
_BOLD, _RED, _GREEN, _YELLOW = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"
_COLOURS = {
    "ready": _GREEN,
    **dict.fromkeys(("starting", "draining", "drained"), _YELLOW),
    **dict.fromkeys(("broker_unavailable", "no answer", "down", "no access", "fault"), _RED),
}
_WORDS = {"broker_unavailable": "no broker"}


@dataclass(frozen=True)
class _Cell:
    text: str
    colour: str = ""


@dataclass(frozen=True)
class _Column:
    """`width`: the least width, so that the table does not move while numbers change."""

    head: str
    width: int
    of: Callable[[Row], _Cell]
    of_all: Callable[[Sequence[Row]], _Cell]
    left: bool = False


_Line = list[_Cell]


def frame(head: str, rows: Sequence[Row], width: int, height: int | None, colours: bool) -> list[str]:
    """At most `height` lines of at most `width` characters.

    Columns that do not fit form a second table below the first.
    """
    lines: list[_Line] = [[_Cell(head)]]
    for columns in _tables(rows, width):
        lines += [[], *_table(columns, rows)]
    notes = [[_Cell(f"{row.name} {row.note}")] for row in rows if row.note]
    lines += [[], *notes] if notes else []
    if height is not None and len(lines) > height:
        lines[height - 1 :] = [[_Cell(f"({len(lines) - height + 1} more lines: make the window larger)")]]
    return [_paint(line, width, colours) for line in lines]


def _tables(rows: Sequence[Row], width: int) -> Iterator[list[_Column]]:
    first, *others = _COLUMNS
    columns = [first]
    for column in others:
        needed = [_width(each, rows) + len(_GAP) for each in (*columns, column)]
        if sum(needed) - len(_GAP) > width and len(columns) > 1:
            yield columns
            columns = [first]
        columns.append(column)
    yield columns


def _table(columns: Sequence[_Column], rows: Sequence[Row]) -> Iterator[_Line]:
    lines = [[_Cell(column.head, _BOLD) for column in columns]]
    lines += [[column.of(row) for column in columns] for row in rows]
    if len(rows) > 1:
        lines.append([column.of_all(rows) for column in columns])
    for cells in lines:
        line: _Line = []
        for column, cell in zip(columns, cells, strict=True):
            width = _width(column, rows)
            text = cell.text.ljust(width) if column.left else cell.text.rjust(width)
            line += [_Cell(text, cell.colour), _Cell(_GAP)]
        yield line[:-1]


def _width(column: _Column, rows: Sequence[Row]) -> int:
    cells = [column.of_all(rows), *map(column.of, rows)]
    return max(column.width, len(column.head), *(len(cell.text) for cell in cells))


def _paint(line: _Line, width: int, colours: bool) -> str:
    painted = ""
    for cell in line:
        # Names and errors come from workers, and must not move the cursor.
        text = "".join(char if char.isprintable() else "?" for char in cell.text)[:width]
        width -= len(text)
        painted += f"{cell.colour}{text}{_RESET}" if colours and cell.colour and text.strip() else text
    return painted.rstrip()


# The columns.


def _state(row: Row) -> _Cell:
    return _Cell(_WORDS.get(row.state, row.state), _COLOURS.get(row.state, ""))


def _all_states(rows: Sequence[Row]) -> _Cell:
    ready = sum(row.state == "ready" for row in rows)
    return _Cell(f"{ready}/{len(rows)} ready", _GREEN if ready == len(rows) else _RED)


def _drops(rows: Sequence[Row]) -> _Cell:
    counters = [row.answer.counters for row in rows if row.answer and row.answer.counters]
    if not counters:
        return _Cell("-")
    new = sum(row.rates.drops for row in rows if row.rates)
    return _Cell(_count(sum(one.drops for one in counters)) + (f" +{_count(new)}" if new else ""), _RED if new else "")


def _latency(histograms: Sequence[Histogram], q: float) -> _Cell:
    together = total(histograms)
    seconds = quantile(together, q) if together else None
    if together and seconds == math.inf:
        return _Cell(f">{_seconds(together.bounds[-1])}")
    return _Cell(_seconds(seconds))


def _delivery(q: float) -> Callable[[Sequence[Row]], _Cell]:
    return lambda rows: _latency([row.rates.publish_to_deliver for row in rows if row.rates], q)


def _redis(rows: Sequence[Row]) -> _Cell:
    """Whether Redis is available, and the latency of most publishes there."""
    answers = [row.answer for row in rows if row.answer]
    if not all(answer.broker.available for answer in answers):
        return _Cell("down", _RED)
    latency = _latency([row.rates.broker_publish for row in rows if row.rates], 0.99)
    return latency if latency.text != "-" or not answers else _Cell("ok")


def _archive(rows: Sequence[Row]) -> _Cell:
    archives = [row.answer.archive for row in rows if row.answer and row.answer.archive]
    if not archives:
        return _Cell("-")
    lag_s = max(archive.lag_s for archive in archives)
    if all(archive.available for archive in archives):
        return _Cell(_seconds(lag_s) if lag_s else "ok")
    return _Cell(f"down {_seconds(lag_s)}" if lag_s else "down", _RED)


def _sum(of: Callable[[Row], float | None], show: Callable[[float], str]) -> Callable[[Sequence[Row]], _Cell]:
    def cell(rows: Sequence[Row]) -> _Cell:
        known = [number for number in map(of, rows) if number is not None]
        return _Cell(show(sum(known)) if known else "-")

    return cell


def _worst_lag(rows: Sequence[Row]) -> _Cell:
    return _Cell(_seconds(max((row.lag_s for row in rows if row.lag_s is not None), default=None)))


def _count(number: float) -> str:
    for unit in ("", "k", "M"):
        if round(number) < 100_000:
            return f"{number:.0f}{unit}" if number >= 10 or number == int(number) else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.0f}G"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.1f}ms" if seconds < 0.00995 else f"{seconds * 1000:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 59.95 else _age(seconds)


def _age(seconds: float) -> str:
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    return f"{minutes}m {int(seconds) % 60}s" if minutes else f"{int(seconds)}s"


def _bytes(number: float) -> str:
    return f"{number / 2**20:.0f}M" if number < 10_000 * 2**20 else f"{number / 2**30:.0f}G"


def _percent(share: float) -> str:
    return f"{share * 100:.0f}%"


def _column(head: str, width: int, of_all: Callable[[Sequence[Row]], _Cell]) -> _Column:
    """A column that is computed alike for one worker and for the total."""
    return _Column(head, width, lambda row: of_all([row]), of_all)


def _alone(head: str, width: int, of: Callable[[Row], str], left: bool = False, of_all: str = "") -> _Column:
    """A column that has no total."""
    return _Column(head, width, lambda row: _Cell(of(row)), lambda _rows: _Cell(of_all), left)


def _name(row: Row) -> str:
    """The end of a path."""
    return row.name if len(row.name) <= _NAME else f"~{row.name[1 - _NAME :]}"


def _pid(row: Row) -> str:
    return str(row.answer.pid if row.answer else row.process.pid if row.process else "-")


_COLUMNS = [
    _alone("WORKER", 6, _name, left=True, of_all="all"),
    _Column("STATE", 9, _state, _all_states, left=True),
    _column("CONNS", 5, _sum(lambda row: row.answer.connections if row.answer else None, _count)),
    # A room may be on several workers, so there is no sum.
    _alone("ROOMS", 5, lambda row: _count(row.answer.rooms) if row.answer else "-"),
    _column("IN/S", 5, _sum(lambda row: row.rates.messages_in if row.rates else None, _count)),
    _column("OUT/S", 5, _sum(lambda row: row.rates.messages_out if row.rates else None, _count)),
    _column("P50", 5, _delivery(0.5)),
    _column("P99", 5, _delivery(0.99)),
    _column("LAG", 5, _worst_lag),
    _column("DROPS", 9, _drops),
    _column("REDIS", 6, _redis),
    _column("ARCHIVE", 10, _archive),
    _column("CPU", 4, _sum(lambda row: row.cpu, _percent)),
    _column("MEM", 5, _sum(lambda row: row.process.memory_bytes if row.process else None, _bytes)),
    _alone("UPTIME", 7, lambda row: _age(row.answer.uptime_s) if row.answer else "-"),
    _alone("PID", 7, _pid),
    _alone("VERSION", 18, lambda row: row.answer.version if row.answer else "-", left=True),
]
