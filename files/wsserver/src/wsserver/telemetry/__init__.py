# SPDX-License-Identifier: MIT
"""What the service tells its operator."""
