# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Builds the collection and checks its contents.

The tarball has every file that its pages link to, and no file that is only for developers.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(([^)#\s]+)|(?:src|href)=\"([^\"#]+)\"")
CODE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
FOR_USE = {
    "CHANGELOG.md", "CONTRIBUTING.md", "COPYING", "FILES.json", "LICENSES", "MANIFEST.json", "README.md", "REUSE.toml", "changelogs", "docs", "files", "meta",
    "playbooks", "plugins", "roles",
}  # fmt: skip
NOT_FOR_USE = re.compile(r"(^|/)(tests|__pycache__|\.[^/]*|[^/]*\.egg-info)(/|$)|\.pyc$")


def contents(directory: str) -> set[str]:
    command = ["ansible-galaxy", "collection", "build", "--output-path", directory]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    [path] = Path(directory).glob("*.tar.gz")
    with tarfile.open(path) as tarball:
        return {name.removeprefix("./").rstrip("/") for name in tarball.getnames()}


def missing(packed: set[str]) -> list[str]:
    """Return links of the tarball's pages to files that it does not contain."""
    pages = sorted(name for name in packed if name.endswith(".md"))
    return [
        f"{page} links to {target}, which is not packed"
        for page in pages
        for link in LINK.findall(CODE.sub("", (ROOT / page).read_text()))
        if "://" not in (target := link[0] or link[1]) and not target.startswith("mailto:")
        if _resolved(page, target) not in packed
    ]


def _resolved(page: str, target: str) -> str:
    parts: list[str] = []
    for part in (PurePosixPath(page).parent / target).parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def superfluous(packed: set[str]) -> list[str]:
    return [
        f"{name} is packed, but no operator needs it"
        for name in sorted(packed)
        if name and (name.split("/")[0] not in FOR_USE or NOT_FOR_USE.search(name))
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        packed = contents(directory)
    complaints = missing(packed) + superfluous(packed)
    sys.exit("\n".join(complaints) or 0)


if __name__ == "__main__":
    main()
