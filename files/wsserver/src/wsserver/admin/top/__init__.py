# SPDX-License-Identifier: MIT
"""`ws-server ctl top`: the state of this host's workers, live, from their control sockets."""
