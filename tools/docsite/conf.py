# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Sphinx's configuration for the site of `make docs`, made with `antsibull-docs sphinx-init` as the
model.

Every warning fails the build. Nothing is fetched: links to the documentation of Ansible's own
plugins are made from their names, without an inventory of that site.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "selfhost.websocket"
author = "the selfhost.websocket authors"
copyright = author  # noqa: A001 - Sphinx's name
html_title = project

extensions = ["myst_parser", "sphinx_antsibull_ext", "sphinxcontrib.mermaid"]
nitpicky = True
# Anchors have the same names as on GitHub, so that one link works in both places.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
# Indented blocks in README and in the pages are not YAML.
highlight_language = "text"
pygments_style = "ansible"

html_theme = "sphinx_ansible_theme"
_REPOSITORY = "https://github.com/selfhost-websocket/websocket"
html_theme_options = {
    "topbar_links": {"Repository": _REPOSITORY},
    "documentation_home_url": _REPOSITORY,
    "show_extranav": False,
}
html_show_sphinx = False
html_copy_source = False
html_use_index = False

_ANSIBLE = "https://docs.ansible.com/projects/ansible/latest"
_PAGES = {"action_plugins": "plugins/action", "common_return_values": "reference_appendices/common_return_values"}
_PLUGIN = re.compile(r"ansible_collections\.(ansible\.builtin|community\.\w+|ansible\.posix)\.(\w+)")


def link_to_ansible(
    _app: Sphinx, _environment: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """A link to Ansible's own documentation; None for a label that is unknown there too, which is a
    warning."""
    target = node["reftarget"]
    if plugin := _PLUGIN.match(target):
        page = f"collections/{plugin[1].replace('.', '/')}/{plugin[2]}"
    elif target in _PAGES:
        page = _PAGES[target]
    else:
        return None
    return nodes.reference("", "", content, internal=False, refuri=f"{_ANSIBLE}/{page}.html")


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", link_to_ansible)
