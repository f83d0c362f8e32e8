"""Debian's Chromium, without a screen and without the network."""

from __future__ import annotations

import shutil

from tests.harness.server import ServerError

# software WebGL, and none of what Chromium does by itself in the background
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-gpu-compositing",
    "--disable-gpu-rasterization",
]


def chromium() -> str:
    """Where Chromium is.

    Raises:
        ServerError: it is not installed.
    """
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise ServerError("Chromium is not installed; run scripts/install-tools")
    return found
