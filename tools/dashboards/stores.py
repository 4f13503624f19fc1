# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Redis and Postgres: what the workers need of them, and how near their limits they are."""

from __future__ import annotations

from .panels import Dashboard, Number, Panel, Query

_DATABASE = '{datname!~"template.*|postgres|"}'

DASHBOARD = Dashboard(
    "ws-stores",
    "Redis and Postgres",
    "Redis, without which nothing is served, and Postgres, where the messages end up.",
    (
        (
            "Now",
            (
                Number(
                    "Redis",
                    "1 while it answers its exporter.",
                    "none",
                    (Query("redis_up", "Redis"),),
                    runbook="WsRedisDown",
                    limit=1,
                    low=True,
                    width=6,
                ),
                Number(
                    "Memory of Redis",
                    "Of redis_maxmemory. When it is full publishes are refused, and nothing is dropped.",
                    "percentunit",
                    (Query("redis:redis_memory_used_bytes:ratio", "used"),),
                    runbook="WsRedisMemoryHigh",
                    limit=0.85,
                    width=6,
                ),
                Number(
                    "Postgres",
                    "1 while it answers its exporter. While it is away, messages wait in Redis.",
                    "none",
                    (Query("pg_up", "Postgres"),),
                    runbook="WsPostgresDown",
                    limit=1,
                    low=True,
                    width=6,
                ),
                Number(
                    "Waiting for Postgres",
                    "Messages that are in Redis alone.",
                    "short",
                    (Query("fleet:ws_archive_pending:sum", "messages"),),
                    runbook="WsArchiveLag",
                    width=6,
                ),
            ),
        ),
        (
            "Redis",
            (
                Panel(
                    "Memory",
                    "For data, and what the process takes of the host. A rewrite of the append only file may double the latter for a moment.",
                    "bytes",
                    (
                        Query("redis_memory_used_bytes", "data"),
                        Query("redis_memory_used_rss_bytes", "resident"),
                        Query("redis_memory_max_bytes", "redis_maxmemory"),
                    ),
                    runbook="WsRedisMemoryHigh",
                ),
                Panel(
                    "Commands",
                    "Each second.",
                    "ops",
                    (Query("rate(redis_commands_processed_total[$__rate_interval])", "commands"),),
                ),
                Panel(
                    "Time per command",
                    "The commands on which Redis spends most of its time, on average. It has one thread for all of them.",
                    "s",
                    (
                        Query(
                            "topk(5, sum by (cmd) (rate(redis_commands_duration_seconds_total[$__rate_interval]))"
                            " / sum by (cmd) (rate(redis_commands_total[$__rate_interval])))",
                            "{{cmd}}",
                        ),
                    ),
                ),
                Panel(
                    "Clients",
                    "Connections to Redis. Blocked are those that wait for a stream, as the archive's do.",
                    "short",
                    (
                        Query("redis_connected_clients", "connected"),
                        Query("redis_blocked_clients", "blocked"),
                    ),
                ),
                Panel(
                    "Network",
                    "Bytes in and out.",
                    "Bps",
                    (
                        Query("rate(redis_net_input_bytes_total[$__rate_interval])", "in"),
                        Query("rate(redis_net_output_bytes_total[$__rate_interval])", "out"),
                    ),
                ),
                Panel(
                    "Append only file",
                    "The one copy of the data. It is rewritten when it has doubled.",
                    "bytes",
                    (
                        Query("redis_aof_current_size_bytes", "now"),
                        Query("redis_aof_base_size_bytes", "after the last rewrite"),
                    ),
                ),
                Panel(
                    "The disk's answers",
                    "Writes that waited as the disk had not yet taken the last ones, and whether the last write failed.",
                    "short",
                    (
                        Query("increase(redis_aof_delayed_fsync[5m])", "delayed in 5 minutes"),
                        Query("1 - redis_aof_last_write_status", "the last write failed"),
                    ),
                ),
                Panel(
                    "Round trip, as the workers see it",
                    "Of a batch of publishes, p99.",
                    "s",
                    (Query("fleet:ws_broker_publish_seconds:p99_5m", "p99"),),
                ),
                Panel(
                    "Keys",
                    "Rooms' logs, and what the workers count together.",
                    "short",
                    (Query('redis_db_keys{db="db0"}', "keys"),),
                ),
            ),
        ),
        (
            "Postgres",
            (
                Panel(
                    "Archive",
                    "Messages moved to Postgres, refused for good, and attempts that failed.",
                    "ops",
                    (
                        Query("sum(rate(ws_archive_rows_total[$__rate_interval]))", "moved"),
                        Query("sum(rate(ws_archive_refused_total[$__rate_interval]))", "refused"),
                        Query("sum(rate(ws_archive_errors_total[$__rate_interval]))", "failed attempts"),
                    ),
                    runbook="WsArchiveLag",
                ),
                Panel(
                    "Archive lag",
                    "The age of the oldest message that waits.",
                    "s",
                    (Query("fleet:ws_archive_lag_seconds:max", "lag"),),
                    runbook="WsArchiveLag",
                    limit=60,
                ),
                Panel(
                    "Transactions",
                    "Committed and rolled back, each second.",
                    "ops",
                    (
                        Query(
                            f"rate(pg_stat_database_xact_commit{_DATABASE}[$__rate_interval])", "{{datname}} committed"
                        ),
                        Query(
                            f"rate(pg_stat_database_xact_rollback{_DATABASE}[$__rate_interval])",
                            "{{datname}} rolled back",
                        ),
                    ),
                ),
                Panel(
                    "Connections",
                    "To each database, beside what Postgres allows.",
                    "short",
                    (
                        Query(f"pg_stat_database_numbackends{_DATABASE}", "{{datname}}"),
                        Query("pg_settings_max_connections", "allowed"),
                    ),
                ),
                Panel(
                    "Size",
                    "Of each database, on disk.",
                    "bytes",
                    (Query(f"pg_database_size_bytes{_DATABASE}", "{{datname}}"),),
                ),
                Panel(
                    "Read from memory",
                    "The share of blocks that Postgres had in memory. What is archived is rarely read, so a history call may lower it.",
                    "percentunit",
                    (
                        Query(
                            f"rate(pg_stat_database_blks_hit{_DATABASE}[5m]) / (rate(pg_stat_database_blks_hit{_DATABASE}[5m])"
                            f" + rate(pg_stat_database_blks_read{_DATABASE}[5m]))",
                            "{{datname}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
