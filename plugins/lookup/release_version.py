# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: release_version
short_description: Compute the version of a release of the service
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Returns the package's own version with a digest of its source tree and lock files.
  - The same content gives the same version on every machine. Names and contents count. Times, modes and the order of files do not.
options:
  _terms:
    description:
      - Directories on the control machine, each a source tree of the service with C(pyproject.toml), C(requirements.txt),
        C(requirements-build.txt) and C(src/wsserver/__init__.py), which holds C(__version__).
    type: list
    elements: path
    required: true
notes:
  - Hidden files, compiled Python and build leftovers in C(src) are ignored.
"""

EXAMPLES = r"""
- name: Show the version that a deployment would install
  ansible.builtin.debug:
    msg: "{{ lookup('selfhost.websocket.release_version', '/srv/src/wsserver') }}"
"""

RETURN = r"""
_raw:
  description: One version per directory, as C(VERSION+DIGEST), a valid PEP 440 version with 12 hexadecimal digits of digest.
  type: list
  elements: str
  sample: ["0.1.0+8c1f0a5be2d4"]
"""

import hashlib
import os
import pathlib
import re
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

_BESIDE_SRC = ("pyproject.toml", "requirements.txt", "requirements-build.txt")
_VERSION = re.compile(r"""^__version__\s*(?::[^=]*)?=\s*["']([^"'+]+)["']""", re.MULTILINE)


def _is_source(relative: pathlib.PurePath) -> bool:
    return relative.suffix != ".pyc" and not any(
        part.startswith(".") or part == "__pycache__" or part.endswith(".egg-info") for part in relative.parts
    )


def _files(source: pathlib.Path) -> list[str]:
    """The files of a release, relative to the source, in an order that does not depend on the file
    system.
    """
    found = list(_BESIDE_SRC)
    for directory, _dirs, names in os.walk(source / "src"):
        relative = [(pathlib.Path(directory) / name).relative_to(source) for name in names]
        found.extend(path.as_posix() for path in relative if _is_source(path))
    return sorted(found)


def _digest(source: pathlib.Path) -> str:
    """The digest that `sha256sum FILES | sha256sum` prints. Names count, too."""
    whole = hashlib.sha256()
    for name in _files(source):
        content = hashlib.sha256((source / name).read_bytes()).hexdigest()
        whole.update(f"{content}  {name}\n".encode())
    return whole.hexdigest()


def release_version(source: pathlib.Path) -> str:
    init = source / "src" / "wsserver" / "__init__.py"
    try:
        version = _VERSION.search(init.read_text(encoding="utf-8"))
        digest = _digest(source)
    except OSError as error:
        raise AnsibleLookupError(
            f"{source} is not the source of the service: cannot read {error.filename}: {error.strerror}"
        ) from error
    if version is None:
        raise AnsibleLookupError(f'{init} has no line __version__ = "…" with a plain version in it')
    return f"{version.group(1)}+{digest[:12]}"


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        return [release_version(pathlib.Path(term)) for term in terms]
