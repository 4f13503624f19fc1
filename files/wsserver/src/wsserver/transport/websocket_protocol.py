# SPDX-License-Identifier: MIT
"""The WebSocket protocol without I/O: bytes in, requests and whole messages out."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from http import HTTPStatus

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS, Request, Response
from websockets.protocol import CONNECTING, SEND_EOF, Event, Protocol
from websockets.server import ServerProtocol
from websockets.typing import StatusLike, Subprotocol

from wsserver.auth import BEARER_SUBPROTOCOL

# One quiet logger for all: by default the library looks up a logger, and logs a line, per
# connection.
_QUIET = logging.getLogger("wsserver.websocket")
_QUIET.setLevel(logging.WARNING)

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

# The texts of the library speak of a WebSocket, and do not say what to change.
_TOO_LARGE: dict[StatusLike, str] = {
    HTTPStatus.REQUEST_URI_TOO_LONG: f"the URL is too long: a line of the request has at most {MAX_LINE_LENGTH} bytes\n",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        f"the headers are too large: each has at most {MAX_LINE_LENGTH} bytes, and a request at most {MAX_NUM_HEADERS}; "
        "use a ticket, a token with fewer claims, or fewer cookies\n"
    ),
}


class _AfterAnswer(Protocol):
    """Parses frames that arrived with the request only after the answer, so that their replies
    follow the answer.
    """

    def parse(self) -> Generator[None]:
        while self.state is CONNECTING:
            yield
        yield from super().parse()


class WebSocketProtocol(ServerProtocol, _AfterAnswer):
    """`ServerProtocol` that joins fragments, accepts text only, and offers the `bearer`
    subprotocol.
    """

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__(max_size=max_message_bytes, logger=_QUIET)
        self.frames = 0  # received, of all kinds
        self._fragments = bytearray()

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        bearer = Subprotocol(BEARER_SUBPROTOCOL)
        return bearer if bearer in subprotocols else None

    def reject(self, status: StatusLike, text: str) -> Response:
        """The answer to a request that is refused, also before it can be read."""
        return super().reject(status, _TOO_LARGE.get(status, text))

    def receive(self, chunk: bytes) -> list[Request | bytes]:
        """Return a request, or the complete text messages in `chunk`; the library buffers the rest.

        After the answer to a request, call this with no bytes to get the messages that arrived with
        the request. `data_to_send()` then holds the protocol's own frames: pongs and closes.
        """
        self.receive_data(chunk)
        if self.handshake_exc is not None and self.writes == [SEND_EOF]:
            # For an unreadable request the library only hangs up, and a proxy would treat the worker
            # as dead.
            self.writes.insert(0, _BAD_REQUEST)
        received: list[Request | bytes] = []
        for event in self.events_received():
            if isinstance(event, Request):
                received.append(event)
            elif isinstance(event, Frame):
                received.append(bytes(event.data))
            else:
                raise AssertionError("a server receives no responses")
        return received

    # The library makes a new list for each call. One of each connection would wait for the garbage
    # collector.

    def events_received(self) -> list[Event]:
        events = self.events.copy()
        self.events.clear()
        return events

    def data_to_send(self) -> list[bytes]:
        writes = self.writes.copy()
        self.writes.clear()
        return writes

    def end(self) -> None:
        """Let the protocol be freed: its parser and the tracebacks of its errors refer to it."""
        self.parser.close()
        self.parser_exc = self.handshake_exc = None

    def recv_frame(self, frame: Frame) -> None:
        """Leave one event for each complete text message.

        Refuse binary frames here, frame by frame: later, the frames behind it in the same chunk
        would already have been answered.
        """
        self.frames += 1
        super().recv_frame(frame)
        self.events.pop()
        if frame.opcode is Opcode.BINARY:
            self.fail(CloseCode.UNSUPPORTED_DATA, "text frames only")
        elif frame.opcode is Opcode.TEXT or frame.opcode is Opcode.CONT:
            if not frame.fin:
                self._fragments += frame.data
                return
            if self._fragments:
                frame = Frame(Opcode.TEXT, bytes(self._fragments + frame.data))
                self._fragments.clear()
            str(frame.data, "utf-8")  # an error here ends the connection with 1007, as for any other broken text
            self.events.append(frame)
