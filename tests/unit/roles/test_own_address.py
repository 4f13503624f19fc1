# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A service at a private address accepts its own host: systemd's `localhost` is only loopback."""

from __future__ import annotations

import jinja2
import pytest
from program import ROOT


@pytest.mark.parametrize(("role", "unit"), [("exporters", "exporter"), ("loki", "loki"), ("tempo", "tempo")])
@pytest.mark.parametrize(("own", "other"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
def test_the_own_host_may_connect(role, unit, own, other):
    text = (ROOT / "roles" / role / f"templates/{unit}.service.conf.j2").read_text()
    (allow,) = [line for line in text.splitlines() if line.startswith("IPAddressAllow=")]
    addresses = jinja2.Template(allow).render({f"{role}_listen_address": own, f"{role}_clients": [other]})
    assert addresses == f"IPAddressAllow=localhost {own} {other}"
