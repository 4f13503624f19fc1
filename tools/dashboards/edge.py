# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Edge: nginx, its certificate, and which workers it sends new clients to."""

from __future__ import annotations

from .panels import Dashboard, Number, Panel, Query, States

DASHBOARD = Dashboard(
    "ws-edge",
    "Edge",
    "nginx from its own counters and from a client's probe, and each edge's view of the workers.",
    (
        (
            "Now",
            (
                Number(
                    "Reached from outside",
                    "1 while the edge answers over TLS with a trusted certificate.",
                    "none",
                    (Query('probe_success{job="edge"}', "{{host}}"),),
                    runbook="WsEdgeDown",
                    limit=1,
                    low=True,
                    width=6,
                ),
                Number(
                    "Certificate",
                    "The time until the certificate expires.",
                    "s",
                    (Query("edge:probe_certificate_left:seconds", "{{host}}"),),
                    runbook="WsCertificateExpiring",
                    limit=14 * 86400,
                    low=True,
                    width=6,
                ),
                Number(
                    "Connections",
                    "Connections that nginx has open.",
                    "short",
                    (Query("nginx_connections_active", "{{host}}"),),
                    width=6,
                ),
                Number(
                    "Old configurations",
                    "The number of earlier configurations of nginx that still serve their last clients.",
                    "short",
                    (Query("edge:ws_edge_nginx_lingering:generations", "{{host}}"),),
                    runbook="WsNginxLingering",
                    limit=4,
                    width=6,
                ),
            ),
        ),
        (
            "nginx",
            (
                Panel(
                    "Requests",
                    "Per second. A WebSocket counts when it begins.",
                    "reqps",
                    (Query("rate(nginx_http_requests_total[$__rate_interval])", "{{host}}"),),
                ),
                Panel(
                    "New connections",
                    "Accepted per second, and accepted but not handled because nginx lacks connections or files.",
                    "ops",
                    (
                        Query("rate(nginx_connections_accepted[$__rate_interval])", "{{host}} accepted"),
                        Query(
                            "rate(nginx_connections_accepted[$__rate_interval]) - rate(nginx_connections_handled[$__rate_interval])",
                            "{{host}} not handled",
                        ),
                    ),
                ),
                Panel(
                    "Connections by state",
                    "Writing includes WebSockets; waiting means idle HTTP connections.",
                    "short",
                    (
                        Query("nginx_connections_reading", "{{host}} reading"),
                        Query("nginx_connections_writing", "{{host}} writing"),
                        Query("nginx_connections_waiting", "{{host}} waiting"),
                    ),
                ),
                Panel(
                    "Time of a probe",
                    "The duration of each part: the TLS handshake, the connection, the answer.",
                    "s",
                    (Query('probe_http_duration_seconds{job="edge"}', "{{host}} {{phase}}"),),
                    runbook="WsEdgeDown",
                ),
                Panel(
                    "Old processes",
                    "nginx processes of earlier configurations. Each ends with its last client.",
                    "short",
                    (Query("ws_edge_nginx_lingering_processes", "{{host}}"),),
                    runbook="WsNginxLingering",
                ),
                Panel(
                    "Reloads by the watcher",
                    "Changes of the upstream by the watcher, and failed changes.",
                    "short",
                    (
                        Query("increase(ws_edge_reloads_total[5m])", "{{host}} reloads"),
                        Query("increase(ws_edge_failures_total[5m])", "{{host}} failures"),
                    ),
                ),
            ),
        ),
        (
            "The edges' view of the workers",
            (
                States(
                    "Gets new clients",
                    "Whether nginx sends new clients to a worker.",
                    "none",
                    (Query("ws_edge_server_up", "{{host}} to {{server}}"),),
                    texts=((0, "out", "orange"), (1, "in", "green")),
                    runbook="WsWorkerNotReady",
                ),
                States(
                    "Last answer",
                    "Each worker's answer to the watcher's last poll.",
                    "none",
                    (
                        Query(
                            'max by (host, server) (ws_edge_server_answer{answer="ready"})',
                            "{{host}} of {{server}}",
                        ),
                    ),
                    texts=((0, "not ready", "red"), (1, "ready", "green")),
                    runbook="WsWorkerNotReady",
                ),
            ),
        ),
    ),
)
