# SPDX-License-Identifier: MIT
"""`ws-server ctl top`: how the workers of this host are, live, over their control sockets."""
