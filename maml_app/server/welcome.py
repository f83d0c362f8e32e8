"""The first lines of a server: what it serves, where, and who may come in."""

from __future__ import annotations

import threading

from monailabel.config import settings as monai

from maml_app.errors import MamlError
from maml_app.server.guard import Policy
from maml_app.server.house import House
from maml_app.version import VERSION


def welcome(house: House, admitted: Policy) -> None:
    """Print the lines, as soon as the cases have been listed: an archive may take its time, requests do not wait."""
    threading.Thread(target=lambda: print(lines(house, admitted), flush=True), daemon=True).start()


def lines(house: House, admitted: Policy) -> str:
    """What there is to say to whoever started the server."""
    spec, address = house.spec, f"http://127.0.0.1:{monai.MONAI_LABEL_SERVER_PORT}"
    told = [
        f"maml_app {VERSION}: {spec.title} (task {spec.name})",
        f"studies   {monai.MONAI_LABEL_STUDIES}: {_cases(house)}",
        f"model     {house.registry.served() or 'none yet: save some labels, then train'}",
        f"clients   {address}" + (f", viewer {address}/ohif/" if house.archive else ""),
        f"who       {_who(house, admitted)}",
    ]
    return "\n".join(["", *told, ""])


def _cases(house: House) -> str:
    try:
        cases, unused = house.source.cases(), house.source.unused()
    except MamlError as error:
        return f"cannot be listed now: {error}"
    labelled = sum(case.label is not None for case in cases)
    bad = sum(bool(case.problems or case.left_out) for case in cases) + sum(file.wrong for file in unused)
    problems = f", {bad} problems at first sight: maml-app check tells them" if bad else ""
    return f"{len(cases)} cases, {labelled} labelled{problems}"


def _who(house: House, admitted: Policy) -> str:
    if house.identity.asks:
        return "users who log in, from any machine that reaches this one"
    if admitted.anyone:
        return "EVERYONE who reaches this machine, without a login"
    return "this machine only, without a login"
