# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The passwords of Redis users, as an ACL file holds them."""

from __future__ import annotations

import re
from hashlib import sha256


def acl_passwords(text: str, user: str, password: str) -> list[str]:
    """Return the SHA-256 hashes of the passwords that a user needs: of `password`, and of those that the file has.

    The hash of `password` comes first, the others follow in the order of the file.
    """
    current = sha256(password.encode()).hexdigest()
    for line in text.splitlines():
        words = line.split()
        if words[:2] == ["user", user]:
            hashes = [word[1:] for word in words if re.fullmatch("#[0-9a-f]{64}", word)]
            return [current, *(earlier for earlier in hashes if earlier != current)]
    return [current]
