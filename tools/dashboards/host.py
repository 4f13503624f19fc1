# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Host: CPU, memory, disks and network."""

from __future__ import annotations

from .panels import Dashboard, Panel, Query, Variable

_OF = 'host=~"$host"'
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
                    "The busy share of all cores.",
                    "percentunit",
                    (Query(f"host:node_cpu_busy:ratio_rate5m{{{_OF}}}", "{{host}}"),),
                ),
                Panel(
                    "CPU by mode",
                    "Cores. Steal is time that other guests of the machine took; iowait is waiting for a disk.",
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
                    "Running and waiting processes, over a minute, and the number of cores.",
                    "short",
                    (
                        Query(f"node_load1{{{_OF}}}", "{{host}} load"),
                        Query(f'count by (host) (node_cpu_seconds_total{{{_OF}, mode="idle"}})', "{{host}} cores"),
                    ),
                ),
                Panel(
                    "Memory",
                    "The used share that cannot be freed. When memory runs out, the kernel kills dashboards first and Redis last.",
                    "percentunit",
                    (Query(f"host:node_memory_used:ratio{{{_OF}}}", "{{host}}"),),
                ),
                Panel(
                    "Memory available",
                    "Memory that programs can still use, and used swap.",
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
                    "Processes that the kernel killed, in five minutes.",
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
                    "By file system. A tmpfs uses memory.",
                    "percentunit",
                    (Query(f"disk:node_filesystem_used:ratio{{{_OF}}}", "{{host}} {{mountpoint}}"),),
                    limit=0.8,
                    runbook="WsDiskFilling",
                ),
                Panel(
                    "Time until full",
                    "If the use grows as in the last hour, at most a week.",
                    "s",
                    (
                        Query(
                            f"clamp_max(disk:node_filesystem_full:seconds{{{_OF}}}, 604800)", "{{host}} {{mountpoint}}"
                        ),
                    ),
                    runbook="WsDiskFull",
                ),
                Panel(
                    "Busy",
                    "The share of time in which a disk was busy.",
                    "percentunit",
                    (
                        Query(
                            f"rate(node_disk_io_time_seconds_total{{{_OF}}}[$__rate_interval])", "{{host}} {{device}}"
                        ),
                    ),
                ),
                Panel(
                    "Time per write",
                    "Redis answers a publish after its write to disk, so this time is part of every publish.",
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
                    "Established, on the whole host. A client behind nginx counts three times: its own connection, and both ends of nginx's.",
                    "short",
                    (Query(f"node_netstat_Tcp_CurrEstab{{{_OF}}}", "{{host}}"),),
                ),
                Panel(
                    "Trouble",
                    "Retransmitted segments, and connections refused because a listen queue was full: the role sysctl enlarges it.",
                    "ops",
                    (
                        Query(
                            f"rate(node_netstat_Tcp_RetransSegs{{{_OF}}}[$__rate_interval])", "{{host}} retransmitted"
                        ),
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
