# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Redis and Postgres: the workers' use of them, and their limits."""

from __future__ import annotations

from .panels import Dashboard, Number, Panel, Query

_DATABASE = '{datname!~"template.*|postgres|"}'

DASHBOARD = Dashboard(
    "ws-stores",
    "Redis and Postgres",
    "Redis, which every publish needs, and Postgres, which stores the messages.",
    (
        (
            "Now",
            (
                Number(
                    "Redis",
                    "1 while Redis answers its exporter.",
                    "none",
                    (Query("redis_up", "Redis"),),
                    runbook="WsRedisDown",
                    limit=1,
                    low=True,
                    width=6,
                ),
                Number(
                    "Memory of Redis",
                    "The used share of redis_maxmemory. When the memory is full, Redis refuses publishes and drops nothing.",
                    "percentunit",
                    (Query("redis:redis_memory_used_bytes:ratio", "used"),),
                    runbook="WsRedisMemoryHigh",
                    limit=0.85,
                    width=6,
                ),
                Number(
                    "Postgres",
                    "1 while Postgres answers its exporter. While Postgres is unavailable, messages wait in Redis.",
                    "none",
                    (Query("pg_up", "Postgres"),),
                    runbook="WsPostgresDown",
                    limit=1,
                    low=True,
                    width=6,
                ),
                Number(
                    "Waiting for Postgres",
                    "Messages that only Redis has.",
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
                    "Memory for data, and memory of the process. A rewrite of the append only file may briefly double the latter.",
                    "bytes",
                    (
                        Query("redis_memory_used_bytes", "data"),
                        Query("redis_memory_used_rss_bytes", "resident"),
                        Query("redis_memory_max_bytes", "redis_maxmemory"),
                    ),
                    runbook="WsRedisMemoryHigh",
                ),
                Panel(
                    "Redis's disk is full",
                    "1 while Redis cannot write to its disk, as one of the workers sees it.",
                    "none",
                    (Query("max(ws_broker_disk_full)", "disk full"),),
                    runbook="WsRedisDiskFull",
                ),
                Panel(
                    "Data that Redis lost",
                    "Shards whose data was older than before when Redis came back, and logs of archived messages that a full Redis gave up.",
                    "short",
                    (
                        Query("sum(increase(ws_broker_data_lost_total[$__rate_interval]))", "shards with older data"),
                        Query("sum(increase(ws_archive_shed_logs_total[$__rate_interval]))", "logs given up"),
                    ),
                    runbook="WsRedisDataLost",
                ),
                Panel(
                    "Commands",
                    "Per second.",
                    "ops",
                    (Query("rate(redis_commands_processed_total[$__rate_interval])", "commands"),),
                ),
                Panel(
                    "Time per command",
                    "The commands on which Redis spends most of its time, on average. Redis runs all commands in one thread.",
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
                    "Connections to Redis. Blocked connections wait for a stream, as in the archive.",
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
                    "The only copy of the data. Redis rewrites the file when its size has doubled.",
                    "bytes",
                    (
                        Query("redis_aof_current_size_bytes", "now"),
                        Query("redis_aof_base_size_bytes", "after the last rewrite"),
                    ),
                ),
                Panel(
                    "Disk writes",
                    "Writes that waited because the disk was still busy, and whether the last write failed.",
                    "short",
                    (
                        Query("increase(redis_aof_delayed_fsync[5m])", "delayed in 5 minutes"),
                        Query("1 - redis_aof_last_write_status", "the last write failed"),
                    ),
                ),
                Panel(
                    "Round trip from the workers",
                    "The time of a batch of publishes, p99.",
                    "s",
                    (Query("fleet:ws_broker_publish_seconds:p99_5m", "p99"),),
                ),
                Panel(
                    "Keys",
                    "Rooms' logs, and the workers' shared counters.",
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
                    "Messages moved to Postgres, refused permanently, and failed attempts.",
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
                    "The age of the oldest waiting message.",
                    "s",
                    (Query("fleet:ws_archive_lag_seconds:max", "lag"),),
                    runbook="WsArchiveLag",
                    limit=60,
                ),
                Panel(
                    "Transactions",
                    "Committed and rolled back per second.",
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
                    "Connections to each database, and the limit of Postgres.",
                    "short",
                    (
                        Query(f"pg_stat_database_numbackends{_DATABASE}", "{{datname}}"),
                        Query("pg_settings_max_connections", "allowed"),
                    ),
                ),
                Panel(
                    "Size",
                    "The size of each database on disk.",
                    "bytes",
                    (Query(f"pg_database_size_bytes{_DATABASE}", "{{datname}}"),),
                ),
                Panel(
                    "Read from memory",
                    "The share of blocks that Postgres had in memory. Archived messages are rarely read, so a history call may lower it.",
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
