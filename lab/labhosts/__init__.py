# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Booted Debian hosts on one machine: systemd-nspawn containers in network namespaces.

``state`` records runs and hosts, ``image`` builds their base systems, ``network`` connects them,
``host`` starts and ends one host, and ``snapshot`` keeps hosts for later runs. ``shell`` runs the
external programs. ``lab/lab`` is the command line.
"""
