# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Builds the documentation site: README, docs/, the roles' pages, and a page for each module,
plugin and role.

The source of the site has the pages in the same places as the repository, so their links to each
other stay. Only links to files that are not pages get another target.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COLLECTION = "selfhost.websocket"
REFERENCE = "reference"
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
# Pages of the repository that have another place in the site, and folders that have a page there.
PLACES = {"README.md": "index.md", "docs/runbooks": "docs/runbooks/index.md"}
OWN_PAGES = {"runbooks.md": "docs/runbooks/index.md", "roles.md": "roles/index.md"}


def pages() -> Iterator[str]:
    """Each Markdown file of the repository that is for readers, as a path from its root."""
    yield from ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
    for pattern in ("docs/**/*.md", "roles/*/README.md"):
        yield from (path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob(pattern)))


class Source:
    """The source of the site, in a separate directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pages = list(pages())
        galaxy = (ROOT / "galaxy.yml").read_text()
        [self.repository] = re.findall(r"^repository: (\S+)$", galaxy, re.MULTILINE)

    def write(self, page: str, text: str) -> None:
        path = self.directory / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def add(self, page: str) -> None:
        """Put a page into the site, with the files that it links to."""
        parts = CODE.split((ROOT / page).read_text())
        # Every other part is code.
        parts[::2] = [LINK.sub(lambda link: self._link(page, link), part) for part in parts[::2]]
        text = "".join(parts)
        if page == "README.md":
            text += "\n" + (HERE / "navigation.md").read_text()
        self.write(PLACES.get(page, page), text)

    def place(self, target: str) -> str | None:
        """Where a file or folder of the repository is in the site, as a path from its root."""
        if target in PLACES:
            return PLACES[target]
        if options := re.fullmatch(r"roles/(\w+)/meta/argument_specs\.yml", target):
            return f"{REFERENCE}/{options[1]}_role.rst"
        if (ROOT / target).is_dir():
            target += "/README.md"
        if target.endswith(".md"):
            return target if target in self.pages else None
        return target if (ROOT / target).is_file() else None

    def _link(self, page: str, link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link[1]))
        placed = self.place(target)
        if placed is None:
            if not (ROOT / target).exists():
                sys.exit(f"{page} links to {target}, which does not exist.")
            return f"]({self.repository}/tree/main/{target})"
        if not placed.endswith((".md", ".rst")):
            (self.directory / placed).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / target, self.directory / placed)
        here = posixpath.dirname(PLACES.get(page, page))
        return f"]({posixpath.relpath(placed, here or '.')}{link[2] or ''})"

    def add_plugins(self) -> None:
        """The pages that antsibull-docs makes from the documentation in modules, plugins and roles."""
        command = ["antsibull-docs", "collection", "--use-current", "--fail-on-error", "--squash-hierarchy"]
        reference = self.directory / REFERENCE
        reference.mkdir(mode=0o755)
        command += ["--dest-dir", str(reference), COLLECTION]
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": programs, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "lab/collections")}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        (reference / "environment_variables.rst").unlink()  # there are none


def build(directory: Path) -> Path:
    """Build the site in `directory`, and return its first page."""
    shutil.rmtree(directory / "source", ignore_errors=True)
    source = Source(directory / "source")
    for page in source.pages:
        source.add(page)
    for name, page in OWN_PAGES.items():
        source.write(page, (HERE / name).read_text())
    source.add_plugins()
    html = directory / "html"
    shutil.rmtree(html, ignore_errors=True)
    options = ["-W", "--keep-going", "-q", "-E", "-c", str(HERE), "-d", str(directory / "doctrees")]
    subprocess.run([sys.executable, "-m", "sphinx", *options, str(source.directory), str(html)], check=True)
    return html / "index.html"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="the site is written to its folder html")
    directory = parser.parse_args().directory.resolve()
    try:
        print(build(directory))
    except subprocess.CalledProcessError as failed:
        sys.exit(f"The site cannot be built: {failed}")


if __name__ == "__main__":
    main()
