"""What the values in label files mean: told by names where there are any, else by what a whole data set holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maml_app.errors import LabelError

if TYPE_CHECKING:
    from maml_app.cases.spec import TaskSpec

IGNORED = "ignore"  # nnU-Net's name for voxels that nobody judged


@dataclass(frozen=True)
class Meaning:
    """File value -> the task's value, 0 for background.

    Attributes:
        source: where it was read, or by what it was chosen.
        others: file values that have a name but are no label of the task -> that name.
    """

    values: Mapping[int, int]
    source: str
    others: Mapping[int, str] = field(default_factory=dict)

    def check(self, found: Sequence[int], where: str) -> None:
        """Nothing, if every value that was found can be mapped.

        Raises:
            LabelError: one cannot.
        """
        wrong = [value for value in found if value and value not in self.values]
        if not wrong:
            return
        named = [f"{value} ({self.others[value]})" if value in self.others else str(value) for value in wrong]
        raise LabelError(
            f"{where}: expected label values of {dict(self.values)} ({self.source}), got {', '.join(named)}; remove "
            "them, or name them in task.yaml (labels, their aliases, conventions)"
        )


def stated_convention(spec: TaskSpec, case_id: str) -> str:
    """The convention that the task states, for all cases or for ids of this kind; '' if the values must tell."""
    if spec.convention:
        return spec.convention
    for name, meaning in spec.conventions.items():
        if meaning.ids and re.fullmatch(meaning.ids, case_id):
            return name
    return ""


def values_of(spec: TaskSpec, convention: str) -> dict[int, int]:
    """File value -> the task's in a convention, or among the task's own values."""
    known = spec.conventions.get(convention)
    return known.values if known else {value: value for value in spec.label_values}


def values_by_name(spec: TaskSpec) -> dict[str, int]:
    """The task's own values, by label name."""
    return {name: value for value, name in spec.label_values.items()}


def returnable(spec: TaskSpec) -> tuple[str, ...]:
    """The writable conventions that agree with the task's own values wherever both know one: what a client sends back
    in them cannot be taken for something else.
    """
    own = spec.label_values
    return tuple(
        name
        for name in spec.writable
        if all(ours == theirs for theirs, ours in values_of(spec, name).items() if theirs in own)
    )


def own_meaning(spec: TaskSpec) -> Meaning:
    """The task's own values."""
    return Meaning(values_of(spec, "task"), f"the task's own: {spec.label_values}")


def convention_meaning(spec: TaskSpec, name: str, why: str) -> Meaning:
    """The values of a convention of the task, or of `task`."""
    return Meaning(values_of(spec, name), f"convention {name}, {why}")


def named_meaning(names: Mapping[str, object], spec: TaskSpec, source: str) -> Meaning:
    """What the `labels` of a dataset.json mean: {"0": "background", …} or {"background": 0, "whole tumor": [1, 2]}.

    A value in lists (nnU-Net's regions) is the one label of the task that is in the same regions.

    Raises:
        LabelError: the names or numbers are none, or 0 is not the background.
    """
    single: dict[int, str] = {}
    regions: dict[int, set[str]] = {}
    for key, entry in names.items():
        name, held = (key, entry) if not key.lstrip("-").isdigit() else (str(entry), int(key))
        for number in _numbers(held, f'{source}: expected "labels" as names and whole numbers, got {key!r}: {entry!r}'):
            if isinstance(held, list):
                regions.setdefault(number, set()).add(name)
            else:
                single[number] = name
    if 0 in regions or (0 in single and single[0].lower() != "background" and spec.value_of(single[0]) is not None):
        raise LabelError(f"{source}: expected value 0 for the background, got {single.get(0) or sorted(regions[0])}")
    values: dict[int, int] = {}
    others: dict[int, str] = {}
    for number in sorted({*single, *regions} - {0}):
        name = single.get(number) or " and ".join(sorted(regions[number]))
        value = spec.value_of(name)
        if value is None and number in regions:
            value = _in_regions(regions[number], spec)
        if name.lower() == "background":
            value = 0
        if value is None:
            others[number] = f"the name {name!r} is no label of the task" if name.lower() != IGNORED else IGNORED
        else:
            values[number] = value
    return Meaning(values, f"by the names in {source}", others)


def _numbers(held: object, message: str) -> list[int]:
    numbers = [number for number in (held if isinstance(held, list) else [held]) if isinstance(number, int)]
    if not numbers or (isinstance(held, list) and len(numbers) < len(held)):
        raise LabelError(message)
    return numbers


def _in_regions(names: set[str], spec: TaskSpec) -> int | None:
    """The one label that is in exactly these regions of the task; None if a name is unknown, or several are."""
    from maml_app.cases.spec import plain

    known = {plain(alias): region for region in spec.regions for alias in (region.name, *region.aliases)}
    found = [known.get(plain(name)) for name in names]
    if any(meaning is None for meaning in found):
        return None
    wanted = {meaning.name for meaning in found if meaning}
    fitting = [
        label.value
        for label in spec.labels
        if {region.name for region in spec.regions if label.name in region.labels} == wanted
    ]
    return fitting[0] if len(fitting) == 1 else None


def common_meaning(found: Mapping[str, frozenset[int]], spec: TaskSpec) -> Meaning:
    """The one numbering of a data set, from the values in each of its label files.

    Numberings that agree on every value that occurs are one. A value that no numbering knows costs its own file only.

    Raises:
        LabelError: none fits all files, or several fit and disagree.
    """
    kinds = {"task": own_meaning(spec).values, **spec.guessable}
    known = {value for values in kinds.values() for value in values}
    seen = {value for values in found.values() for value in values if value in known}
    fitting = {name: values for name, values in kinds.items() if seen <= set(values)}
    told = _told(found, known)
    if not fitting:
        raise LabelError(
            f"no numbering of the labels fits the whole data set ({_listed(kinds)}), got {told}; sort them apart, or "
            "say which it is with convention: NAME in task.yaml"
        )
    meant = {tuple(values[value] for value in sorted(seen)) for values in fitting.values()}
    if len(meant) > 1:
        raise LabelError(
            f"several numberings of the labels fit and mean different things ({_listed(fitting)}), got {told}; say "
            "which it is with convention: NAME in task.yaml"
        )
    name = next(iter(fitting))
    return Meaning(fitting[name], f"numbering {name}, as it fits all label files: {told}")


def _listed(kinds: Mapping[str, Mapping[int, int]]) -> str:
    return "; ".join(f"{name}: {sorted(values)}" for name, values in kinds.items() if values)


def _told(found: Mapping[str, frozenset[int]], known: set[int]) -> str:
    """How many files hold each value, and one that does."""
    parts = []
    for value in sorted(known):
        holding = [case_id for case_id, values in found.items() if value in values]
        if holding:
            parts.append(f"{value} in {len(holding)} of {len(found)} files (as {holding[0]})")
    return ", ".join(parts) or f"no known value in {len(found)} files"
