# SPDX-License-Identifier: MIT
"""Publishers and subscribers that check the promise against a deployment, as its clients see it.

async with Witness(Plan("wss://ws.example.org/ws", credentials)) as witness:
    ...  # restart, update or break something
    report = await witness.finish()
"""

from wsserver.witness.credentials import from_secret, from_token_file
from wsserver.witness.plan import CannotWatch, Plan
from wsserver.witness.report import Report
from wsserver.witness.witness import Witness

__all__ = ["CannotWatch", "Plan", "Report", "Witness", "from_secret", "from_token_file"]
