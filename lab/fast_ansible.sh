# shellcheck shell=bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Source this file to run playbooks with mitogen, in less than half of the CPU time. Use it for runs
# that test the effect of a playbook on a host. The operator's own connection path is tested without
# mitogen.
ANSIBLE_STRATEGY_PLUGINS=$(python -c 'import ansible_mitogen.plugins.strategy as there; print(list(there.__path__)[0])')
export ANSIBLE_STRATEGY_PLUGINS ANSIBLE_STRATEGY=mitogen_linear
