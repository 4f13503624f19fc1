#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_ready
short_description: Wait until the expected WebSocket worker is ready
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Checks a worker after its start or replacement. The gate opens when C(/readyz) was good O(successes) times in a row, answered by
    a new process with the expected version.
  - Fails as soon as success is impossible, that is if the unit has failed or is stopped, if the worker crashes repeatedly, or if it is
    ready with another version or generation than expected.
  - Checks often at first, and later once a second.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
attributes:
  check_mode:
    details:
      - Checks once and does not wait or fail, because nothing was replaced. RV(ready) is the result.
options:
  instance:
    description:
      - The worker, for example V(80).
    type: str
    required: true
  url:
    description:
      - The URL to query. By default C(http://ADDRESS:80INSTANCE/readyz), with the listen address in the worker's settings.
    type: str
  socket:
    description:
      - The worker's control socket, which reports the process and version. By default C(/run/ws-server/INSTANCE/control.sock).
      - For an early release without a control socket, the module uses systemd's main process, and the version of the release in the
        worker's generation.
    type: path
  successes:
    description:
      - How many good answers of one process are needed in a row.
    type: int
    default: 3
  timeout_s:
    description:
      - How many seconds to wait for these answers.
    type: float
    default: 60
  hold_s:
    description:
      - For how many seconds the same process must then stay ready, as for a canary.
    type: float
    default: 0
  previous_pid:
    description:
      - The old process, from RV(selfhost.websocket.worker_info#module:workers[].pid). The worker must be another process.
    type: int
  previous_started_at:
    description:
      - The start time of the old process, from RV(selfhost.websocket.worker_info#module:workers[].started_at).
      - With both options, another PID or a later start identifies another process.
    type: float
  pid:
    description:
      - The process that must still run, from RV(pid) of an earlier gate. The module fails at once if that process has ended or was
        replaced, so that no crash between two gates stays undetected.
    type: int
  version:
    description:
      - The exact version that the worker must have.
    type: str
  generation:
    description:
      - The generation that the worker's link must name.
    type: str
notes:
  - Only root can read the control socket, the settings and the journal, so this usually needs C(become).
seealso:
  - module: selfhost.websocket.worker_drain
  - module: selfhost.websocket.worker_info
"""

EXAMPLES = r"""
- name: Read the state of worker 80 before it is replaced
  selfhost.websocket.worker_info:
    instances: ["80"]
  register: before

- name: Restart the worker
  ansible.builtin.systemd_service:
    name: ws-server@80.service
    state: restarted

- name: Wait until the new process is ready, and watch it for half a minute
  selfhost.websocket.worker_ready:
    instance: "80"
    previous_pid: "{{ before.workers[0].pid or omit }}"
    previous_started_at: "{{ before.workers[0].started_at or omit }}"
    version: 0.1.0+8c1f0a5be2d4
    hold_s: 30
"""

RETURN = r"""
msg:
  description: The result. On failure, a sentence with the cause, followed by the last lines of the worker's log.
  returned: always
  type: str
  sample: Worker 80 is ready, process 4243 with version 0.1.0+8c1f0a5be2d4, after 2.9 s.
cause:
  description: The sentence with the cause.
  returned: failure
  type: str
  sample: "Worker 80 has failed and is not restarted: it ended with exit status 2: it refuses its settings."
log:
  description: The last lines of the worker's log, at most 20.
  returned: failure
  type: list
  elements: str
  sample: ["14:16:46 info listening address=127.0.0.1 port=8080 version=0.1.0+8c1f0a5be2d4"]
instance:
  description: The worker.
  returned: always
  type: str
  sample: "80"
url:
  description: The URL that was asked.
  returned: always
  type: str
  sample: http://127.0.0.1:8080/readyz
ready:
  description: Whether the last answer was good and did not come from the old process.
  returned: always
  type: bool
attempts:
  description: The number of checks.
  returned: always
  type: int
  sample: 9
successes_in_a_row:
  description: How many answers in a row were good before O(hold_s) began.
  returned: always
  type: int
  sample: 3
last_answer:
  description: The last answer, or the error instead of an answer.
  returned: always
  type: str
  sample: 200 ready
pid:
  description: The process at the last check, or V(null) without a process.
  returned: always
  type: int
  sample: 4243
started_at:
  description: The Unix time when that process started.
  returned: always
  type: float
  sample: 1795529806.17
version:
  description: The version that the process reports, or else the version of the release in its generation.
  returned: always
  type: str
  sample: 0.1.0+8c1f0a5be2d4
generation:
  description: The generation that the worker's link names, a release with its settings.
  returned: always
  type: str
  sample: 0.1.0+8c1f0a5be2d4-5f0c2a91
restarts:
  description: How often the worker restarted during the checks, for example after a crash.
  returned: always
  type: int
  sample: 0
held_s:
  description: For how many seconds of O(hold_s) the module watched the worker.
  returned: always
  type: float
  sample: 30.0
seconds:
  description: The seconds that the module took.
  returned: always
  type: float
  sample: 32.9
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance
from ansible_collections.selfhost.websocket.plugins.module_utils._journal import last_lines
from ansible_collections.selfhost.websocket.plugins.module_utils._readiness import Expected, Gate
from ansible_collections.selfhost.websocket.plugins.module_utils._worker import Worker, WorkerError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "str", "required": True},
            "url": {"type": "str"},
            "socket": {"type": "path"},
            "successes": {"type": "int", "default": 3},
            "timeout_s": {"type": "float", "default": 60},
            "hold_s": {"type": "float", "default": 0},
            "previous_pid": {"type": "int"},
            "previous_started_at": {"type": "float"},
            "pid": {"type": "int"},
            "version": {"type": "str"},
            "generation": {"type": "str"},
        },
        supports_check_mode=True,
    )
    given = module.params
    if not _instance.is_name(given["instance"]):
        module.fail_json(msg=_instance.not_a_name(given["instance"]))
    if given["successes"] < 1:
        module.fail_json(msg=f"successes is {given['successes']}: set it to 1 or more.")

    worker = Worker(module.run_command, given["instance"], given["socket"])
    try:
        url = given["url"] or f"{worker.instance.url}/readyz"
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename} cannot be read: {error.strerror}. Run this task with become, or set url."
        )
    expected = Expected(
        given["previous_pid"], given["previous_started_at"], given["version"], given["generation"], given["pid"]
    )
    gate = Gate(worker, url, expected)
    try:
        if module.check_mode:
            gate.look()
            module.exit_json(msg=f"Would wait until worker {worker.name} is ready.", **gate.result())
        gate.open(given["successes"], given["timeout_s"])
        gate.hold(given["hold_s"])
    except WorkerError as error:
        result = gate.result()
        log = last_lines(module.run_command, worker.instance.unit)
        text = "\n".join([str(error), "The last lines of its log:", *(f"  {line}" for line in log)])
        module.fail_json(msg=text, cause=str(error), log=log, **result)
    result = gate.result()
    module.exit_json(
        msg=f"Worker {worker.name} is ready, process {result['pid']} with version {result['version']}, after {result['seconds']:.1f} s.",
        **result,
    )


if __name__ == "__main__":
    main()
