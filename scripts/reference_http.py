"""The reference's page of the HTTP API, made from the routes of the application and their OpenAPI schema."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any, get_type_hints

from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from maml_app.server.application import ROUTERS
from maml_app.server.forms import InferParams, LabelParams, Notes

HEAD = """# HTTP API

All that the server answers, which `/openapi.json` has as a schema. What is not here is 404 or 405.

Each answer has a number, in the header `X-Request-ID`, by which the log has it. An error is JSON: `detail`, one
sentence, and `request`, that number. 401: log in first; 403: the role does not suffice, or the request comes from
another site; 404: there is no such thing; 422: something is not of the kind that is listed here; 503 with
`Retry-After`: busy, ask again.

*Who* is the least role that may, where there are accounts ([Security](../security.md)); without them everyone may.
"""
FORMS: tuple[type[BaseModel], ...] = (InferParams, LabelParams, Notes)
LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "maxLength": "at most so long:",
    "maxItems": "at most so many:",
}

PLACES = {
    "application/x-www-form-urlencoded": "form field",
    "multipart/form-data": "form field",
    "application/json": "JSON body",
}

Schema = dict[str, Any]


def http_page() -> str:
    """Every route with a table of what it takes, and what the JSON in its form fields may hold."""
    routes = [copy.copy(route) for module in ROUTERS for route in module.router.routes if isinstance(route, APIRoute)]
    pages = [route for route in routes if not route.include_in_schema]
    for route in pages:
        route.include_in_schema = True
    schema = get_openapi(title="", version="", routes=routes)
    lines = [HEAD]
    for route in sorted(routes, key=lambda route: route in pages):
        for method in sorted(route.methods or ()):
            lines += _route(route, method, schema)
    for form in FORMS:
        content = form.model_json_schema()
        words = inspect.cleandoc(form.__doc__ or "")
        lines += [f"## {form.__name__}", "", f"The JSON in a form field. {words}", ""]
        lines += _table([("JSON", *row) for row in _properties(content, content)])
    return "\n".join(lines)


def _route(route: APIRoute, method: str, schema: Schema) -> Iterator[str]:
    operation = schema["paths"][route.path_format][method.lower()]
    asked = (getattr(part.call, "role", None) for part in route.dependant.dependencies)
    roles = [role.value for role in asked if role]
    told = inspect.cleandoc(route.endpoint.__doc__ or operation["summary"])
    yield from (f"## {method} {route.path_format}", "", told, "")
    yield from (f"- Who: {roles[0] if roles else 'anyone'}", f"- Answers: {_answer(route, method, operation)}", "")
    rows = [
        (given["in"], given["name"], _values(given["schema"], schema), _default(given["schema"], given["required"]))
        for given in operation.get("parameters", ())
    ]
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        rows += [(PLACES[kind], *row) for row in _properties(body["schema"], schema)]
    yield from _table(rows)


def _table(rows: list[tuple[str, str, str, str]]) -> list[str]:
    if not rows:
        return []
    head = ["| in | name | values | default |", "|---|---|---|---|"]
    return [*head, *(f"| {where} | `{name}` | {values} | {default} |" for where, name, values, default in rows), ""]


def _properties(content: Schema, root: Schema) -> Iterator[tuple[str, str, str]]:
    """Name, values and default of each key; of the first form that is a mapping, where there are several."""
    content = next((part for part in _parts(content, root) if part.get("type") == "object"), {})
    for name, part in content.get("properties", {}).items():
        yield name, _values(part, root), _default(part, name in content.get("required", ()))
    more = content.get("additionalProperties")
    if isinstance(more, dict):
        yield "…", _values(more, root), ""


def _parts(content: Schema, root: Schema) -> list[Schema]:
    """The alternatives of a schema, references followed; null is not told."""
    if "$ref" in content:
        found: Any = root
        for key in content["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        return _parts(found, root)
    if "anyOf" in content:
        return [found for part in content["anyOf"] for found in _parts(part, root)]
    return [content] if content.get("type") != "null" else []


def _values(content: Schema, root: Schema) -> str:
    kinds = " or ".join(_kind(part, root) for part in _parts(content, root))
    return ": ".join(part for part in (kinds, content.get("description", "")) if part).replace("|", "\\|")


def _kind(content: Schema, root: Schema) -> str:
    if "enum" in content:
        return ", ".join(f"`{value}`" for value in content["enum"])
    limits = [f"{words} {content[key]:.0f}" for key, words in LIMITS.items() if key in content]
    name = "file" if content.get("contentMediaType") else content.get("type", "JSON")
    if name == "array":
        name = f"list of {' or '.join(_kind(part, root) for part in _parts(content.get('items', {}), root))}"
    return " ".join((name, *([f"({', '.join(limits)})"] if limits else [])))


def _default(content: Schema, required: bool) -> str:
    value = content.get("default")
    return "required" if required else "" if value in (None, "", []) else f"`{str(value).replace('|', chr(92) + '|')}`"


def _answer(route: APIRoute, method: str, operation: Schema) -> str:
    answered = next(content for status, content in operation["responses"].items() if status.startswith("2"))
    kinds = list(answered.get("content", {}))
    result = get_type_hints(route.endpoint)["return"]
    if method == "HEAD":
        return "the status alone"
    if not isinstance(result, type) or not issubclass(result, Response):
        return "nothing" if result is type(None) else "JSON"
    if kinds and kinds != ["application/json"]:
        return ", ".join(kinds)
    return "a file" if issubclass(result, FileResponse) else "as told above"
