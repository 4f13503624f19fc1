# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Booted Debian hosts on one machine: systemd-nspawn containers in network namespaces.

``state`` says which runs and hosts there are, ``image`` makes what they boot from, ``network`` connects them,
``host`` starts and ends one, ``snapshot`` keeps them for later runs. ``shell`` runs the programs that do the work. ``lab/lab`` is the command line.
"""
