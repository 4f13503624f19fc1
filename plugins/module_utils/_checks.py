# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Applies a table of rules to the variables of one host and finds every fault. Has no I/O.

A rule of the table names a variable, a test and a remedy. A rule that compares variables names a
function of _rules.py instead: `check`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

Rule = Mapping[str, Any]

_REQUIRED = object()
_TESTS = ("whole", "form", "each", "address")
_KEYS = {"variable", "variables", "remedy", "fault", "when", "unless", "check", *_TESTS}


class RuleError(Exception):
    """A rule of the table is wrong, not a value."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The values that the checks may read.

    `value_of` returns the value of a variable, and raises KeyError for an unknown variable.
    `overridden` are the variables of the inventory that the playbooks override.
    """

    value_of: Callable[[str], Any]
    host: str = "localhost"
    ipv4: Collection[str] = ()
    ipv6: Collection[str] = ()
    names: Collection[str] = ()
    overridden: Collection[str] = ()
    documented: Callable[[], Collection[str]] = tuple
    sha256: Callable[[str], str | None] = lambda _path: None

    def get(self, name: str, default: Any = _REQUIRED) -> Any:
        """Returns the value of a variable, or the default."""
        try:
            return self.value_of(name)
        except KeyError:
            if default is _REQUIRED:
                raise RuleError(f"The variable {name} is not defined.") from None
            return default

    def text(self, name: str, default: str = "") -> str:
        """Returns the value as text."""
        return str(self.get(name, default))

    def is_true(self, name: str) -> bool:
        """Returns whether a condition holds: a text is true for Jinja's `bool`, or a list has
        elements.
        """
        value = self.get(name, False)
        return value.strip().lower() in ("yes", "on", "1", "true", "y", "t") if isinstance(value, str) else bool(value)


Check = Callable[[Settings], Iterable[str]]


def find_faults(rules: Iterable[Rule], settings: Settings, checks: Mapping[str, Check]) -> list[str]:
    """Returns one sentence for each fault, in the order of the rules."""
    return [fault for rule in rules for fault in _apply(rule, settings, checks)]


def whole(value: Any) -> int:
    """Reads a whole number like Jinja's `int`: -e x=8 is the number 8, and any other text is 0."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return int(number(value))


def number(value: Any) -> float:
    """Reads a number like Jinja's `float`."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _apply(rule: Rule, settings: Settings, checks: Mapping[str, Check]) -> Iterator[str]:
    _validate(rule, checks)
    if "when" in rule and not settings.is_true(rule["when"]):
        return
    if "unless" in rule and settings.is_true(rule["unless"]):
        return
    if "check" in rule:
        yield from checks[rule["check"]](settings)
        return
    for name in rule.get("variables") or [rule["variable"]]:
        fault = _fault(rule, settings.get(name), settings)
        if fault:
            yield f"{name} {rule.get('fault', fault)}: {_remedy(rule, settings)}."


def _validate(rule: Rule, checks: Mapping[str, Check]) -> None:
    unknown = sorted(set(rule) - _KEYS)
    if unknown:
        raise RuleError(f"The rule {dict(rule)} has the unknown keys {', '.join(unknown)}.")
    if "check" in rule:
        if rule["check"] not in checks:
            raise RuleError(f"There is no check {rule['check']!r}: use one of {', '.join(sorted(checks))}.")
        return
    if ("variable" in rule) == ("variables" in rule) or "remedy" not in rule:
        raise RuleError(f"The rule {dict(rule)} needs a variable, or variables, and a remedy.")
    if len([test for test in _TESTS if test in rule]) != 1:
        raise RuleError(f"The rule {dict(rule)} needs one of {', '.join(_TESTS)}.")


def _fault(rule: Rule, value: Any, settings: Settings) -> str:
    if "whole" in rule:
        least, most = rule["whole"]
        allowed = least <= whole(value) and (most is None or whole(value) <= most)
        return "" if allowed else f"is {value}"
    if "form" in rule:
        return "" if re.match(rule["form"], str(value)) else f"is '{value}'"
    if "each" in rule:
        bad = [f"'{element}'" for element in value if not re.match(rule["each"], str(element))]
        return f"has {', '.join(bad)}" if bad else ""
    own = {*rule["address"].get("also", []), *_addresses(settings)}
    return "" if value in own else f"is '{value}', which is not an address of {settings.host}"


def _remedy(rule: Rule, settings: Settings) -> str:
    remedy = str(rule["remedy"]).rstrip(".")
    return f"{remedy} {', '.join(_addresses(settings))}" if "address" in rule else remedy


def _addresses(settings: Settings) -> list[str]:
    return [*settings.ipv4, *settings.ipv6]
