"""Where the shop's messages go: files in a folder, or a broker named by an address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

POLLING_SECONDS = 0.05


def files(folder: Path | str) -> dict[str, Any]:
    """For one machine, and to try things out: what a worker that dies had in hand is lost with it, and so may
    be what one takes while it is written."""
    Path(folder).mkdir(exist_ok=True)
    folders = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), str(folder))
    return {"URL": "filesystem://", "TRANSPORT_OPTIONS": {**folders, "polling_interval": POLLING_SECONDS}}


def server(address: str) -> dict[str, Any]:
    return {"URL": address}
