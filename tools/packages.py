# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Builds the packages for applications: the Python package for PyPI, the browser client for npm."""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVICE = ROOT / "files/wsserver"
WEB = SERVICE / "src/wsserver/web"
_NPM_NAME = "wsserver-client"
_README = """# {name}

The client of [selfhost.websocket]({repository}) for browsers: rooms whose acknowledged messages arrive once and in order, also across reconnects.

```javascript
import {{ Client }} from "{name}";

const client = new Client("wss://chat.example.org/ws", {{ tokenFactory }});
await client.connect();
await client.join("lobby", {{ onMessage: ({{ user, data }}) => console.log(user, data) }});
await client.publish("lobby", {{ text: "hello" }});
```

{repository}/blob/main/docs/clients.md describes it.
"""


def version() -> str:
    [found] = re.findall(r'^__version__ = "(.+)"$', (SERVICE / "src/wsserver/__init__.py").read_text(), re.MULTILINE)
    return str(found)


def repository() -> str:
    [found] = re.findall(r"^repository: (\S+)$", (ROOT / "galaxy.yml").read_text(), re.MULTILINE)
    return str(found)


def npm_files() -> dict[str, bytes]:
    """The files of the npm package, by path."""
    about = {
        "name": _NPM_NAME,
        "version": version(),
        "description": "Rooms over a WebSocket whose acknowledged messages arrive once and in order",
        "license": "MIT",
        "repository": {"type": "git", "url": f"git+{repository()}.git", "directory": "files/wsserver/src/wsserver/web"},
        "type": "module",
        "exports": {".": {"types": "./wsclient.d.ts", "default": "./wsclient.js"}},
        "types": "./wsclient.d.ts",
        "files": ["wsclient.js", "wsclient.d.ts"],
        "sideEffects": False,
    }
    return {
        "package.json": json.dumps(about, indent=2).encode() + b"\n",
        "README.md": _README.format(name=_NPM_NAME, repository=repository()).encode(),
        "LICENSE": (SERVICE / "LICENSE").read_bytes(),
        "wsclient.js": (WEB / "wsclient.js").read_bytes(),
        "wsclient.d.ts": (WEB / "wsclient.d.ts").read_bytes(),
    }


def build_npm(directory: Path) -> Path:
    """Build the package like `npm pack`, without npm.

    Equal files give equal bytes, except gzip's time.
    """
    path = directory / f"{_NPM_NAME}-{version()}.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in npm_files().items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return path


def build_python(directory: Path) -> list[Path]:
    """Build the source distribution and the wheel, with the backend pinned in pyproject.toml."""
    command = [sys.executable, "-m", "build", "--outdir", str(directory), str(SERVICE)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"The Python package cannot be built:\n{done.stdout}")
    return sorted(directory.glob(f"wsserver-{version()}*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="the directory for the packages")
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for path in [build_npm(directory), *build_python(directory)]:
        print(path)


if __name__ == "__main__":
    main()
