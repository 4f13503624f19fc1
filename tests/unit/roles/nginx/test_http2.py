# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Where nginx.conf switches on HTTP/2, by the version of nginx."""

from __future__ import annotations

import re

import jinja2
import pytest
import yaml
from ansible.plugins.filter.core import regex_search
from ansible.plugins.test.core import version_compare
from program import ROOT

ENVIRONMENT = jinja2.Environment(undefined=jinja2.ChainableUndefined, trim_blocks=True)
ENVIRONMENT.filters |= {"bool": bool, "regex_search": regex_search, "selfhost.websocket.url_host": str}
ENVIRONMENT.tests["version"] = version_compare


@pytest.mark.parametrize(
    ("shown", "beside_sites", "where"),
    [
        ("nginx version: nginx/1.22.1", False, "port"),
        ("nginx version: nginx/1.22.1", True, ""),  # the sites share the port
        ("nginx version: nginx/1.25.1", False, "server"),
        ("nginx version: nginx/1.26.3 (Debian)", True, "server"),
    ],
)
def test_http2_is_where_this_nginx_takes_it(shown: str, beside_sites: bool, where: str) -> None:
    variables = yaml.safe_load((ROOT / "roles/nginx/vars/main.yml").read_text())
    chosen = ENVIRONMENT.from_string(variables["_nginx_http2"]).render(
        __nginx_version={"stderr": shown}, nginx_keep_sites=beside_sites
    )
    assert chosen == where
    text = (ROOT / "roles/nginx/templates/nginx.conf.j2").read_text()
    written = ENVIRONMENT.from_string(text).render(
        _nginx_http2=chosen, nginx_allowed_origins=[], _nginx_worker_connections=1024
    )
    assert re.findall(r"^ *listen 443 (.*) default_server", written, re.MULTILINE) == [
        "ssl http2" if where == "port" else "ssl"
    ]
    assert written.count("http2 on;") == (where == "server")
