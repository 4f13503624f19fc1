# shellcheck shell=bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# To be sourced: playbooks run with mitogen, in less than half of the CPU time. For runs that test what a
# playbook does to a host. How an operator's Ansible gets there is tested without it.
ANSIBLE_STRATEGY_PLUGINS=$(python -c 'import ansible_mitogen.plugins.strategy as there; print(list(there.__path__)[0])')
export ANSIBLE_STRATEGY_PLUGINS ANSIBLE_STRATEGY=mitogen_linear
