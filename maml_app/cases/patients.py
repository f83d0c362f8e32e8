"""Whose case it is, by the names of folders and files: cases of one patient never lie on both sides of a split."""

from __future__ import annotations

import re
from collections.abc import Sequence

_DATE = r"(?:(?:19|20)\d{2}[-._]?[01]\d[-._]?[0-3]\d|[0-3]\d[-._][0-3]\d[-._](?:19|20)\d{2})"
_WORDS = (
    "ses|session|tp|timepoint|time|visit|week|wk|month|mon|mo|day|year|yr|baseline|bl|base|follow[-_]?up|fu|pre[-_]?op|"
    "post[-_]?op|pre[-_]?treatment|post[-_]?treatment|pre|post|initial|recurrence|progression|relapse|native|registered"
)
# a date, or a word for a point in time with its number; `t1`, `v2`, `m06`, `d3`, `w12`; week-000-1
_TIME = rf"(?:{_DATE}|(?:{_WORDS})(?:[-_. ]?\d+[a-z]?(?:-\d+)?)?|[tvmdw]\d{{1,3}}(?:-\d+)?)"
# of three digits a letter's number may as well be the patient's: `glioma/T001`
_IS_TIME = re.compile(rf"(?![tvmdw]\d{{3}}(?!\d)){_TIME}(?:[-_. ].*)?", re.IGNORECASE)
_SCAN = r"(?:scan|study|exam|acq)[-_. ]?\d*"
_WEAK = re.compile(
    rf"\d{{1,3}}|(?:19|20)\d\d|s\d{{1,2}}|[tvmdw]\d{{3}}(?:-\d+)?|{_SCAN}", re.IGNORECASE
)  # only below what looks like an id
_TAIL = re.compile(
    rf"(.+?)[-_. ]+(?:{_TIME}|{_SCAN}(?<=\d))(?:[-_. ]+(?:{_TIME}|{_SCAN}))*(?:[-_. ]+[a-z]+)*", re.IGNORECASE
)
# ids of data sets whose last number is the time point
_SETS = re.compile(
    r"((?:BraTS(?:20\d\d)?[-_][A-Za-z]+(?:[-_][A-Za-z]+)?[-_]\d+)|(?:UPENN-GBM-\d+))[-_]\d{1,3}", re.IGNORECASE
)


def patient_of(names: Sequence[str], pattern: str = "", case_id: str = "") -> str:
    """The patient of a case whose folders, outermost first, and then its files, have these names.

    `PATIENT/DATE`, `PATIENT/ses-2`, `PATIENT_2020-01-01`, `PATIENT-tp1`, `BraTS-GLI-00005-101`: what names a point in
    time is no part of the patient. What is not recognised is: the case is then a patient of its own.

    Args:
        pattern: a regular expression of the task, its first group in `case_id` is the patient; before all other rules.
    """
    if pattern:
        found = re.search(pattern, case_id)
        if found and found[1]:
            return found[1]
    kept: list[str] = []
    for name in names:
        if is_time(name, kept):
            if kept:
                break
        else:
            kept.append(name)
    kept = kept or list(names)
    return "_".join([*kept[:-1], _without_time(kept[-1])])


def is_time(name: str, before: Sequence[str] = ()) -> bool:
    """Whether a name says when, not who; weaker signs (`2`, `scan1`) count below a name that looks like an id."""
    if _IS_TIME.fullmatch(name):
        return True
    return bool(before and any(letter.isdigit() for letter in before[-1]) and _WEAK.fullmatch(name))


def _without_time(name: str) -> str:
    known = _SETS.fullmatch(name)
    if known:
        return known[1]
    found = _TAIL.fullmatch(name)
    if not found:
        return name
    # a rest without a number is a word, not an id: `lesion_t1` is not patient `lesion`; a date settles it
    if any(letter.isdigit() for letter in found[1]) or re.search(_DATE, name):
        return found[1]
    return name
