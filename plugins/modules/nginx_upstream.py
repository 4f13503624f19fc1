#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_upstream
short_description: Take servers out of an nginx upstream, or return them
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Marks servers of an upstream as down, so that nginx sends them no new clients. Also removes these marks, or the servers themselves.
  - The mark of a server names its owners in the server's line of the configuration. The server stays down as long as the mark has an
    owner, and each owner removes only its own name. So this module does not return a server that the edge watcher took out, and vice versa.
  - Under a lock, nginx validates the changed configuration before it replaces the old one. nginx is reloaded, never restarted, and the
    module waits until the new configuration is in force. If anything fails, the module restores the old one.
  - Connected clients stay connected.
extends_documentation_fragment:
  - selfhost.websocket.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  server:
    description:
      - The servers, each as C(HOST:PORT), as written in the configuration.
      - Either this or O(host) is required.
    type: list
    elements: str
  host:
    description:
      - The address of a host, for all its servers.
      - Either this or O(server) is required.
    type: str
  state:
    description:
      - V(down) adds O(by) to the owners of the servers' marks, and V(up) removes O(by) from them.
      - V(absent) removes the servers from the upstream, whether or not they have a mark.
    type: str
    choices: [up, down, absent]
    required: true
  by:
    description:
      - The owner of the mark.
      - V(watcher) is the edge watcher. A C(down) that was written by hand belongs to V(unknown).
    type: str
    default: ansible
  force:
    description: Take out or remove even the last server that is up, which is otherwise an error.
    type: bool
    default: false
  upstream:
    description: The name of the upstream.
    type: str
    default: ws
  path:
    description:
      - nginx's configuration file, as the role P(selfhost.websocket.nginx#role) writes it.
      - The file itself must contain the upstream, with one line for each server, and an absolute path as C(pid).
    type: path
    default: /etc/nginx/nginx.conf
notes:
  - If nginx does not run, the module validates and writes the configuration, which takes effect at the next start.
  - If the file is correct but newer than nginx's last reload, the module reloads nginx.
"""

EXAMPLES = r"""
- name: Send no new client to this host, on all edges
  selfhost.websocket.nginx_upstream:
    host: "{{ ws_server_private_address }}"
    state: down
    by: maintenance
  delegate_to: "{{ item }}"
  loop: "{{ groups['ws_edge'] }}"
  throttle: 1

- name: Return this host to all edges
  selfhost.websocket.nginx_upstream:
    host: "{{ ws_server_private_address }}"
    state: up
    by: maintenance
  delegate_to: "{{ item }}"
  loop: "{{ groups['ws_edge'] }}"
  throttle: 1

- name: Take one worker out
  selfhost.websocket.nginx_upstream:
    server: 10.0.0.3:8080
    state: down
"""

RETURN = r"""
before:
  description: All servers of the upstream before the change.
  returned: success
  type: list
  elements: dict
  contains:
    server:
      description: The server, as C(HOST:PORT).
      type: str
      sample: 10.0.0.3:8080
    state:
      description: Either V(up) or V(down).
      type: str
      sample: down
    by:
      description: The owners of the server's mark.
      type: list
      elements: str
      sample: [maintenance, watcher]
after:
  description: All servers of the upstream after the change, which check mode only predicts. The fields are those of RV(before).
  returned: success
  type: list
  elements: dict
  sample:
    - server: 10.0.0.3:8080
      state: up
      by: []
reloaded:
  description: Whether nginx was reloaded and uses the new configuration.
  returned: success
  type: bool
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils._nginx import Applied, Nginx, NotAppliedError
from ansible_collections.selfhost.websocket.plugins.module_utils._upstream import (
    NAME,
    Server,
    UpstreamError,
    marked,
    servers,
    without,
)


def chosen(present: list[Server], params: dict[str, Any]) -> set[str]:
    """Return the addresses that the options select. Raises UpstreamError."""
    if params["host"]:
        found = {server.address for server in present if server.host == params["host"].strip("[]")}
        unknown = [] if found else [params["host"]]
    else:
        found = {server.address for server in present} & set(params["server"])
        unknown = sorted(set(params["server"]) - found)
    if unknown and params["state"] != "absent":
        has = ", ".join(server.address for server in present) or "none"
        raise UpstreamError(f"{', '.join(unknown)}: not in the upstream {params['upstream']}, whose servers are {has}")
    return found


def changed(configuration: str, params: dict[str, Any]) -> str:
    """Return the changed configuration. Raises UpstreamError."""
    upstream, by = params["upstream"], params["by"]
    present = servers(configuration, upstream)
    meant = chosen(present, params)
    if params["state"] == "absent":
        after = without(configuration, upstream, meant)
    else:
        held = {server.address for server in present if by in server.down_by}
        after = marked(configuration, upstream, by, held | meant if params["state"] == "down" else held - meant)
    if after != configuration and params["state"] != "up":
        left = servers(after, upstream)
        if not left:
            raise UpstreamError(
                f"nginx does not start with an upstream without servers: {upstream} would have none left"
            )
        if not params["force"] and all(server.down_by for server in left):
            raise UpstreamError(
                f"no server of the upstream {upstream} would be left up (set force: true to do it anyway)"
            )
    return after


def report(configuration: str, upstream: str) -> list[dict[str, Any]]:
    return [
        {"server": server.address, "state": "down" if server.down_by else "up", "by": list(server.down_by)}
        for server in servers(configuration, upstream)
    ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "server": {"type": "list", "elements": "str"},
            "host": {"type": "str"},
            "state": {"type": "str", "choices": ["up", "down", "absent"], "required": True},
            "by": {"type": "str", "default": "ansible"},
            "force": {"type": "bool", "default": False},
            "upstream": {"type": "str", "default": "ws"},
            "path": {"type": "path", "default": "/etc/nginx/nginx.conf"},
        },
        mutually_exclusive=[("server", "host")],
        required_one_of=[("server", "host")],
        supports_check_mode=True,
    )
    params = module.params
    if not NAME.fullmatch(params["by"]):
        module.fail_json(msg=f"by is {params['by']!r}: use 1 to 64 letters, digits and _ . @ -")
    nginx = Nginx(Path(params["path"]))
    try:
        if module.check_mode:
            before = nginx.read()
            done, pending = Applied(before, changed(before, params), reloaded=False), nginx.needs_reload()
        else:
            done, pending = nginx.apply(lambda configuration: changed(configuration, params)), False
        result = {
            name: report(text, params["upstream"]) for name, text in (("before", done.before), ("after", done.after))
        }
    except (UpstreamError, NotAppliedError, OSError) as error:
        module.fail_json(msg=str(error))
    header = {"before_header": params["path"], "after_header": params["path"]}
    module.exit_json(
        changed=done.before != done.after or done.reloaded or pending,
        reloaded=done.reloaded,
        diff={"before": done.before, "after": done.after, **header},
        **result,
    )


if __name__ == "__main__":
    main()
