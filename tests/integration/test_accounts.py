"""A server that asks for a login: roles, the author of a label, cookies, and users who go."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import requests
from typer.testing import CliRunner

from maml_app.__main__ import app
from maml_app.accounts import Accounts, Role
from maml_app.cases.spec import TaskSpec
from maml_app.errors import SettingsError
from maml_app.imaging.files import read_record
from maml_app.phantom.scene import write_cases
from maml_app.server.application import admission, identity
from maml_app.settings import Settings
from tests.conftest import TOY
from tests.harness.server import ROOT, Server, free_port

PASSWORD = "a long enough one"


@dataclass
class Guarded:
    """A server with four users, one a role, named as their roles."""

    server: Server
    studies: Path
    users: Path

    def ask(self, method: str, path: str, user: str = "", **more: Any) -> requests.Response:
        auth = (user, PASSWORD) if user else None
        return requests.request(method, self.server.url + path, auth=auth, timeout=60, allow_redirects=False, **more)

    def save(self, user: str) -> requests.Response:
        with (self.studies / "phantom_000" / "label.nii.gz").open("rb") as file:
            label = {"label": ("label.nii.gz", file)}
            return self.ask("PUT", "/datastore/label?image=phantom_001", user, files=label)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, spec: TaskSpec) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("accounts")
    write_cases(folder / "studies", spec, count=2, seed=3, size=16, labelled=1)
    (folder / "studies" / "task.yaml").write_text(TOY)
    # a label of the first case that fits the second
    grid = nib.load(folder / "studies" / "phantom_001" / "ct.nii.gz")
    label = nib.Nifti1Image((grid.get_fdata() > 60).astype("uint8"), grid.affine)
    nib.save(label, folder / "studies" / "phantom_000" / "label.nii.gz")
    for role in Role:
        Accounts(folder / "users.json").add(role.value, PASSWORD, role)
    conf = {"models": str(folder / "models"), "users": str(folder / "users.json")}
    with Server(folder / "studies", folder / "log", conf=conf, ready="/auth/", scoring=False) as server:
        yield Guarded(server, folder / "studies", folder / "users.json")


NEEDS = [
    ("GET", "/info/", Role.USER),
    ("GET", "/datastore/?output=all", Role.USER),
    ("POST", "/activelearning/random", Role.USER),
    ("PUT", "/datastore/image/info?image=phantom_001", Role.ANNOTATOR),
    ("DELETE", "/train/", Role.REVIEWER),
    ("GET", "/logs/", Role.ADMIN),
]


@pytest.mark.parametrize(("method", "path", "least"), NEEDS, ids=[f"{row[0]} {row[1]}" for row in NEEDS])
def test_each_role_may_do_what_those_before_it_may(guarded: Guarded, method: str, path: str, least: Role) -> None:
    assert guarded.ask(method, path).status_code == 401
    for role in Role:
        answer = guarded.ask(method, path, role.value)
        assert answer.status_code == (200 if role.covers(least) else 403), (role, answer.text)
    assert guarded.ask("GET", "/auth/").json()["enabled"] is True


def test_the_user_is_the_author_of_a_label_whatever_the_client_says(guarded: Guarded) -> None:
    assert guarded.save("user").status_code == 403
    saved = guarded.save("annotator")
    assert saved.status_code == 200, saved.text
    name = saved.json()["label"].partition("@")[2]
    record = json.loads(read_record(guarded.studies / "maml_labels" / "phantom_001" / f"{name}.nii.gz"))
    assert record["author"] == "annotator"


def test_a_login_page_gives_a_cookie_that_scripts_cannot_read(guarded: Guarded) -> None:
    page = {"Accept": "text/html"}
    sent_there = guarded.ask("GET", "/ohif/", headers=page)
    assert (sent_there.status_code, sent_there.headers["Location"]) == (303, "/login?next=/ohif/")
    asked = "/ohif/monai-label?StudyInstanceUIDs=1.2.3&hangingProtocol=x"
    sent_there = guarded.ask("GET", asked, headers=page)
    form_of_it = re.findall('action="([^"]*)"', guarded.ask("GET", sent_there.headers["Location"]).text)
    right = guarded.ask("POST", form_of_it[0], data={"username": "annotator", "password": PASSWORD})
    assert right.headers["Location"] == asked
    wrong = guarded.ask("POST", "/login", data={"username": "admin", "password": "no"})
    assert (wrong.status_code, "User or password is wrong" in wrong.text) == (401, True)
    form = {"username": "annotator", "password": PASSWORD}
    right = guarded.ask("POST", "/login?next=//evil.example", data=form)
    assert right.headers["Location"] == "/"
    cookie = right.headers["Set-Cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    kept = {"maml_session": right.cookies["maml_session"]}
    assert guarded.ask("GET", "/info/", cookies=kept).status_code == 200
    assert guarded.ask("GET", "/info/", cookies={"maml_session": kept["maml_session"][:-2] + "xx"}).status_code == 401
    # another site's page sends the cookie along, and is refused all the same
    foreign = guarded.ask("DELETE", "/train/", cookies=kept, headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 403


def test_a_user_who_is_removed_is_out_at_once(guarded: Guarded) -> None:
    accounts = Accounts(guarded.users)
    accounts.add("guest", PASSWORD, Role.USER)
    form = {"username": "guest", "password": PASSWORD}
    kept = {"maml_session": guarded.ask("POST", "/login", data=form).cookies["maml_session"]}
    assert guarded.ask("GET", "/info/", cookies=kept).status_code == 200
    accounts.add("guest", "quite another one", Role.USER)
    assert guarded.ask("GET", "/info/", cookies=kept).status_code == 401  # signed for the password before
    accounts.remove("guest")
    assert guarded.ask("GET", "/info/", "guest").status_code == 401


def test_a_guesser_behind_the_documented_proxy_is_one_client_and_the_cookie_is_secure(guarded: Guarded) -> None:
    """With the headers that docs/security.md has nginx set over those of the client."""
    told = {"$host": "127.0.0.1", "$scheme": "https", "$remote_addr": "203.0.113.9"}
    described = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    proxied = {name: told[value] for name, value in re.findall(r"proxy_set_header (\S+) (\S+);", described)}
    form = {"username": "annotator", "password": PASSWORD}
    right = guarded.ask("POST", "/login", data=form, headers=proxied)
    assert "secure" in right.headers["Set-Cookie"].lower()
    statuses = []
    for number in range(11):
        headers = {"X-Forwarded-For": f"198.51.100.{number}", **proxied}
        form = {"username": "annotator", "password": f"wrong {number}"}
        statuses.append(guarded.ask("POST", "/auth/token", data=form, headers=headers).status_code)
    assert statuses == [401] * 10 + [429]


def test_guessing_is_slowed_down(guarded: Guarded) -> None:
    """Last in this module: this client has to wait for this name after it."""
    answers = [
        requests.get(f"{guarded.server.url}/info/", auth=("admin", f"wrong {number}"), timeout=60).status_code
        for number in range(14)
    ]
    assert set(answers[:5]) == {401}
    assert answers[-1] == 429
    Accounts(guarded.users).add("neighbour", PASSWORD, Role.USER)
    assert guarded.ask("GET", "/info/", "neighbour").status_code == 200


def test_accounts_are_kept_where_nobody_else_can_read_them(tmp_path: Path) -> None:
    file = tmp_path / "users.json"

    def users(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["users", *words, "--file", str(file)], env={"MAML_PASSWORD": PASSWORD})
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    assert "anna: annotator" in users("add", "anna")
    assert "bert: admin" in users("add", "bert", "--role", "admin")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert PASSWORD not in file.read_text()
    assert users("list").split() == ["anna:", "annotator", "bert:", "admin"]
    users("remove", "anna")
    assert Accounts(file).verify("anna", PASSWORD) is None
    found = Accounts(file).verify("bert", PASSWORD)
    assert found is not None
    assert found.role == Role.ADMIN
    for name, password, message in (("a/b", PASSWORD, "up to 64 letters"), ("eve", "short", "expected 10 to")):
        with pytest.raises(SettingsError, match=message):
            Accounts(file).add(name, password, Role.USER)
    file.write_text("{")
    with pytest.raises(SettingsError, match="expected accounts made by"):
        Accounts(file).all()
    with pytest.raises(SettingsError, match=r"u\.json: the accounts could not be read \(Not a directory\)"):
        Accounts(file / "u.json").add("anna", PASSWORD, Role.USER)


OPEN = "--host 0.0.0.0: other machines could do all, since nobody has to log in"


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({}, OPEN),
        ({"users": "none.json"}, "there are no accounts; add one with"),
        ({"origins": "nonsense", "open": "yes"}, "--conf origins: expected addresses such as"),
        ({"origins": "http://[", "open": "yes"}, "--conf origins: expected addresses such as"),
        ({"opne": "yes"}, "--conf opne: no such setting"),
    ],
)
def test_a_door_that_would_stand_open_is_not_opened(conf: dict[str, str], message: str) -> None:
    def admitted() -> None:
        settings = Settings.read(conf)
        admission(settings, identity(settings), ["--host", "0.0.0.0"])

    with pytest.raises(SettingsError, match=message):
        admitted()


def test_a_server_whose_door_would_stand_open_ends_with_a_sentence(studies: Path, tmp_path: Path) -> None:
    (studies / "task.yaml").write_text(TOY)
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", "maml_app", "--studies", str(studies)]
    command += ["--host", "0.0.0.0", "--port", str(free_port()), "--conf", "models", str(tmp_path / "models")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert OPEN in done.stderr
    assert "Traceback" not in done.stderr
