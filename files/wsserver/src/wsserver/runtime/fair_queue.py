# SPDX-License-Identifier: MIT
"""A queue from which the owners of its items are served in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

_T = TypeVar("_T")


class FairQueue(Generic[_T]):
    """The items of one owner keep their order. `each`: items of one owner that are taken at once.

    So an owner with many items delays the items of the others by few of its own.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._lines: OrderedDict[str, deque[_T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def put(self, owner: str, item: _T) -> None:
        line = self._lines.get(owner)
        if line is None:
            self._lines[owner] = deque((item,))
        else:
            line.append(item)

    def take(self, most: int) -> list[_T]:
        """Remove and return up to `most` items, and of each owner up to `each`."""
        taken: list[_T] = []
        for _turn in range(len(self._lines)):
            if len(taken) == most:
                break
            owner, line = self._lines.popitem(last=False)
            taken.extend(line.popleft() for _item in range(min(len(line), self._each, most - len(taken))))
            if line:
                self._lines[owner] = line  # behind the others
        return taken

    def clear(self) -> list[_T]:
        """Remove and return all items."""
        lines, self._lines = self._lines, OrderedDict()
        return [item for line in lines.values() for item in line]
