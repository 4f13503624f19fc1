# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""All linters, the ones that fail most often first, with the wall and CPU seconds of each.

The slow linters read the same files on most runs. A clean result is cached outside
the clone, so that other clones can use the result. The cache's key is a digest of all files that
the linter reads and of the tools' lock. Failures are not cached.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ws-lint")
# ansible-galaxy packs all files except these (build_ignore of galaxy.yml), so ansible-test sees
# only the others.
UNPACKED = ("bench/*", "ci/*", "lab/*", "molecule/*", "tests/*", "tools/*", "files/wsserver/tests/*")


@dataclass(frozen=True)
class Linter:
    """One linter. `reads`: patterns of the files that decide its result; if empty, it always runs.

    `but`: patterns of exceptions.
    """

    name: str
    command: tuple[str, ...]
    reads: tuple[str, ...] = ()
    but: tuple[str, ...] = ()


# A loop that collects values is a program: its place is a plugin, where unit tests reach it.
COLLECTS = r"set _ *=|[{]%-? *do |[.](append|extend|insert|update|setdefault|pop|remove|clear)[(]"

LINTERS = [
    Linter("ruff", ("ruff", "check", ".")),
    Linter("ruff format", ("ruff", "format", "--check", ".")),
    Linter("mypy", ("mypy", "--cache-dir", str(CACHE / "mypy"))),
    Linter("yamllint", ("yamllint", "--strict", ".")),
    Linter(
        "Jinja loops",
        ("sh", "-c", f"! grep -rnE --include='*.yml' --include='*.yaml' --include='*.j2' '{COLLECTS}' roles playbooks"),
    ),
    Linter("shellcheck", ("ci/shellcheck.sh",)),
    Linter("node --check", ("ci/node_check.sh",)),
    Linter("reuse", ("reuse", "lint", "--quiet")),
    Linter("changelog", ("tools/changelog.sh", "--check")),
    Linter("settings", (sys.executable, "tools/settings_files.py", "--check")),
    Linter("tarball", (sys.executable, "ci/tarball.py")),
    Linter(
        "antsibull-docs",
        ("antsibull-docs", "lint-collection-docs", "--plugin-docs", "."),
        ("plugins/*", "roles/*/meta/*", "meta/*", "galaxy.yml", "docs/docsite/*"),
    ),
    Linter(
        "docs",
        (sys.executable, "tools/docsite/build.py", ".lab/docs"),
        (
            "*.md",
            "docs/*",
            "plugins/*",
            "roles/*/meta/*",
            "roles/*/templates/*",
            "meta/*",
            "galaxy.yml",
            "tools/docsite/*",
        ),
        ("tests/*",),
    ),
    Linter(
        "ansible-lint",
        ("ansible-lint", "--offline"),
        ("*.yml", "*.yaml", "*.j2", "plugins/*", "roles/*", "playbooks/*", ".ansible-lint", ".yamllint", "ansible.cfg"),
    ),
    Linter("ansible-test sanity", ("ci/sanity.sh",), ("*",), UNPACKED),
]


def files() -> list[str]:
    """All files of the work tree that git knows or would add."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    return sorted({name for name in listed.split("\0") if (ROOT / name).is_file()})


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def digest(linter: Linter, names: Iterable[str]) -> str:
    """The digest of everything that decides the result: command, tools, files and scripts of ci."""
    whole = hashlib.sha256("\0".join((sys.version, *linter.command)).encode())
    always = ("requirements/dev.txt", "ci/lint.py", linter.command[0])
    for name in names:
        if name in always or (matches(name, linter.reads) and not matches(name, linter.but)):
            mode = (ROOT / name).stat().st_mode
            content = hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
            whole.update(f"{content} {mode:o} {name}\n".encode())
    return whole.hexdigest()[:32]


def is_clean(linter: Linter, names: Iterable[str]) -> bool:
    print(f"--- {linter.name}", flush=True)
    mark = CACHE / "clean" / f"{linter.name.replace(' ', '-')}-{digest(linter, names)}" if linter.reads else None
    if mark and mark.exists():
        mark.touch()
        print("    clean, as in an earlier run: no file that it reads has changed", flush=True)
        return True
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(linter.command, cwd=ROOT, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"    {time.monotonic() - begin:.0f} s, {cpu:.0f} s of CPU", flush=True)
    if done.returncode == 0 and mark:
        mark.touch()
    return done.returncode == 0


def forget_old() -> None:
    """Delete marks that no run has used for a month."""
    for mark in (CACHE / "clean").iterdir():
        if time.time() - mark.stat().st_mtime > 30 * 86400:
            mark.unlink(missing_ok=True)


def main() -> None:
    (CACHE / "clean").mkdir(parents=True, exist_ok=True)
    forget_old()
    names = files()
    failed = [linter.name for linter in LINTERS if not is_clean(linter, names)]
    if failed:
        sys.exit(f"Not clean: {', '.join(failed)}")


if __name__ == "__main__":
    main()
