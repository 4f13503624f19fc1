# SPDX-License-Identifier: MIT
"""wsclient.d.ts declares what wsclient.js exports: the same names, the same members, the same
events.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from support.browser import MODULE

TYPES = MODULE.with_suffix(".d.ts").read_text()
# For each class that can be instantiated: the properties of an object, and the methods of the
# class.
_LIST = """
import * as module from "./wsclient.mjs";

const made = {
  Client: () => new module.Client("ws://localhost/ws", { token: "T" }),
  Room: () => new module.Room("r", {}),
};
const anyError = () => ({ code: "internal", message: "" });
const members = {};
for (const [name, kind] of Object.entries(module)) {
  const object = made[name] ? made[name]() : new kind(anyError());
  members[name] = [...Object.getOwnPropertyNames(object), ...Object.getOwnPropertyNames(kind.prototype)];
}
console.log(JSON.stringify(members));
"""
_OF_EVERY_ERROR = {"stack", "message"}
# These methods of EventTarget are narrowed to the events of a client.
_INHERITED = {"addEventListener", "removeEventListener"}


def declared(kind: str, name: str) -> set[str]:
    [body] = re.findall(rf"^export {kind} {name}\b[^{{]*{{\n(.*?)^}}$", TYPES, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^  (?:private )?(?:readonly )?(\w+)", body, re.MULTILINE))


def test_every_export_is_declared_with_its_members(tmp_path: Path) -> None:
    shutil.copy(MODULE, tmp_path / "wsclient.mjs")
    (tmp_path / "list.mjs").write_text(_LIST)
    done = subprocess.run(["node", "list.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    members = json.loads(done.stdout)
    assert set(members) == set(re.findall(r"^export class (\w+)", TYPES, re.MULTILINE))
    for name, found in members.items():
        public = {member for member in found if not member.startswith("_")} - _OF_EVERY_ERROR
        parent = {"code"} if name in ("JoinError", "PublishError") else set()
        assert declared("class", name) - _INHERITED | {"constructor"} == public - parent, name


def test_every_event_is_declared() -> None:
    dispatched = set(re.findall(r'#tell\("(\w+)"', MODULE.read_text())) | {"gap", "reset"}  # the two of #lost
    assert declared("interface", "ClientEventMap") == dispatched
    assert "this.#tell(type, detail)" in MODULE.read_text()


def test_every_option_is_declared() -> None:
    source = MODULE.read_text()
    [options] = re.findall(r"constructor\(url, {(.*?)} = {}\)", source)
    assert re.findall(r"(\w+) =", options) == ["maxUnacknowledged"]
    assert "maxUnacknowledged?: number" in TYPES
    [credentials] = re.findall(r"constructor\({ (token.*?) }\)", source)
    for name in credentials.split(", "):
        assert re.search(rf"\| {{ {name}: ", TYPES)
    [room] = re.findall(r"constructor\(name, {(.*?)}\)", source)
    assert declared("interface", "JoinOptions") == set(re.findall(r"(\w+) =", room))
