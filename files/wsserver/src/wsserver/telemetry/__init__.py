# SPDX-License-Identifier: MIT
"""Logs, metrics and traces for the operator."""
