# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Asks a worker at /readyz whether it is ready."""

from __future__ import annotations

import http.client
import urllib.error
from dataclasses import dataclass

from ansible.module_utils.urls import open_url

ANSWER_S = 2.0
_BODY_BYTES = 200


@dataclass(frozen=True)
class Answer:
    """The answer.

    `code` is the HTTP status, or None. `text` is one line: the answer or the error.
    """

    code: int | None
    text: str

    @property
    def ready(self) -> bool:
        return self.code == http.client.OK

    def __str__(self) -> str:
        return self.text if self.code is None else f"{self.code} {self.text}"


def ask(url: str, within_s: float = ANSWER_S) -> Answer:
    """Ask for the readiness. Never raises: a missing answer is a result, too."""
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
