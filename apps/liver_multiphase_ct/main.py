import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from maml_app.app import MamlApp  # noqa: F401
