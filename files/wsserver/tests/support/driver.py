# SPDX-License-Identifier: MIT
"""What a scenario does with a client, in whichever language the client is written.

A scenario sees plain data, with the names of the protocol; a driver translates.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from support.scripted import Scripted


class Call(Protocol):
    """A call of a client's method that is under way."""

    async def outcome(self) -> dict[str, Any]:
        """Wait for the end: `value` if the method returned one, or `name`, `code` and `message` of the error."""
        ...


class Driver(Protocol):
    """One client. `hang_up_code`: how the server sees it leave a connection; `abort_code`: a faulty one.

    `refusal`: what the reason of a refused handshake contains. `lost_ping`: the error of a ping that the end of the
    connection cuts off.
    """

    hang_up_code: int
    abort_code: int
    refusal: str
    lost_ping: str

    async def connect(self) -> None: ...

    async def close(self) -> None: ...

    async def begin(self, method: str, *arguments: Any, **options: Any) -> Call:
        """Call `publish`, `join`, `leave`, `presence`, `history` or `ping`. Rooms go by name, times are milliseconds."""
        ...

    async def messages(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many messages, over all rooms, and return all that came."""
        ...

    async def events(self, *types: str) -> list[dict[str, Any]]:
        """The `gap`, `reset`, `member` and `error` events that the application was told."""
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
        """What a computer does to its clocks when it sleeps: timers stand still, the calendar does not."""
        ...

    def refused(self, server: Scripted, times: int) -> AbstractAsyncContextManager[None]:
        """The handshakes that what happens in this context brings about are refused, so many of them."""
        ...


class Talk(Protocol):
    """Clients that talk to each other, and are held against the promise."""

    @property
    def clients(self) -> int: ...

    async def until_cut_off(self) -> None:
        """Wait until no client has a connection."""
        ...

    async def until_back(self) -> None:
        """Wait until all clients have one, each of them another one than at first."""
        ...


# Of a URL and the options of a client, by the names of the Python client.
MakeDriver = Callable[..., AbstractAsyncContextManager[Driver]]
# Of the URL of a real worker.
MakeTalk = Callable[[str], AbstractAsyncContextManager[Talk]]
