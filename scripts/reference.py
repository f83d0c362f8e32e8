"""Pages of the reference, made from the code when the documentation is built (an mkdocs hook)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperGroup

from maml_app.__main__ import COMMANDS, Later
from maml_app.cases.spec import TaskSpec
from maml_app.settings import PREFIX, Settings
from scripts.reference_http import http_page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"settings": settings_page, "task": task_page, "commands": commands_page, "http": http_page}
    for name, page in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    return files


def settings_page() -> str:
    """Every setting with its meaning and default."""
    rows = [
        f"| `{name}` | `{PREFIX}{name.upper()}` | {field.description} | {_default(field)} |"
        for name, field in Settings.model_fields.items()
    ]
    head = "Given to a server as `--conf NAME VALUE`, or in the environment; `--conf` goes first. Others are refused."
    return "\n".join(["# Settings", "", head, "", "| name | environment | | default |", "|---|---|---|---|", *rows, ""])


def task_page() -> str:
    """Every key of a task.yaml, a section a model."""
    lines = ["# task.yaml", "", "Unknown keys are refused, with file, key, expected and got.", ""]
    for title, model in _models(TaskSpec, "task.yaml"):
        lines += [f"## {title}", "", *_described(model), "", "| key | values | default |", "|---|---|---|"]
        lines += [f"| `{name}` | {_values(field)} | {_default(field)} |" for name, field in model.model_fields.items()]
        lines.append("")
    return "\n".join(lines)


def commands_page() -> str:
    """Every command with its help."""
    lines = ["# Command line", ""]
    for name in COMMANDS:
        command = Later(name).real()
        lines += _command(command, f"maml-app {name}")
    return "\n".join(lines)


def _command(command: Any, path: str) -> Iterator[str]:
    yield from (f"## {path}", "", (command.help or "").strip(), "")
    if isinstance(command, TyperGroup):
        for name, part in command.commands.items():
            yield from _command(part, f"{path} {name}")
        return
    if command.params:
        yield from ("| option | |", "|---|---|")
    for option in command.params:
        words = getattr(option, "help", None) or ""
        yield f"| `{', '.join([*option.opts, *option.secondary_opts])}` | {words.replace('|', chr(92) + '|')} |"
    yield ""


def _models(model: type[BaseModel], title: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield title, model
    for name, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _models(part, name if title == "task.yaml" else f"{title}.{name}")


def _described(model: type[BaseModel]) -> list[str]:
    return [line.strip() for line in (model.__doc__ or "").strip().splitlines()]


def _values(field: FieldInfo) -> str:
    kind = str(field.annotation) if get_args(field.annotation) else getattr(field.annotation, "__name__", "")
    for noise in (
        "typing.",
        "maml_app.cases.recipe.",
        "maml_app.cases.spec.",
        "maml_app.cases.series.",
        "maml_app.network.settings.",
    ):
        kind = kind.replace(noise, "")
    return " ".join(part for part in (f"`{kind}`".replace("|", "or"), field.description or "") if part)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default
    return "as below" if isinstance(value, BaseModel) else "" if value in ("", None, (), {}) else f"`{value}`"
