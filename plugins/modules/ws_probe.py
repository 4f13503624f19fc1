#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_probe
short_description: Hold one real conversation with the service
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Connects as a client, joins a room, publishes a message, receives it, and leaves the room.
  - Fails if a step fails, and names that step.
requirements:
  - The Python package C(websockets), 15 or newer.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
attributes:
  check_mode:
    details:
      - The conversation takes place in check mode, too. It leaves a message in its own room, which expires.
options:
  url:
    description: The URL to which clients connect, for example C(wss://ws.example.org/ws).
    type: str
    required: true
  address:
    description:
      - The IP address to connect to, for one of several edges. By default, the module resolves the host of O(url).
      - The certificate must match the host of O(url) in any case.
    type: str
  ca_file:
    description:
      - A file with the CA certificates to trust, on the host where the module runs.
      - By default, the module trusts the CAs that the host trusts.
    type: path
  token:
    description:
      - The token to connect with, a JWT.
      - The token must allow joining O(room) and publishing to it. A token for probes only has the claims C(join) and C(publish) of
        C(["probe:*"]).
    type: str
    required: true
  room:
    description:
      - The room of the conversation.
      - By default a new room, V(probe:) and 32 random hexadecimal digits.
    type: str
  timeout_s:
    description: The time limit of each step, in seconds.
    type: float
    default: 5
notes:
  - On a worker host, the release's own interpreter has the package. Set C(ansible_python_interpreter) to
    C(/opt/ws-server/instances/80/release/bin/python) for this task.
  - A conversation with a worker that is just draining may fail. Use C(retries) if that is not a fault.
  - The module uses no proxy, even if the environment sets one.
"""

EXAMPLES = r"""
- name: Hold a conversation through the edge
  selfhost.websocket.ws_probe:
    url: wss://ws.example.org/ws
    token: "{{ probe_token }}"
  vars:
    ansible_python_interpreter: /opt/ws-server/instances/80/release/bin/python
  register: probe
  until: probe is success
  retries: 3
  delay: 1
"""

RETURN = r"""
steps:
  description:
    - The duration of each successful step, in milliseconds.
    - Both RV(steps.publish) and RV(steps.receive) count from the publish.
  returned: always
  type: dict
  contains:
    connect:
      description: From the start to the worker's welcome, with TLS and the upgrade.
      type: float
      sample: 12.3
    join:
      description: Until the room was joined.
      type: float
      sample: 1.2
    publish:
      description: Until the message was acknowledged.
      type: float
      sample: 1.9
    receive:
      description: Until the message was received.
      type: float
      sample: 1.8
    leave:
      description: Until the room was left.
      type: float
      sample: 0.6
step:
  description: The step that failed, one of the names in RV(steps).
  returned: failure
  type: str
  sample: join
room:
  description: The room of the conversation.
  returned: always
  type: str
  sample: probe:5f0c9d2f9d0b4d58a2d9e7a8f4b8e3c1
welcome:
  description: The worker's welcome. Empty if the conversation ended before.
  returned: always
  type: dict
  contains:
    user:
      description: The user of the token.
      type: str
      sample: probe
    heartbeat_s:
      description: How often the worker pings the client, in seconds.
      type: float
      sample: 25
    max_message_bytes:
      description: The size of the largest message that the worker accepts.
      type: int
      sample: 65536
    expires:
      description: The Unix time when the token expires.
      type: float
      sample: 1767225600
"""

import ssl
import uuid

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.selfhost.websocket.plugins.module_utils._probe import (
    WEBSOCKETS_ERROR,
    Conversation,
    ProbeError,
)


def _trust(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    # Python 3.13 refuses the certificate of a CA without key usage, as many private CAs are. Browsers accept it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "address": {"type": "str"},
            "ca_file": {"type": "path"},
            "token": {"type": "str", "required": True, "no_log": True},
            "room": {"type": "str"},
            "timeout_s": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    if WEBSOCKETS_ERROR:
        module.fail_json(msg=missing_required_lib("websockets"), exception=WEBSOCKETS_ERROR)
    params = module.params
    room = params["room"] or f"probe:{uuid.uuid4().hex}"
    try:
        secure = params["url"].startswith("wss:")
        trust = _trust(params["ca_file"]) if secure else None
    except OSError as error:
        module.fail_json(msg=f"ca_file {params['ca_file']} cannot be used: {error}")
    conversation = Conversation()
    try:
        conversation.hold(params["url"], params["address"], trust, params["token"], room, timeout_s=params["timeout_s"])
    except ProbeError as error:
        module.fail_json(
            msg=str(error), step=error.step, steps=conversation.steps, room=room, welcome=conversation.welcome
        )
    module.exit_json(changed=False, steps=conversation.steps, room=room, welcome=conversation.welcome)


if __name__ == "__main__":
    main()
