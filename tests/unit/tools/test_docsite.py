# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The targets of a page's links in the site of `make docs`. `make lint` finds links without a
target."""

from __future__ import annotations

from pathlib import Path

import pytest
from docsite import build


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> build.Source:
    """The source of a site, for a repository whose pages the test writes."""
    root = tmp_path / "repository"
    for name in ("README.md", "docs/a.md", "docs/runbooks/WsDown.md", "roles/redis/README.md"):
        write(root / name, f"# {name}\n")
    write(root / "galaxy.yml", "repository: https://example.org/ws\n")
    write(root / "roles/redis/meta/argument_specs.yml", "")
    write(root / "roles/redis/templates/redis.conf.j2", "port 6379\n")
    monkeypatch.setattr(build, "ROOT", root)
    return build.Source(tmp_path / "source")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("page", "link", "leads_to"),
    [
        ("docs/a.md", "../README.md#try", "../index.md#try"),
        ("docs/a.md", "runbooks", "runbooks/index.md"),
        ("docs/a.md", "runbooks/WsDown.md", "runbooks/WsDown.md"),
        ("docs/runbooks/WsDown.md", "../../roles/redis", "../../roles/redis/README.md"),
        ("README.md", "docs/a.md", "docs/a.md"),
        ("roles/redis/README.md", "meta/argument_specs.yml", "../../reference/redis_role.rst"),
        ("docs/a.md", "../roles/redis/templates", "https://example.org/ws/tree/main/roles/redis/templates"),
        ("docs/a.md", "#a-heading", "#a-heading"),
        ("docs/a.md", "https://example.org/", "https://example.org/"),
    ],
    ids=[
        "first-page", "folder-of-pages", "page", "role", "from-the-first-page", "variables", "folder", "heading",
        "other-site",
    ],
)  # fmt: skip
def test_where_a_link_leads(source: build.Source, page: str, link: str, leads_to: str) -> None:
    write(build.ROOT / page, f"[text]({link})\n")
    source.add(page)
    placed = source.directory / build.PLACES.get(page, page)
    assert placed.read_text().startswith(f"[text]({leads_to})\n")


def test_a_file_that_is_no_page_comes_along(source: build.Source) -> None:
    write(build.ROOT / "docs/a.md", "[its settings](../roles/redis/templates/redis.conf.j2)\n")
    source.add("docs/a.md")
    assert (source.directory / "roles/redis/templates/redis.conf.j2").read_text() == "port 6379\n"


def test_code_stays_as_it_is(source: build.Source) -> None:
    code = "```yaml\n[a](../README.md)\n```\n\n`[b](../README.md)`\n"
    write(build.ROOT / "docs/a.md", code)
    source.add("docs/a.md")
    assert (source.directory / "docs/a.md").read_text() == code
