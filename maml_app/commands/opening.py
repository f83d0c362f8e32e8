"""The task and the cases that a command is to work on."""

from __future__ import annotations

from pathlib import Path

from maml_app.cases.case import Case
from maml_app.cases.source import CaseSource, learnable
from maml_app.cases.spec import TaskSpec
from maml_app.commands.common import out
from maml_app.errors import CaseError
from maml_app.machine import settle_threads
from maml_app.stores.choice import choose_task, open_studies


def open_task(studies: str, task: str) -> tuple[TaskSpec, CaseSource]:
    """The task for these studies, and where its cases live; with it a command's arithmetic begins."""
    settle_threads()
    spec = choose_task(studies, task)
    return spec, open_studies(studies, spec)


def labelled_cases(source: CaseSource, spec: TaskSpec, cases: str = "") -> list[Case]:
    """The cases of `chosen_cases` that have a label which counts for learning."""
    counted = (learnable(case, spec) for case in chosen_cases(source, cases))
    return [case for case in counted if case.label is not None]


def chosen_cases(source: CaseSource, cases: str) -> list[Case]:
    """All cases, or those named with commas between or by @FILE.

    Raises:
        CaseError: there are none, a name is not among them, or a file that cannot be read.
    """
    every = source.cases()
    if not every:
        raise CaseError("expected cases among the studies, got none; maml-app check tells what lies there, and why")
    if not cases:
        return every
    try:
        text = Path(cases[1:]).read_text(encoding="utf-8") if cases.startswith("@") else cases
    except (OSError, ValueError) as error:
        raise CaseError(f"--cases {cases}: expected a text file with one id a line, got: {error}") from None
    wanted = text.replace(",", " ").split()
    known = {case.id: case for case in every}
    unknown = [case_id for case_id in wanted if case_id not in known]
    if unknown:
        raise CaseError(f"--cases: expected ids of the studies, got unknown {', '.join(unknown)}")
    return [known[case_id] for case_id in wanted]


def tell_unused_files(source: CaseSource, cases: str) -> int:
    """Say which files should have been used and are not, unless `cases` names what is meant; how many lines it took."""
    wrong = [] if cases else [files for files in source.unused() if files.wrong]
    for files in wrong:
        out.print(f"{files.where}: not used: {files.reason}", soft_wrap=True, markup=False, style="red")
    return len(wrong)
