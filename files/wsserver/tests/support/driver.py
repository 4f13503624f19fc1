# SPDX-License-Identifier: MIT
"""The interface between a scenario and a client in any language.

A scenario uses plain data, with the names of the protocol. A driver translates.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from support.scripted import Scripted


class Call(Protocol):
    """A running call of a client's method."""

    async def outcome(self) -> dict[str, Any]:
        """Wait for the end: `value` if the method returned one, or `name`, `code` and `message` of
        the error."""
        ...


class Driver(Protocol):
    """One client.

    `hang_up_code`: the close code that the server sees when the client leaves a connection.
    `abort_code`: the code when the client leaves a faulty connection. `refusal`: a text in the
    reason of a refused handshake. `lost_ping`: the error of a ping that the end of the connection
    interrupts. `invalid`: the error of a call with an invalid argument.
    """

    hang_up_code: int
    abort_code: int
    refusal: str
    lost_ping: str
    invalid: str

    async def connect(self) -> None: ...

    async def close(self) -> None: ...

    async def retry_now(self) -> None: ...

    async def begin(self, method: str, *arguments: Any, **options: Any) -> Call:
        """Call `publish`, `join`, `leave`, `presence`, `history` or `ping`. Rooms are names, times
        are milliseconds."""
        ...

    async def messages(self, count: int) -> list[dict[str, Any]]:
        """Wait for `count` messages over all rooms, and return all messages so far."""
        ...

    async def events(self, *types: str) -> list[dict[str, Any]]:
        """The `gap`, `reset`, `member` and `error` events that the client reported to the
        application."""
        ...

    async def states(self) -> list[tuple[str, str]]:
        """Each change of the state, with its reason."""
        ...

    async def until(self, *, state: str = "", connects: int = 0) -> None: ...

    async def room(self, name: str) -> dict[str, Any]:
        """`position` and `recovered` of a room."""
        ...

    async def rooms(self) -> list[str]: ...

    async def expelled(self, room: str) -> dict[str, Any]:
        """Wait until the client is out of a room that it did not leave, and return the error."""
        ...

    async def counts(self) -> dict[str, int]:
        """`duplicates`, `holes` and `connects`."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Simulate a sleeping computer: timers stand still, and the wall clock runs."""
        ...

    def refused(self, server: Scripted, times: int) -> AbstractAsyncContextManager[None]:
        """Refuse the next `times` handshakes that the context causes."""
        ...


class Talk(Protocol):
    """Clients that talk to each other, and check the promise."""

    @property
    def clients(self) -> int: ...

    async def until_cut_off(self) -> None:
        """Wait until no client has a connection."""
        ...

    async def until_back(self) -> None:
        """Wait until every client has a new connection."""
        ...


# Takes a URL, and options under their names in the Python client. `hurried`: with short deadlines.
MakeDriver = Callable[..., AbstractAsyncContextManager[Driver]]
# Takes the URL of a real worker.
MakeTalk = Callable[[str], AbstractAsyncContextManager[Talk]]
