# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the ACL file of Redis."""

from __future__ import annotations

import re


def acl_passwords(text: str, user: str) -> list[str]:
    """Return the SHA-256 hashes of a user's passwords, in the order of the file. Without the user, none."""
    for line in text.splitlines():
        words = line.split()
        if words[:2] == ["user", user]:
            return [word[1:] for word in words if re.fullmatch("#[0-9a-f]{64}", word)]
    return []
