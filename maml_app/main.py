import importlib.util
import pathlib
import sys

if importlib.util.find_spec("maml_app") is None:  # in a checkout that is not installed
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from maml_app.lean import spare_imports

spare_imports()
from maml_app.app import MamlApp  # noqa: E402, F401
