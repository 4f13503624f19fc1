# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The edge watcher: takes worker hosts that swallow packets out of nginx's upstream, and back in when they answer.

polling asks the workers, policy decides, _upstream and _nginx (the collection's module_utils) carry the decision out,
metrics and journal report.
"""
