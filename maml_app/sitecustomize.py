"""Python reads this first where the app's folder is on its path, as in the processes that MONAI Label starts.

They read MONAI before the app: with nothing of it spared a server takes twice the time until it answers.
"""

from contextlib import suppress

with suppress(ModuleNotFoundError):  # a checkout that is not installed: it only begins later
    from maml_app.lean import spare_imports

    spare_imports()
