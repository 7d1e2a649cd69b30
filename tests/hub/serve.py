"""Runs a hub in a process of its own: ``python -m tests.hub.serve ROOT PORT``."""

from __future__ import annotations

import sys
from pathlib import Path

from sampan.hub.config import HubConfig
from sampan.hub.server import run

if __name__ == "__main__":
    run(HubConfig(root=Path(sys.argv[1]), port=int(sys.argv[2]), anonymous="push"))
