"""A report of known scores: what it says, and in which form."""

from __future__ import annotations

import csv
import json

from maml_app.cases.spec import TaskSpec
from maml_app.evaluation.evaluate import Details
from maml_app.evaluation.metrics import Measures
from maml_app.evaluation.report import Judged, Report
from maml_app.evaluation.scores import Scores


def details(spec: TaskSpec, dice: float) -> Details:
    """One case without ct: organ with that Dice, no lesion anywhere."""
    found = {"organ": Measures(dice, 0.5, 3.0, 2, 1, 4, 9.0, 10.0, -1.0)}
    found["lesion"] = Measures(None, None, None, 0, 0, 0, 0.0, 0.0, 0.0)
    cases = {"a": dict.fromkeys(("pet", "mr_t1", "pet+mr_t1"), found)}
    scores = {"a": {subset: {"organ": dice, "lesion": None} for subset in cases["a"]}}
    return Details(Scores.of(spec, scores), cases)


def test_a_report_says_of_what_it_is_and_what_was_trained_on(spec: TaskSpec) -> None:
    ours, theirs = details(spec, 0.75), details(spec, 0.5)
    judged = Judged("new.safetensors", "maml", {"steps": 3}, ("a",))
    against = ("old.safetensors", ours.scores.compared(theirs.scores))
    report = Report(spec, "studies/here", judged, ours, against, date="2026-01-02 03:04")
    text = report.markdown()
    assert "2026-01-02 03:04, studies `studies/here`, model `new.safetensors` (maml), 1 cases" in text
    assert "**1 of these cases are of patients that were trained on, their scores are not a test:** a." in text
    assert "| pet+mr_t1 | 1 | 0.750 | – | 0.750 | – |" in text
    assert "| pet | organ | 0.750 | 0.500 | 3.0 | 0.50 | 4.00 | 1.0 | -1.0 |" in text
    assert "| pet | 1 | +0.250 | – |" in text
    assert "| a | pet+mr_t1 | 0.750 | – |" in text
    content = json.loads(json.dumps(report.as_dict()))
    assert (content["date"], content["studies"], content["model"]["steps"]) == ("2026-01-02 03:04", "studies/here", 3)
    assert content["model"]["trained_on_scored_cases"] == ["a"]
    assert content["against"]["subsets"]["mean"]["difference"] == 0.25
    assert content["measures"]["pet"]["organ"]["sensitivity"] == 0.5
    rows = list(csv.DictReader(report.spreadsheet().splitlines()))
    assert [(row["case"], row["modalities"], row["structure"], row["lesions"]) for row in rows][:2] == [
        ("a", "pet", "organ", "2"),
        ("a", "pet", "lesion", "0"),
    ]
