# SPDX-License-Identifier: MIT
"""The client: one connection at a time, and all state that outlives a connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from ssl import SSLContext
from typing import Any, NamedTuple, Self

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
from websockets.frames import CloseCode
from websockets.uri import parse_uri

from wsserver.client.backoff import Backoff
from wsserver.client.credentials import BadCredential, CredentialFactory, Credentials
from wsserver.client.errors import Closed, JoinError, ServerError, passes, pause_s
from wsserver.client.link import Link
from wsserver.client.publishes import Publishes
from wsserver.client.requests import Question, Request, Requests, checked, deadline, no_answer
from wsserver.client.room import Arrival, Message, Position, Room, Unreadable, read
from wsserver.protocol.commands import Authenticate, History, Join, Leave, Ping, Presence
from wsserver.protocol.events import (
    Ack,
    Delivery,
    Error,
    Event,
    Expiring,
    Gap,
    HistoryPage,
    Joined,
    Left,
    Pong,
    PresencePage,
    Reconnect,
    Reset,
    Welcome,
)
from wsserver.protocol.types import PAGE_MAX
from wsserver.runtime.tasks import Tasks, fail

log = logging.getLogger(__name__)

_OPEN_S = 10.0
_CLOSE_S = 2.0
# After a connection that lived this long, the waits start again from the shortest.
_STABLE_S = 5.0
_MAX_UNREAD = 1000
# The statuses that refuse the credential: not valid, or too large for a request.
_REFUSED = (401, 403, 414, 431)
_REASON_MAX = 200


class State(StrEnum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Page(NamedTuple):
    """Messages, oldest first, and whether more follow in the direction of the request."""

    messages: list[Message]
    more: bool


class Client:
    """One user's connection to the service at `url` (ws:// or wss://, with the path), over all
    reconnects.

    Give one of: `token`, a JWT; `token_factory`, called for the first token, and when a token
    expires or was refused; `ticket_factory`, called for a ticket before every handshake. A factory
    has 30 seconds; after that, an exception or no text, the client calls it again. ValueError for a
    URL or a token that can never work. `ssl`: the TLS context for wss:// if the system's trust is
    not enough. `max_unacknowledged`: how many publishes may wait for their acknowledgement; further
    publishes are not sent yet. `on_state` gets every change of state and every failed attempt, with
    a reason for people. `on_event` gets every event as the server sent it, repeats included, and
    the gaps and resets that the client itself found. The client logs exceptions of these functions,
    and ignores them.

    `duplicates`: messages that came twice and were dropped. `holes`: messages that were missing
    without a gap from the server, so that the client resumed. `connects`: connections so far.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        token_factory: CredentialFactory | None = None,
        ticket_factory: CredentialFactory | None = None,
        ssl: SSLContext | None = None,
        max_unacknowledged: int = 64,
        on_state: Callable[[State, str], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.state = State.CONNECTING
        self.rooms: dict[str, Room] = {}
        self.duplicates = 0
        self.holes = 0
        self.connects = 0
        self._url = _checked_url(url)
        self._credentials = Credentials(token, token_factory, ticket_factory)
        self._ssl = ssl
        self._on_state = on_state
        self._on_event = on_event
        self._publishes = Publishes(max_unacknowledged, self._update_reading)
        self._requests = Requests()
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._full: set[Room] = set()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._link: Link | None = None  # the connection, once it has its `welcome`
        self._renewal: Authenticate | None = None  # the fresh token that was sent on it
        self._dial_at = 0.0
        self._retry_now = asyncio.Event()
        self._backoff = Backoff()
        self._running: asyncio.Task[None] | None = None
        self._decided: asyncio.Future[None] | None = None
        self._tasks = Tasks()
        self._end: Closed | None = None

    # Life cycle.

    async def __aenter__(self) -> Self:
        """Wait for the first connection, without a timeout.

        Raises Closed if the server refuses the client for good: fresh credentials twice in a row.
        """
        self._decided = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run())
        try:
            await self._decided
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the client. Pending publishes and requests raise Closed; rooms end."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        self._finish("closed by the application")

    def retry_now(self) -> None:
        """If the client waits before its next attempt to connect, end the wait.

        Call when the network is back, for example after the computer slept.
        """
        self._backoff.reset()
        self._retry_now.set()

    def _finish(self, why: str, refused: bool = False) -> None:
        if self._end is not None:
            return
        end = self._end = Closed(why)
        for task in self._tasks:
            task.cancel()
        self._publishes.end(end)
        self._requests.end(end)
        for waiting in (*self._pings.values(), self._decided):
            if waiting is not None and not waiting.done():
                waiting.set_exception(end)
        for room in self.rooms.values():
            room.end(end if refused else None)
        self._change(State.CLOSED, why)

    async def _run(self) -> None:
        try:
            while (why := await self._connect_once()) is not None:
                self._change(State.RECONNECTING if self.connects else State.CONNECTING, why)
                # If the server named a time, keep it. Else wait, so that not all clients come at
                # once.
                hint, self._dial_at = self._dial_at, 0.0
                self._retry_now.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(
                        hint - asyncio.get_running_loop().time() if hint else self._backoff.next()
                    ):
                        await self._retry_now.wait()
        except Exception as exc:
            log.exception("a fault of the client")
            self._finish(f"a fault of the client: {exc!r}", refused=True)

    async def _connect_once(self) -> str | None:
        """The reason why the connection ended or failed; None if the client must not try again."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        refused = accepted = False
        try:
            link = await self._dial()
        except InvalidStatus as exc:
            why, refused = _refusal(exc), exc.response.status_code in _REFUSED
        except (OSError, TimeoutError, WebSocketException) as exc:
            why = str(exc) or "no answer"
        except (BadCredential, ImportError) as exc:  # the proxy of the environment needs a package
            self._finish(str(exc), refused=True)
            return None
        else:
            try:
                await link.run(partial(self._receive, link))
            finally:
                accepted = self._link is link
                self._link = None
                self._publishes.disconnected()
            for waiting in self._pings.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError("the connection ended"))
            why, refused = link.ended, link.close_code == CloseCode.POLICY_VIOLATION
            if loop.time() - started > _STABLE_S:
                self._backoff.reset()
        if refused:
            least_s = self._credentials.refused(accepted)
            if least_s is None:
                self._finish(why, refused=True)
                return None
            if least_s:
                self._dial_at = loop.time() + least_s * random.uniform(1, 2)
        return why

    async def _dial(self) -> Link:
        try:
            url, headers = await self._credentials.present(self._url)
        except BadCredential:
            raise
        except Exception as exc:
            log.exception("no credentials")
            raise ConnectionError(f"no credentials: {exc!r}") from exc
        tls: dict[str, Any] = {} if self._ssl is None else {"ssl": self._ssl}
        connection = await connect(
            url,
            additional_headers=headers,
            open_timeout=_OPEN_S,
            close_timeout=_CLOSE_S,
            ping_interval=None,  # `Link` sends pings that the server's program answers, not only its socket
            max_size=None,
            **tls,
        )
        return Link(connection, self._may_read, lambda: self._publishes.any or self._requests.any, self._drop_overdue)

    def _change(self, state: State, why: str) -> None:
        self.state = state
        _call(self._on_state, state, why)

    # Rooms.

    async def join(
        self,
        room: str,
        *,
        since: Position | None = None,
        members: bool = False,
        on_message: Callable[[Message], None] | None = None,
    ) -> Room:
        """Be a member of `room`, over every reconnect, until `leave`.

        `since`: the position to resume from; else from now. `members`: whether `on_event` gets
        member events. `on_message` gets the messages in place of the iterator. While a thousand
        messages are unread, the client stops reading from the server. A join that is cancelled leaves
        the room. Raises JoinError, Closed, and ValueError if the client is in that room, or if the
        room or the position is not valid.
        """
        self._check_open()
        if room in self.rooms:
            raise ValueError(f"already in the room {room}")
        joined = Room(room, members, since, on_message)
        joined.on_taken(partial(self._taken, joined))
        request = Request(_join(joined), joined, asked=True)
        checked(request.question)
        self.rooms[room] = joined
        try:
            self._send_request(request)
            await request.answered
        except asyncio.CancelledError:
            self._forget(joined)
            self._undo(request)
            raise
        except BaseException:
            self._forget(joined)
            raise
        return joined

    def _undo(self, joining: Request) -> None:
        """Leave the room of a join that was given up."""
        if joining.sent and self._link is not None:
            self._send_request(Request(Leave(joining.question.room)))
        else:
            self._requests.remove(joining)
            self._update_reading()

    async def leave(self, room: Room) -> None:
        """Leave the room. Its unread messages can still be read. Raises ServerError, Closed."""
        if self.rooms.get(room.name) is room:
            self._forget(room)
            if self._link is not None:
                await self._ask(Leave(room.name))

    def _forget(self, room: Room, why: Exception | None = None) -> None:
        if self.rooms.get(room.name) is room:
            del self.rooms[room.name]
        room.end(why)
        self._taken(room)

    async def presence(self, room: str, *, after: str = "", limit: int = PAGE_MAX) -> PresencePage:
        """A page of the users in a room, by name.

        `after`: the last user of the page before. Raises ServerError, Closed, and ValueError if the
        room or the limit is not valid.
        """
        page: PresencePage = await self._ask(Presence(room, after, limit))
        return page

    async def history(
        self, room: str, *, before: Position | None = None, since: Position | None = None, limit: int = PAGE_MAX
    ) -> Page:
        """A room's newest messages, or the last before a position, or the first since a position.

        A message that cannot be read is not in the page; `on_event` gets a gap for it. Raises
        ServerError, Closed, and ValueError if an argument is not valid.
        """
        page: HistoryPage = await self._ask(
            History(room, before and before.on_the_wire(), since and since.on_the_wire(), limit)
        )
        messages: list[Message] = []
        for entry in page.messages:
            try:
                data = read(entry.data)
            except Unreadable as exc:
                log.warning("message %d of %s cannot be read: %s", entry.seq, room, exc)
                _call(self._on_event, Gap(room, entry.seq, entry.seq))
            else:
                messages.append(Message(room, entry.epoch, entry.seq, entry.user, entry.ts, data))
        return Page(messages, page.more)

    async def ping(self) -> float:
        """The round trip to the server's program in seconds.

        Raises Closed; ConnectionError without a connection, if the connection ends, and without an
        answer.
        """
        self._check_open()
        if self._link is None:
            raise ConnectionError("not connected")
        loop = asyncio.get_running_loop()
        number, answered, started = random.getrandbits(32), loop.create_future(), loop.time()
        self._pings[number] = answered
        self._link.send(Ping(msgspec.Raw(b"%d" % number)))
        try:
            async with deadline():
                await answered
        except TimeoutError:
            raise ConnectionError(no_answer().message) from None
        finally:
            del self._pings[number]
        return loop.time() - started

    async def _ask(self, question: Question) -> Any:
        self._check_open()
        checked(question)
        request = Request(question, asked=True)
        self._send_request(request)
        return await request.answered

    def _send_request(self, request: Request) -> None:
        self._requests.add(request)
        self._update_reading()
        request.sent = False
        if self._link is not None:
            request.send(self._link.send)

    def _drop_overdue(self, late: bool) -> None:
        """Give up the requests that the server has not answered in time."""
        for request in self._requests.overdue(late):
            room, joining = self.rooms.get(request.question.room), request.joining
            if joining is None:
                self._requests.drop(request, ServerError(no_answer()))
            elif request.asked:
                self._requests.drop(request, JoinError(no_answer()))
                if room is None or room is joining:  # else a leave would end the later join
                    self._undo(request)
            elif room is joining and self._link is not None:
                self._link.abort("no answer to a join")
            else:
                self._requests.remove(request)
        self._update_reading()

    # Publishing.

    async def publish(self, room: str, data: Any, *, id: str | None = None) -> int:
        """Publish to a room, over all reconnects, and return the `seq` of the message.

        `data`: any JSON value, else TypeError. `id`: the server recognises a repeat by this id,
        random by default. ValueError if a publish with this id is pending, if the room or the id is
        not valid, or if a text in `data` has half a surrogate pair. Publishes go out in the
        order of the calls. A publish that is cancelled may still be published. Raises PublishError
        and Closed.
        """
        self._check_open()
        return await self._publishes.publish(room, data, id)

    # Events.

    def _receive(self, link: Link, event: Event) -> None:
        _call(self._on_event, event)
        match event:
            case Welcome():
                self._welcomed(link, event)
            case Delivery():
                self._deliver(link, event)
            case Ack():
                self._publishes.acknowledged(event.id, event.seq)
            case Joined():
                self._joined(event)
            case Gap():
                self._gap(link, event)
            case Reset():
                self._reset(event)
            case Error():
                self._refused(link, event)
            case Left() | PresencePage() | HistoryPage():
                self._requests.answer(event)
                self._update_reading()
            case Pong():
                self._pong(event)
            case Expiring():
                self._tasks.spawn(self._renew(link))
            case Reconnect():
                self._dial_at = asyncio.get_running_loop().time() + event.after_ms / 1000
                self._tasks.spawn(self._close_before_dialling(link))

    def _welcomed(self, link: Link, welcome: Welcome) -> None:
        link.heartbeat_s = welcome.heartbeat_s
        self._link = link
        self.connects += 1
        self._credentials.accepted()
        asked = self._requests.take_all()
        joining = {request.joining: request for request in asked}
        for room in self.rooms.values():
            room.joined = False
            request = joining.get(room) or Request(_join(room), room)
            request.question = _join(room)
            self._send_request(request)
        for request in asked:
            if isinstance(request.question, Leave):
                request.answered.set_result(None)  # the connection ended, and left its rooms
            elif not isinstance(request.question, Join):
                self._send_request(request)
            elif self.rooms.get(request.question.room) is not request.joining:
                fail(request.answered, JoinError(Error("left", "the client has left the room")))
        self._renewal = None
        self._publishes.connected(link.send_frame, welcome.max_message_bytes)
        if self._decided is not None and not self._decided.done():
            self._decided.set_result(None)
        self._change(State.CONNECTED, "")

    def _joined(self, event: Joined) -> None:
        request = self._requests.answer(event)
        room = self.rooms.get(event.room)
        # The answer to a join that was given up says nothing about the position of a later join.
        if room is not None and request is not None and request.joining is room:
            missed = room.start(event)
            if missed is not None:
                _call(self._on_event, missed)
        self._update_reading()

    def _refused(self, link: Link, error: Error) -> None:
        if error.id is not None and self._publishes.refused(error):
            return
        if self._renewal is not None and error.id == self._renewal.id:
            if passes(error):
                asyncio.get_running_loop().call_later(pause_s(error), self._renew_again, link, self._renewal)
            return
        request = self._requests.refused(error)
        room = self.rooms.get(error.room or "" if request is None else request.question.room)
        if request is None:
            if room is not None and error.id is None:  # a fresh token may allow fewer rooms
                self._forget(room, JoinError(error))
        elif not isinstance(request.question, Join):
            self._requests.drop(request, ServerError(error))
        elif room is not None and request.joining is room and passes(error):
            asyncio.get_running_loop().call_later(pause_s(error), self._join_again, link, room, request, error)
        else:
            failure = JoinError(error)
            self._requests.drop(request, failure)
            if room is not None and request.joining is room:
                self._forget(room, failure)
        self._update_reading()

    def _join_again(self, link: Link, room: Room, request: Request, error: Error) -> None:
        if self._link is not link or request.answered.done():
            return
        if self.rooms.get(room.name) is room:
            self._send_request(request)
        else:  # the client has left the room
            self._requests.drop(request, JoinError(error))
            self._update_reading()

    def _member(self, name: str) -> Room | None:
        room = self.rooms.get(name)
        return room if room is not None and room.joined else None

    def _deliver(self, link: Link, delivery: Delivery) -> None:
        room = self._member(delivery.room)
        if room is None:
            return
        arrival = room.arrival(delivery.seq, delivery.epoch)
        if arrival is Arrival.REPEAT:
            self.duplicates += 1
            return
        if arrival is Arrival.AFTER_A_HOLE and not self._passed_hole(link, room, delivery.seq, delivery.epoch):
            return
        try:
            message = room.take(delivery)
        except Unreadable as exc:
            log.warning("message %d of %s cannot be read: %s", delivery.seq, room.name, exc)
            _call(self._on_event, room.skip(delivery.seq))
            return
        _call(room.hand_out, message)
        if room.unread >= _MAX_UNREAD:
            self._full.add(room)
            self._update_reading()

    def _gap(self, link: Link, gap: Gap) -> None:
        room = self._member(gap.room)
        if room is None:
            return
        if room.arrival(gap.first) is not Arrival.AFTER_A_HOLE or self._passed_hole(link, room, gap.first):
            room.skip(gap.last)

    def _passed_hole(self, link: Link, room: Room, seq: int, epoch: str | None = None) -> bool:
        """Messages before `seq` are missing, or the `reset` to this epoch: resume.

        If that did not bring them, report a gap or reset and continue.
        """
        self.holes += 1
        if room.on_hole():
            link.abort(f"messages are missing before {seq} in {room.name}")
            return False
        if epoch is None or room.position is None or epoch == room.position.epoch:
            _call(self._on_event, room.skip(seq - 1))
        else:
            _call(self._on_event, room.enter(epoch, seq - 1))
        return True

    def _reset(self, event: Reset) -> None:
        room = self._member(event.room)
        if room is not None:
            room.position = Position(event.epoch, event.seq)

    def _pong(self, event: Pong) -> None:
        with contextlib.suppress(msgspec.MsgspecError, LookupError, TypeError):
            answered = self._pings[msgspec.json.decode(event.t)]
            if not answered.done():
                answered.set_result(None)

    async def _renew(self, link: Link) -> None:
        try:
            token = await self._credentials.renew()
        except Exception:
            log.exception("no fresh token")  # the server closes the connection, and the next connection tries again
            return
        if token is not None:
            self._renewal = Authenticate(token, uuid.uuid4().hex)
            link.send(self._renewal)

    def _renew_again(self, link: Link, renewal: Authenticate) -> None:
        """The server could not check the fresh token."""
        if self._link is link and self._renewal is renewal:
            link.send(renewal)

    async def _close_before_dialling(self, link: Link) -> None:
        """Use the old connection until it is time to connect again."""
        await asyncio.sleep(self._dial_at - asyncio.get_running_loop().time())
        await link.close()

    # Backpressure: read no faster than the application.

    def _taken(self, room: Room) -> None:
        if room in self._full and (room.unread < _MAX_UNREAD / 2 or self.rooms.get(room.name) is not room):
            self._full.discard(room)
            self._update_reading()

    def _update_reading(self) -> None:
        """Stop reading while a room is full, unless the application waits for an answer and so
        takes no messages.
        """
        if self._full and not self._publishes.any and not self._requests.any:
            self._may_read.clear()
        else:
            self._may_read.set()

    def _check_open(self) -> None:
        if self._end is not None:
            raise self._end
        if self._running is None:
            raise RuntimeError("use the client as a context manager: async with Client(…) as client")


def _checked_url(url: str) -> str:
    """Raises ValueError for a URL that can never work. It does not repeat the URL."""
    try:
        parse_uri(url)
    except (InvalidURI, ValueError):
        raise ValueError("the URL must be that of a WebSocket, such as wss://chat.example.org/ws") from None
    return url


def _refusal(exc: InvalidStatus) -> str:
    """The status of a refused handshake, with the reason of the service."""
    text = exc.response.body.decode(errors="replace").strip()
    plain = exc.response.headers.get("Content-Type", "").startswith("text/plain")
    return f"{exc}: {text[:_REASON_MAX]}" if plain and text else str(exc)


def _join(room: Room) -> Join:
    return Join(room.name, room.position and room.position.on_the_wire(), room.members)


def _call(function: Callable[..., None] | None, *news: Any) -> None:
    """Call a function of the application. Its exceptions must not end the connection."""
    if function is None:
        return
    try:
        function(*news)
    except Exception:
        log.exception("a function of the application failed")
