# SPDX-License-Identifier: MIT
"""Failures to reach a worker through its control socket, in the words that `ctl` and `top` show."""

from __future__ import annotations


class Failure(Exception):
    """`state`: the failure in a word.

    The text continues a sentence that begins with the worker's name.
    """

    def __init__(self, state: str, text: str) -> None:
        super().__init__(text)
        self.state = state


def explain(error: OSError | EOFError) -> Failure:
    """The failure that an error of the socket means."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return Failure("down", "does not run")
        case ConnectionError() | EOFError():
            return Failure("down", "is dead")
        case PermissionError():
            return Failure("no access", "obeys root and its own group, and you are neither")
    return Failure("fault", f"cannot be asked: {error}")
