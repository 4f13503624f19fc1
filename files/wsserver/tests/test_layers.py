# SPDX-License-Identifier: MIT
"""The layers of the service: a module imports only from the layers below its own, and no modules
import in a circle.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.worker import SRC

# From the top: each line may import the lines below it, but not itself. docs/architecture.md shows
# the layers.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"worker"},
    {"admin", "api"},
    {"transport"},
    {"sessions"},
    {"archive"},
    {"storage"},
    {"rooms", "limits"},
    {"cluster", "auth"},
    {"telemetry", "settings"},
    {"protocol", "runtime", "status", "errors"},
]
# Only the command line imports these. They stand beside the layers, and import only these packages.
BESIDE = {
    "client": ("wsserver.protocol", "wsserver.runtime"),
    "witness": ("wsserver.client", "wsserver.protocol", "wsserver.runtime", "wsserver.auth.mint"),
}
_LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}

# A module and its import: a module, or "module.name" if the name is not a module.
Import = tuple[str, str]


def imports(root: Path) -> tuple[set[str], list[Import]]:
    """All modules of the package at `root`, and all their imports of each other, also those inside
    of functions.
    """
    names = {path: ".".join(path.relative_to(root.parent).with_suffix("").parts) for path in root.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for path, name in names.items()}
    found: list[Import] = []
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: relative imports hide the layer"
                found += [(module, f"{node.module}.{alias.name}") for alias in node.names]
            elif isinstance(node, ast.Import):
                found += [(module, alias.name) for alias in node.names]
    return set(modules), [(module, target) for module, target in found if target.split(".")[0] == root.name]


def package(name: str) -> str:
    return name.split(".")[1]


def upward(found: Iterable[Import]) -> list[Import]:
    """The imports that the layers forbid."""
    return [each for each in found if not _allowed(*each)]


def _allowed(module: str, target: str) -> bool:
    own, other = package(module), package(target)
    if own == other or target == "wsserver.__version__":
        return True
    if own in BESIDE:
        return any(target == allowed or target.startswith(f"{allowed}.") for allowed in BESIDE[own])
    if other in BESIDE:
        return own == "cli"
    return _LEVEL[own] < _LEVEL[other]


def circle(modules: set[str], found: Iterable[Import]) -> list[str]:
    """The modules of one circle, if there is any."""
    graph: dict[str, set[str]] = {}
    for module, target in found:
        known = target if target in modules else target.rpartition(".")[0]
        graph.setdefault(module, set()).add(known)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_point_downwards_and_in_no_circle() -> None:
    modules, found = imports(SRC / "wsserver")
    assert {package(module) for module in modules - {"wsserver"}} == {*_LEVEL, *BESIDE}
    assert len(found) > 300
    assert upward(found) == []
    assert circle(modules, found) == []


@pytest.mark.parametrize(
    ("module", "target"),
    [
        pytest.param("wsserver.rooms.hub", "wsserver.transport.sse.EventStream", id="upward"),
        pytest.param("wsserver.limits.quotas", "wsserver.rooms.presence", id="sideways"),
        pytest.param("wsserver.client.link", "wsserver.settings.Settings", id="client"),
        pytest.param("wsserver.witness.plan", "wsserver.auth.Authenticator", id="witness"),
        pytest.param("wsserver.api.server", "wsserver.client.Client", id="service-to-client"),
    ],
)
def test_the_rule_finds_a_forbidden_import(module: str, target: str) -> None:
    assert upward([(module, target)]) == [(module, target)]


def test_the_rule_finds_a_circle() -> None:
    found = [("wsserver.a", "wsserver.b.Name"), ("wsserver.b", "wsserver.c"), ("wsserver.c", "wsserver.a")]
    assert set(circle({"wsserver.a", "wsserver.b", "wsserver.c"}, found)) == {"wsserver.a", "wsserver.b", "wsserver.c"}
