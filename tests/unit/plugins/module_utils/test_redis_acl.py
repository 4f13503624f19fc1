# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The passwords that a Redis user has, and those that the role's ACL keeps."""

from __future__ import annotations

from hashlib import sha256

import jinja2
from program import ROOT

from ansible_collections.selfhost.websocket.plugins.filter.acl_passwords import FilterModule
from ansible_collections.selfhost.websocket.plugins.module_utils._redis_acl import acl_passwords

OLD, NEW = sha256(b"old").hexdigest(), sha256(b"new").hexdigest()


def acl(hashes: list[str]) -> str:
    """The role's ACL, with these passwords of the service."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["hash"] = lambda text, _kind: sha256(text.encode()).hexdigest()
    template = environment.from_string((ROOT / "roles/redis/templates/users.acl.j2").read_text())
    return template.render(_redis_passwords={"admin": "a", "exporter": "e"}, _redis_ws_hashes=hashes)


def test_a_changed_password_comes_first():
    assert acl_passwords(acl([OLD]), "ws", "new") == [NEW, OLD]
    assert acl_passwords(acl([OLD]), "admin", "new") == [NEW, sha256(b"a").hexdigest()]


def test_a_password_is_in_the_list_once():
    assert acl_passwords(acl([NEW]), "ws", "new") == [NEW]
    assert acl_passwords(acl([NEW, OLD]), "ws", "new") == [NEW, OLD]
    assert acl_passwords(acl([OLD, NEW]), "ws", "new") == [NEW, OLD]


def test_a_file_that_redis_wrote():
    line = f"user ws on sanitize-payload #{NEW} #{OLD} resetchannels ~ws:* &ws:* -@all +get"
    assert acl_passwords(f"user default off nopass\n{line}\n", "ws", "new") == [NEW, OLD]


def test_no_file_and_no_user():
    assert acl_passwords("", "ws", "new") == [NEW]
    assert acl_passwords(f"user wsx on #{OLD}\n\nuser\n", "ws", "new") == [NEW]


def test_without_earlier_passwords_the_file_is_as_before():
    """A changed line of this file would set the users of every fleet's Redis again."""
    assert f"\nuser ws on #{NEW} ~ws:* &ws:* +@all -@admin " in acl([NEW])


def test_the_filter():
    assert FilterModule().filters() == {"acl_passwords": acl_passwords}
