# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The cached base systems, and the settings that hosts copy from the control machine.

Hosts install from the same sources as the control machine: apt's sources and settings, the
resolver, trusted CAs and pip's index.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

from . import state
from .shell import LabError, run, write

CACHE = Path("/var/cache/ws-lab")
SUITES = {"trixie", "bookworm"}
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-apt,iproute2,openssh-server,ca-certificates,procps"
LOCAL_CAS = Path("/usr/local/share/ca-certificates")


def base(suite: str) -> Path:
    """The base system of a suite, built if the cache has none for these packages and CAs."""
    if suite not in SUITES:
        raise LabError(f"the suite must be one of {', '.join(sorted(SUITES))}, not {suite!r}")
    authorities = sorted(LOCAL_CAS.rglob("*.crt"))
    key = hashlib.sha256(PACKAGES.encode() + b"".join(path.read_bytes() for path in authorities)).hexdigest()[:12]
    directory = CACHE / f"{suite}-{key}"
    with state.locked(f".base-{suite}"):
        if directory.exists():
            return directory
        print(f"Building the {suite} base system (about half a minute, once)", file=sys.stderr, flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = CACHE / f"{suite}.new"
        shutil.rmtree(draft, ignore_errors=True)
        settings = [f"--aptopt={line}" for line in apt_settings().splitlines()]
        copies = [f'--essential-hook=mkdir -p "$1{LOCAL_CAS}"']
        copies += [f'--essential-hook=cp "{path}" "$1{LOCAL_CAS}/"' for path in authorities]
        run(
            ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", *settings, *copies, suite, draft, "-"],
            stdin=apt_sources(suite),
            timeout=600,
        )
        # Each host has its own keys and machine id.
        for path in [*draft.glob("etc/ssh/ssh_host_*"), draft / "etc/machine-id", draft / "etc/hostname"]:
            path.unlink(missing_ok=True)
        for path in draft.glob("etc/apt/apt.conf.d/99mmdebstrap"):
            path.unlink()
        draft.rename(directory)
        return directory


def furnish(root: Path, suite: str) -> None:
    """Copy the control machine's settings into a host's file system."""
    write(root / "etc/apt/sources.list", apt_sources(suite))
    write(root / "etc/apt/apt.conf.d/90control-machine", apt_settings())
    # There are no package lists yet, so their directory must look old.
    lists = root / "var/lib/apt/lists"
    lists.mkdir(parents=True)
    os.utime(lists, (0, 0))
    if Path("/etc/apt/mirrors").is_dir():
        shutil.copytree("/etc/apt/mirrors", root / "etc/apt/mirrors", dirs_exist_ok=True)
    write(root / "etc/resolv.conf", resolver())
    pip, certificate = pip_settings()
    if certificate:
        # update-ca-certificates, run by some package, would replace a file in its usual place.
        write(root / "etc/ssl/control-machine.pem", Path(certificate).read_text())
        pip["cert"] = "/etc/ssl/control-machine.pem"
    write(root / "etc/pip.conf", "[global]\n" + "".join(f"{key} = {value}\n" for key, value in pip.items()))
    proxies = {key: os.environ[key] for key in ("http_proxy", "https_proxy", "no_proxy") if key in os.environ}
    write(root / "etc/environment", "".join(f'{key}="{value}"\n' for key, value in proxies.items()))


def lend_packages(root: Path, suite: str) -> None:
    """Copy .deb files of earlier hosts into a host's own apt cache, which apt locks."""
    cache = CACHE / f"debs-{suite}"
    cache.mkdir(parents=True, exist_ok=True)
    _link_packages(cache, root / "var/cache/apt/archives")


def keep_packages(root: Path, suite: str) -> None:
    """Copy the .deb files that a host downloaded into the cache."""
    cache = CACHE / f"debs-{suite}"
    cache.mkdir(parents=True, exist_ok=True)
    _link_packages(root / "var/cache/apt/archives", cache)


def _link_packages(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for package in source.glob("*.deb"):
        copy = target / package.name
        if copy.exists():
            continue
        try:
            os.link(package, copy)
        except FileExistsError:
            continue
        except OSError:  # another file system
            shutil.copy2(package, copy)


def apt_sources(suite: str) -> str:
    """The control machine's Debian sources, for another suite, without third parties' sources."""
    own = _os_release()["VERSION_CODENAME"]
    lines: list[str] = []
    for uri, suites, components, signed_by in _debian_sources():
        for name in suites:
            kind = name.removeprefix(own)
            if kind in ("", "-updates", "-security"):
                option = f"[signed-by={signed_by}] " if signed_by else ""
                lines.append(f"deb {option}{uri} {suite}{kind} {' '.join(components)}\n")
    if not lines:
        raise LabError(f"apt on this machine has no source for Debian {own} that the lab's hosts could use")
    return "".join(dict.fromkeys(lines))


def _debian_sources() -> list[tuple[str, list[str], list[str], str]]:
    found = []
    apt = Path("/etc/apt")
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else []:
            if one := re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line):
                options = dict(option.partition("=")[::2] for option in (one[1] or "").split())
                found.append((one[2], [one[3]], one[4].split(), options.get("signed-by", "")))
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
        for stanza in re.split(r"\n\s*\n", text):
            pairs = re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
            fields = {key.lower(): value.split() for key, value in pairs}
            if "deb" in fields.get("types", []) and fields.get("enabled") != ["no"]:
                signed_by = fields.get("signed-by", [""])
                kind = (fields["suites"], fields.get("components", []), signed_by[0])
                found += [(uri, *kind) for uri in fields.get("uris", [])]
    # A source that is signed with another key than Debian's belongs to a third party.
    return [one for one in found if "main" in one[2] and (not one[3] or "debian-archive" in one[3])]


def apt_settings() -> str:
    """The control machine's settings for these sources: proxies, timeouts, checks of dates."""
    kept = re.compile(r"Acquire::(https?|Retries|Check|Force|By-Hash)", re.IGNORECASE)
    lines = run(["apt-config", "dump", "--no-empty"]).splitlines()
    return "".join(f"{line}\n" for line in lines if kept.match(line))


def resolver() -> str:
    """The control machine's resolver, unless it listens on loopback, out of the hosts' reach."""
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        text = path.read_text() if path.exists() else ""
        lines = [line for line in text.splitlines() if not re.match(r"nameserver\s+(127\.|::1)", line)]
        if any(line.startswith("nameserver") for line in lines):
            return "\n".join(lines) + "\n"
    raise LabError("/etc/resolv.conf names no resolver beyond this machine's loopback, and the lab's hosts need one")


def pip_settings() -> tuple[dict[str, str], str]:
    """pip's index and certificate bundle, the only settings of pip that fit another machine."""
    python = Path(__file__).parents[2] / ".venv/bin/python"
    listing = run([python if python.exists() else sys.executable, "-m", "pip", "config", "list"])
    settings: dict[str, str] = {}
    for origin, key, value in re.findall(r"^(:env:|global)\.([\w-]+)='(.*)'$", listing, re.MULTILINE):
        if origin == ":env:" or key not in settings:
            settings[key] = value
    kept = {}
    for key in ("index-url", "extra-index-url", "trusted-host", "proxy"):
        if value := " ".join(word for word in settings.get(key, "").split() if not word.startswith("file:")):
            kept[key] = value
    return kept, settings.get("cert", "")


def _os_release() -> dict[str, str]:
    pairs = (line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    return {key: value.strip('"') for key, value in pairs}
