# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Edge: nginx, its certificate, and which workers it sends new clients to."""

from __future__ import annotations

from .panels import Dashboard, Number, Panel, Query, States

DASHBOARD = Dashboard(
    "ws-edge",
    "Edge",
    "nginx as it counts itself and as a client sees it, and the workers as each edge sees them.",
    (
        (
            "Now",
            (
                Number(
                    "Reached from outside",
                    "1 while the edge answers over TLS, with a certificate that is trusted.",
                    "none",
                    (Query('probe_success{job="edge"}', "{{host}}"),),
                    runbook="WsEdgeDown",
                    limit=1,
                    low=True,
                    width=6,
                ),
                Number(
                    "Certificate",
                    "The time until it runs out.",
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
                    "How many earlier configurations of nginx, in full, still serve their last clients.",
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
                    "Each second. A WebSocket counts when it begins.",
                    "reqps",
                    (Query("rate(nginx_http_requests_total[$__rate_interval])", "{{host}}"),),
                ),
                Panel(
                    "New connections",
                    "Accepted each second, and those that were accepted but not handled: nginx is short of connections or files.",
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
                    "What the connections do",
                    "Writing has the WebSockets in it; waiting are idle HTTP connections.",
                    "short",
                    (
                        Query("nginx_connections_reading", "{{host}} reading"),
                        Query("nginx_connections_writing", "{{host}} writing"),
                        Query("nginx_connections_waiting", "{{host}} waiting"),
                    ),
                ),
                Panel(
                    "A visit from outside",
                    "How long each part of one takes: the TLS handshake, the connection, the answer.",
                    "s",
                    (Query('probe_http_duration_seconds{job="edge"}', "{{host}} {{phase}}"),),
                    runbook="WsEdgeDown",
                ),
                Panel(
                    "Old processes",
                    "nginx processes of earlier configurations, which end with their last client.",
                    "short",
                    (Query("ws_edge_nginx_lingering_processes", "{{host}}"),),
                    runbook="WsNginxLingering",
                ),
                Panel(
                    "Reloads by the watcher",
                    "How often the workers to send clients to changed, and changes that could not be made.",
                    "short",
                    (
                        Query("increase(ws_edge_reloads_total[5m])", "{{host}} reloads"),
                        Query("increase(ws_edge_failures_total[5m])", "{{host}} failures"),
                    ),
                ),
            ),
        ),
        (
            "The workers, as the edges see them",
            (
                States(
                    "Gets new clients",
                    "Whether nginx sends new clients to a worker.",
                    "none",
                    (Query("ws_edge_server_up", "{{host}} to {{server}}"),),
                    texts=((0, "taken out", "orange"), (1, "in", "green")),
                    runbook="WsWorkerNotReady",
                ),
                States(
                    "Last answer",
                    "What each worker did with the watcher's last question.",
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
