"""Python reads this first where the app's folder is on its path, as in the processes that MONAI Label starts.

They read MONAI before the app, with nothing of it spared: twice the time until a server answers or a training begins.
"""

from contextlib import suppress

with suppress(ModuleNotFoundError):  # a checkout that is not installed: it only begins later
    from maml_app.lean import spare_imports

    spare_imports()
