# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""What a worker answers to whoever asks whether it is ready."""

from __future__ import annotations

import http.client
import urllib.error
from dataclasses import dataclass

from ansible.module_utils.urls import open_url

ANSWER_S = 2.0
_BODY_BYTES = 200


@dataclass(frozen=True)
class Answer:
    """`code`: the HTTP status, None without an answer; `text`: one line, what it said or what came instead."""

    code: int | None
    text: str

    @property
    def ready(self) -> bool:
        return self.code == http.client.OK

    def __str__(self) -> str:
        return self.text if self.code is None else f"{self.code} {self.text}"


def ask(url: str, within_s: float = ANSWER_S) -> Answer:
    """Never raises: no answer is an answer, too."""
    try:
        with open_url(url, timeout=within_s, use_proxy=False, follow_redirects="none", use_netrc=False) as response:
            return Answer(response.status, _line(response.read(_BODY_BYTES)))
    except urllib.error.HTTPError as error:
        return Answer(error.code, _line(error.read(_BODY_BYTES)))
    except urllib.error.URLError as error:
        return Answer(None, f"no answer: {error.reason}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(None, f"no answer: {error or type(error).__name__}")


def _line(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").split())
