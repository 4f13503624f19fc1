# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Host: CPU, memory, disk and network under it all."""

from __future__ import annotations

from .panels import Dashboard, Panel, Query, Variable

_OF = 'host=~"$host"'
_DISK = f'{{{_OF}, fstype!~"ramfs|squashfs|nsfs", mountpoint!~"/(run/|proc|sys|dev).*"}}'
_LINK = f'{{{_OF}, device!~"lo|veth.*|docker.*|br-.*"}}'

DASHBOARD = Dashboard(
    "ws-host",
    "Host",
    "The machines: CPU, memory, disks, network.",
    (
        (
            "CPU and memory",
            (
                Panel(
                    "CPU",
                    "The share of all cores that is busy.",
                    "percentunit",
                    (Query(f"host:node_cpu_busy:ratio_rate5m{{{_OF}}}", "{{host}}"),),
                ),
                Panel(
                    "CPU by what it does",
                    "Cores. Steal is what other guests of the machine took; iowait is waiting for a disk.",
                    "short",
                    (
                        Query(
                            f'sum by (host, mode) (rate(node_cpu_seconds_total{{{_OF}, mode!="idle"}}[$__rate_interval]))',
                            "{{host}} {{mode}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Load",
                    "Processes that run or want to, over a minute, beside the number of cores.",
                    "short",
                    (
                        Query(f"node_load1{{{_OF}}}", "{{host}} load"),
                        Query(f'count by (host) (node_cpu_seconds_total{{{_OF}, mode="idle"}})', "{{host}} cores"),
                    ),
                ),
                Panel(
                    "Memory",
                    "The share in use that cannot be given up. When it is all used, dashboards die first and Redis last.",
                    "percentunit",
                    (Query(f"host:node_memory_used:ratio{{{_OF}}}", "{{host}}"),),
                ),
                Panel(
                    "Memory available",
                    "What programs can still have, and swap in use.",
                    "bytes",
                    (
                        Query(f"node_memory_MemAvailable_bytes{{{_OF}}}", "{{host}} available"),
                        Query(
                            f"node_memory_SwapTotal_bytes{{{_OF}}} - node_memory_SwapFree_bytes{{{_OF}}}",
                            "{{host}} swap used",
                        ),
                    ),
                ),
                Panel(
                    "Killed for memory",
                    "Processes that the kernel ended, in five minutes.",
                    "short",
                    (Query(f"increase(node_vmstat_oom_kill{{{_OF}}}[5m])", "{{host}}"),),
                ),
            ),
        ),
        (
            "Disks",
            (
                Panel(
                    "Space used",
                    "By file system. What is of tmpfs is memory.",
                    "percentunit",
                    (
                        Query(
                            f"1 - node_filesystem_avail_bytes{_DISK} / node_filesystem_size_bytes{_DISK}",
                            "{{host}} {{mountpoint}}",
                        ),
                    ),
                    limit=0.9,
                ),
                Panel(
                    "Busy",
                    "The share of the time in which a disk had something to do.",
                    "percentunit",
                    (
                        Query(
                            f"rate(node_disk_io_time_seconds_total{{{_OF}}}[$__rate_interval])", "{{host}} {{device}}"
                        ),
                    ),
                ),
                Panel(
                    "Time per write",
                    "Redis answers a publish when its write is on disk, so this is in the latency of each.",
                    "s",
                    (
                        Query(
                            f"rate(node_disk_write_time_seconds_total{{{_OF}}}[5m])"
                            f" / rate(node_disk_writes_completed_total{{{_OF}}}[5m])",
                            "{{host}} {{device}}",
                        ),
                    ),
                ),
            ),
        ),
        (
            "Network",
            (
                Panel(
                    "Traffic",
                    "Bits in and out, by interface.",
                    "bps",
                    (
                        Query(
                            f"8 * rate(node_network_receive_bytes_total{_LINK}[$__rate_interval])",
                            "{{host}} {{device}} in",
                        ),
                        Query(
                            f"8 * rate(node_network_transmit_bytes_total{_LINK}[$__rate_interval])",
                            "{{host}} {{device}} out",
                        ),
                    ),
                ),
                Panel(
                    "TCP connections",
                    "Established, on the whole host. Behind nginx a client is three of them: its own, and both ends of nginx's to a worker.",
                    "short",
                    (Query(f"node_netstat_Tcp_CurrEstab{{{_OF}}}", "{{host}}"),),
                ),
                Panel(
                    "Trouble",
                    "Segments sent again, and connections refused since a queue of new ones was full: the role sysctl widens it.",
                    "ops",
                    (
                        Query(f"rate(node_netstat_Tcp_RetransSegs{{{_OF}}}[$__rate_interval])", "{{host}} sent again"),
                        Query(
                            f"rate(node_netstat_TcpExt_ListenOverflows{{{_OF}}}[$__rate_interval])",
                            "{{host}} queue full",
                        ),
                    ),
                ),
            ),
        ),
    ),
    (Variable("host", "node_uname_info"),),
)
