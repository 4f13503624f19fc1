# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The edge watcher takes dead worker hosts out of nginx's upstream, and returns them later.

`polling` asks the workers, and `policy` decides. `_upstream` and `_nginx` (the collection's
module_utils) carry the decision out. `metrics` and `journal` report.
"""
