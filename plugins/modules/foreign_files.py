#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: foreign_files
short_description: Find the operator's own files in the nginx, Redis or Postgres of a host
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Lists files and data that the roles of this collection would overwrite or stop serving, so that a preflight can refuse the host.
  - A file belongs to this collection if its head names the collection's authors. A file belongs to its package if it is unchanged
    since C(dpkg) installed it. Every other file is the operator's.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
options:
  service:
    description: The service to examine.
    type: str
    choices: [nginx, redis, postgres]
    required: true
  instance:
    description: The name of this collection's instance of Redis. If empty, the package's C(redis-server.service).
    type: str
    default: ''
  shared:
    description: Whether this collection's database is one of several in its Postgres cluster.
    type: bool
    default: false
  database:
    description: The name of this collection's database.
    type: str
    default: ws
  user:
    description: The name of the role that owns O(database).
    type: str
    default: app
notes:
  - The module queries Postgres as the user C(postgres), so it needs C(become).
"""

EXAMPLES = r"""
- name: Look for sites that the edge would replace
  selfhost.websocket.foreign_files:
    service: nginx
  register: nginx

- name: Stop if there are any
  ansible.builtin.assert:
    that: nginx.found | length == 0
"""

RETURN = r"""
found:
  description: The findings. Empty on a host without the service, and on a host that only this collection uses.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The path of the file, or another name.
      type: str
      sample: /etc/nginx/sites-enabled/shop
    kind:
      description:
        - For nginx, V(settings) (C(nginx.conf)), V(site), or V(clash), a site that nginx refuses beside the edge's own.
        - For Redis, V(settings), V(data), V(elsewhere) (data in a place that this collection's Redis does not read), or V(moved)
          if another unit has this collection's data. V(handed-over) if another host has them, and this host forwards its clients there.
        - For Postgres, V(settings), V(override) (a setting that would win over this collection's), V(access) (C(pg_hba.conf),
          C(pg_ident.conf)), V(database), or V(taken), a name in a shared cluster.
      type: str
      sample: site
    what:
      description: A clause about the finding.
      type: str
      sample: is a site of this nginx
  sample:
    - path: /etc/nginx/sites-enabled/shop
      kind: site
      what: is a site of this nginx
clusters:
  description: The Postgres clusters of the host.
  returned: when O(service=postgres)
  type: list
  elements: dict
  contains:
    etc:
      description: The directory of the cluster's settings.
      type: str
      sample: /etc/postgresql/17/main
    port:
      description: The port in the cluster's settings.
      type: int
      sample: 5432
    listen_addresses:
      description: The addresses in the cluster's settings, without those that this collection wrote.
      type: str
      sample: localhost
  sample:
    - etc: /etc/postgresql/17/main
      port: 5432
      listen_addresses: localhost
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils import _foreign


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "choices": ["nginx", "redis", "postgres"], "required": True},
            "instance": {"type": "str", "default": ""},
            "shared": {"type": "bool", "default": False},
            "database": {"type": "str", "default": "ws"},
            "user": {"type": "str", "default": "app"},
        },
        supports_check_mode=True,
    )
    given = module.params
    host = _foreign.Host(module.run_command)
    returned = {}
    try:
        if given["service"] == "nginx":
            found = _foreign.nginx(host)
        elif given["service"] == "redis":
            found = _foreign.redis(host, given["instance"])
        else:
            clusters = _foreign.clusters(host)
            found = [
                one
                for cluster in clusters
                for one in _foreign.postgres(host, cluster, given["database"], given["user"], given["shared"])
            ]
            returned["clusters"] = [asdict(cluster) for cluster in clusters]
    except OSError as error:
        module.fail_json(msg=f"{error.filename} cannot be read: {error.strerror}. Run this task with become.")
    module.exit_json(found=[one.as_dict() for one in found], **returned)


if __name__ == "__main__":
    main()
