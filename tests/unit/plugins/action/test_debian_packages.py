# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""debian_packages on a host with fake apt and dpkg."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail

from ansible_collections.selfhost.websocket.plugins.action import debian_packages
from ansible_collections.selfhost.websocket.plugins.action.debian_packages import ActionModule

UNREACHABLE = {"failed": True, "msg": "Failed to update apt cache: foreign.example is unreachable"}


class Host(ActionModule):
    """Records each call of apt, and whether it was in check mode."""

    def __init__(self, installed: str = "", refresh: dict[str, Any] | None = None) -> None:
        self.dpkg = {"rc": 1, "stdout": "".join(f"{line}\n" for line in installed.split(", ") if line), "stderr": ""}
        self.refresh = refresh or {"changed": True}
        self.install: dict[str, Any] = {"changed": True}
        self.calls: list[tuple[dict[str, Any], bool]] = []
        self.warnings: list[str] = []
        self.facts: dict[str, Any] = {}
        self._display = SimpleNamespace(warning=self.warnings.append)
        self._task = SimpleNamespace(check_mode=False, args={}, async_val=0, diff=False)
        self._supports_check_mode = self._supports_async = True

    def validate_argument_spec(self, argument_spec: Any, **_rules: Any) -> Any:
        return None, dict.fromkeys(argument_spec) | self._task.args

    def _low_level_execute_command(self, cmd: str, **_options: Any) -> dict[str, Any]:
        self.asked = cmd
        return self.dpkg

    def _execute_module(self, module_name: str, module_args: dict[str, Any], **_options: Any) -> dict[str, Any]:
        assert module_name == "ansible.builtin.apt"
        assert module_args["lock_timeout"] == 600
        self.calls.append((module_args, self._task.check_mode))
        return dict(self.refresh if "update_cache" in module_args else self.install)

    def apply(self, check: bool = False, **options: Any) -> dict[str, Any]:
        self._task.args, self._task.check_mode = options, check
        result = self.run(task_vars={"inventory_hostname": "one", "ansible_facts": self.facts})
        self.facts |= result.get("ansible_facts", {})
        return result


@pytest.fixture(autouse=True)
def this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActionModule.__mro__[1], "run", lambda *_arguments: {})
    monkeypatch.setattr(debian_packages, "this_run", lambda: "a run")


def test_apt_does_not_run_if_all_packages_are_installed() -> None:
    host = Host("installed nginx, installed openssl", refresh=UNREACHABLE)
    assert host.apply(name=["nginx", "openssl"]) == {"changed": False}
    assert host.calls == []
    assert host.asked.endswith(" nginx openssl")


def test_missing_packages_are_installed_from_fresh_lists() -> None:
    host = Host("installed openssl, config-files nginx")
    assert host.apply(name=["nginx", "openssl"], install_recommends=False)["changed"]
    (refresh, _), (install, _) = host.calls
    assert refresh["cache_valid_time"] == 3600
    assert (install["name"], install["install_recommends"]) == (["nginx"], False)


def test_check_mode_refreshes_and_does_not_install() -> None:
    host = Host()
    assert host.apply(check=True, name=["nginx"])["changed"]
    assert [check for _, check in host.calls] == [False, True]


def test_an_unreachable_source_is_a_warning_and_is_asked_once() -> None:
    host = Host(refresh=UNREACHABLE)
    assert host.apply(name=["nginx"])["changed"]
    assert host.apply(name=["redis-server"])["changed"]
    assert len(host.warnings) == 1
    assert "foreign.example is unreachable" in host.warnings[0]
    assert ["update_cache" in options for options, _ in host.calls] == [True, False, False]


def test_the_next_run_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts may be cached between runs."""
    host = Host(refresh=UNREACHABLE)
    host.apply(name=["nginx"])
    monkeypatch.setattr(debian_packages, "this_run", lambda: "another run")
    host.apply(name=["nginx"])
    assert ["update_cache" in options for options, _ in host.calls] == [True, False, True, False]


def test_a_package_that_is_not_found_says_why_the_lists_are_old() -> None:
    host = Host(refresh=UNREACHABLE)
    host.install = {"failed": True, "msg": "No package matching 'nginx' is available."}
    message = host.apply(name=["nginx"])["msg"]
    assert message.startswith("No package matching 'nginx' is available. ")
    assert "foreign.example is unreachable" in message


def test_a_package_file_is_installed_with_its_dependencies() -> None:
    host = Host()
    assert host.apply(deb="/tmp/loki.deb")["changed"]
    (_refresh, _), (install, _) = host.calls
    assert (install["deb"], install["allow_downgrade"]) == ("/tmp/loki.deb", True)


def test_a_host_that_is_not_debian() -> None:
    host = Host()
    host.dpkg = {"rc": 127, "stdout": "", "stderr": "dpkg-query: not found"}
    with pytest.raises(AnsibleActionFail, match="dpkg-query: not found"):
        host.apply(name=["nginx"])
