"""MONAI without what it only tries: it imports every package that it could work with, most of its time at the start."""

from __future__ import annotations

import importlib.abc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

# MONAI does without each of them, as where they are not installed; nothing here uses MONAI's parts that are theirs
SPARED = {
    *("gdown", "ignite", "itk", "matplotlib", "mlflow", "pandas", "scipy.signal", "scipy.stats", "skimage", "sklearn"),
    *("tensorboard", "torchvision"),
}


class _Spared(importlib.abc.MetaPathFinder):
    """Says that a package is not there as long as it is MONAI that asks, while it is imported itself."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        monai = sys.modules.get("monai")
        if fullname in SPARED and monai and getattr(monai.__spec__, "_initializing", False):
            raise ModuleNotFoundError(f"{fullname} is left out while MONAI is imported", name=fullname)


def spare_imports() -> None:
    """Let MONAI be imported without its optional packages, in this process; anybody else finds them as ever."""
    if not any(isinstance(finder, _Spared) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Spared())


def lean_path() -> str:
    """PYTHONPATH of processes that are to do so by themselves: Python reads `sitecustomize.py` there, first of all."""
    return os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(Path(__file__).parent))))
