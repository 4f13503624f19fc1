# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's part of the module: packs the sources and copies the archive to the host."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Every archive has the same time, so that equal sources make equal archives.
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16


class ActionModule(ActionBase):
    """Pack, then copy with ansible.builtin.copy."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of the copy."""
        super().run(tmp, task_vars)
        _valid, given = self.validate_argument_spec(
            {
                "src": {"type": "list", "elements": "str", "required": True},
                "main": {"type": "str", "required": True},
                "dest": {"type": "path", "required": True},
                "owner": {"type": "str"},
                "group": {"type": "str"},
                "mode": {"type": "raw"},
            }
        )
        try:
            content = archive([Path(self._find_needle("files", source)) for source in given["src"]], given["main"])
        except (OSError, ValueError) as error:
            raise AnsibleActionFail(str(error)) from error
        with tempfile.NamedTemporaryFile(dir=constants.DEFAULT_LOCAL_TMP, suffix=".pyz") as file:
            file.write(content)
            file.flush()
            options = {key: given[key] for key in ("dest", "owner", "group", "mode") if given[key] is not None}
            return self._copy({"src": file.name} | options, task_vars)

    def _copy(self, options: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        task = self._task.copy()
        task.args = options
        copy = self._shared_loader_obj.action_loader.get(
            "ansible.legacy.copy",
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        result: dict[str, Any] = copy.run(task_vars=task_vars)
        return result


def archive(sources: Iterable[Path], main: str) -> bytes:
    """Return a zip file that Python runs.

    `main`: PACKAGE.MODULE:FUNCTION, as for `python3 -m zipapp`.

    Raises OSError, and ValueError for a main function that the sources do not have.
    """
    files = {name: path.read_bytes() for name, path in sorted(_files(sources))}
    module, colon, function = main.partition(":")
    if not colon or not function.isidentifier() or f"{module.replace('.', '/')}.py" not in files:
        raise ValueError(f"main is {main!r}: name a module of the archive and its function, like package.module:main")
    start = f"import {module}\n\n{module}.{function}()\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as packed:
        for name, content in {"__main__.py": start.encode(), **files}.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system = 3  # Unix, wherever the control machine runs
            entry.external_attr = _MODE
            packed.writestr(entry, content)
    return stream.getvalue()


def _files(sources: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """The Python files with their names in the archive: a package keeps its directory's name."""
    for source in sources:
        for path in source.rglob("*.py") if source.is_dir() else [source]:
            yield path.relative_to(source.parent).as_posix(), path
