# SPDX-License-Identifier: MIT
"""The broker of a fleet: Redis."""
