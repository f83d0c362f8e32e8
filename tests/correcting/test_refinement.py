"""A trained refinement: what it is shown, where it may work, how it learns, and when it is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.correcting import practice, trial
from maml_app.correcting.annotator import Annotator
from maml_app.correcting.classifier import Classifier
from maml_app.correcting.correct import Corrector, Marked, Prompt, along, empty
from maml_app.correcting.marks import Crop, Scene
from maml_app.correcting.practice import Lesson, begun, practise
from maml_app.correcting.refinement import Refinement, half, shown
from maml_app.correcting.view import View
from maml_app.errors import LabelError
from maml_app.imaging.files import read_grid
from maml_app.imaging.volume import Array, Volume
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.ensemble import build_network
from maml_app.network.refine import DIVISOR, Refiner
from maml_app.network.settings import Network
from maml_app.stores.folder import FolderStore
from maml_app.training.recipe import Recipe
from maml_app.training.train import Trained
from maml_app.versions.predict import Model
from tests.builders import oblique, save, shipped

SPACING = (4.0, 5.0, 8.0)
SHAPE = (24, 20, 12)
CPU = torch.device("cpu")
BRATS = shipped("brats_mr")


class Everything(Refiner):
    """Finds the label everywhere, or nowhere."""

    def __init__(self, modalities: int, found: bool = True) -> None:
        super().__init__(modalities)
        self.found = found

    def forward(self, shown: torch.Tensor) -> torch.Tensor:
        assert not any(side % DIVISOR for side in shown.shape[2:])
        return torch.full_like(shown[:, 0], 1.0 if self.found else -1.0)


def ball(centre: tuple[float, float, float], radius_mm: float) -> Array:
    steps = np.indices(SHAPE).transpose(1, 2, 3, 0) - centre
    return np.asarray(np.linalg.norm(steps * SPACING, axis=-1) <= radius_mm)


def lesson(seed: int = 0, modalities: int = 2) -> Lesson:
    """A ball that images show, and of which experts see a half."""
    rng = np.random.default_rng(seed)
    truth = ball((12, 10, 6), 30)
    seen = truth & (np.indices(SHAPE)[0] < 13)
    images = {index: (truth + rng.normal(0, 0.3, SHAPE)).astype(np.float32) for index in range(modalities)}
    said = np.where(seen, 0.9, 0.1).astype(np.float16)
    return Lesson(View(images, dict.fromkeys(images, said), said), truth, SPACING)


@pytest.mark.parametrize("place", [(12, 10, 6), (1, 18, 11)], ids=["within", "at the corner"])
def test_the_network_is_shown_distances_in_mm_on_a_whole_crop(place: tuple[int, int, int]) -> None:
    seen = lesson().view
    mask = ball((12, 10, 6), 20)
    crop = Crop(np.array([place]), half(SPACING), SHAPE)
    earlier = np.array(place) - np.array((1.0, 2.0, 0.0))
    scene = crop.scene(mask, [(earlier[None], False), (np.array([place]), True)], SPACING)
    channels = shown(scene, replace(seen, fused=None).cut(crop.box), crop, 3).numpy()
    assert channels.shape == (3 * 3 + 5, *2 * half(SPACING))
    inner = channels[:, *crop.inner]
    assert inner.shape[1:] == scene.mask.shape
    np.testing.assert_array_equal(inner[0], seen.images[0][crop.box])
    assert [channels[channel].min() for channel in (1, 4, 7)] == [1, 1, 0]  # which modalities are there
    assert not channels[6:10].any()  # an absent one, and what the ensemble says where it is not looked at
    signed, inside, outside, newest = channels[-4:]
    np.testing.assert_array_equal(signed[crop.inner] > 0, scene.mask)
    middle = tuple(half(SPACING))
    assert inside[middle] == newest[middle] == 1
    assert outside[middle] == pytest.approx(1 - np.hypot(1 * 4.0, 2 * 5.0) / 20)
    if mask[place]:
        edge = ndimage.distance_transform_edt(mask, sampling=SPACING)[place]
        assert signed[middle] == pytest.approx(min(edge / 20, 1))


def test_new_weights_change_nothing_and_the_crop_reaches_as_far_as_a_click() -> None:
    mask = ball((12, 10, 6), 20)
    crop = Crop(np.array([(12, 10, 6)]), half(SPACING), SHAPE)
    scene = crop.scene(mask, [(np.array([(12.0, 10.0, 6.0)]), False)], SPACING)
    with torch.inference_mode():
        logits = Refiner(2).eval()(shown(scene, lesson().view.cut(crop.box), crop, 2)[None])[0]
    np.testing.assert_array_equal(logits[crop.inner] > 0, scene.mask)
    assert (half((4.0, 4.0, 5.0)) * (4, 4, 5) >= 40).all()
    assert (half((0.5, 1.0, 8.0)) * 2 == (48, 48, 12)).all()


@pytest.mark.parametrize("way", [(0, 0, 0), (5, 0, 2), (22, 18, 11)], ids=["a place", "a path", "across the image"])
def test_the_crop_spans_the_path_and_can_be_halved_as_often_as_the_network_does(way: tuple[int, int, int]) -> None:
    first, last = np.array((1.0, 1.0, 0.0)), np.array((1.0, 1.0, 0.0)) + way
    places = first + np.linspace(0, 1, 23)[:, None] * (last - first)
    crop = Crop(places, half(SPACING), SHAPE)
    assert not (crop.sides % DIVISOR).any()
    assert (crop.sides >= 2 * half(SPACING) + way).all()
    assert (crop.sides < 2 * half(SPACING) + np.array(way) + DIVISOR).all()
    mask = ball((12, 10, 6), 20)
    scene = crop.scene(mask, [(places, True)], SPACING)
    channels = shown(scene, lesson().view.cut(crop.box), crop, 2)
    assert channels.shape[1:] == tuple(crop.sides)
    call = channels[-1].numpy()[crop.inner]
    at = tuple((np.round(places).astype(int) - crop.start).T)
    np.testing.assert_allclose(call[at], 1, atol=0.2)  # at the path, as far as it is from the voxels' middles
    with torch.inference_mode():
        assert Refiner(2).eval()(channels[None]).shape[1:] == tuple(crop.sides)


@pytest.mark.parametrize(
    ("says", "chance", "changes"), [(True, 0.6, False), (True, 0.65, True), (False, 0.4, False), (False, 0.35, True)]
)
def test_only_what_both_together_are_sure_of_changes(says: bool, chance: float, changes: bool) -> None:
    class Likely(Refiner):
        def forward(self, shown: torch.Tensor) -> torch.Tensor:
            return torch.full_like(shown[:, 0], float(np.log(chance / (1 - chance))))

    class AsLikely(Classifier):
        def likely(self, scene: Scene, view: View) -> Array:
            return np.full(scene.mask.shape, chance)

    scene = Scene(ball((12, 10, 6), 20), [(np.array([(12.0, 10.0, 6.0)]), says)], SPACING)
    belongs = Refinement(Likely(2).eval(), AsLikely()).likely(scene, lesson().view) > 0.5
    assert (belongs == (says == changes)).all()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Two of the four modalities, on oblique, anisotropic grids."""
    for name in ("t1", "flair"):
        image = np.zeros((40, 30, 24), np.float32)
        image[4:36, 4:26, 3:21] = 500 + np.random.default_rng(0).normal(0, 15, (32, 22, 18))
        save(tmp_path / "studies" / "A" / f"{name}.nii.gz", image, oblique((1.5, 2.0, 3.0)))
    return FolderStore(tmp_path / "studies", BRATS).case("A")


@pytest.mark.parametrize("found", [True, False])
def test_the_rules_of_clicks_hold_whatever_the_network_finds(case: Case, found: bool) -> None:
    modalities, classes = len(BRATS.modalities), BRATS.classes
    small = Network(channels=(2, 2), strides=((1, 1, 1), (2, 2, 2)))
    network = build_network(modalities, classes, small)
    refiner = Everything(modalities, found)
    checkpoint = Checkpoint("brats", "x", modalities, classes, small, (32, 32, 16), refiner=refiner)
    grid = read_grid(case.grids["t1"])
    label = empty(case, "t1").voxels
    label[10:20, 8:20, 6:14] = 2
    label[22:24, 10:18, 8:12] = 1  # another label
    label[34:36, 22:26, 18:20] = 2  # brush work elsewhere

    def click(place: tuple[int, int, int], inside: bool) -> Prompt:
        return Prompt((grid.affine @ (*place, 1.0))[None, :3], inside)

    def scribble(first: tuple[int, int, int], last: tuple[int, int, int], inside: bool) -> Prompt:
        return Prompt(along(np.concatenate([click(place, inside).path_mm for place in (first, last)]), grid), inside)

    kept, newest = click((12, 10, 8), True), scribble((18, 18, 12), (21, 22, 13), False)
    if found:
        kept, newest = click((12, 10, 8), False), scribble((26, 14, 10), (33, 19, 12), True)
    marked = Marked(2, [kept, newest])
    result = Corrector(BRATS).correct(case, Volume(label, grid.affine), marked, Model("m", network, checkpoint, CPU))
    after = result.label.voxels
    np.testing.assert_array_equal(after == 1, label == 1)
    if found:  # a click inside adds, and takes nothing away
        assert after[26, 14, 10] == after[33, 19, 12] == after[30, 17, 11] == 2
        assert result.lost_ml == 0 < result.gained_ml
    else:
        assert after[18, 18, 12] == 0
        assert after[12, 10, 8] == 2
        assert after[35, 24, 19] == 2  # does not hang together with the click
        assert result.gained_ml == 0 < result.lost_ml


def test_lessons_begin_with_any_part_of_the_modalities_and_any_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    began = [begun(lesson(modalities=3), rng) for _ in range(80)]
    assert {len(view.images) for view, _ in began} == {1, 2, 3}
    assert all(set(view.experts) == set(view.images) for view, _ in began)
    assert all(view.fused is not None for view, _ in began if len(view.images) == 3)
    assert len({int(mask.sum()) for _, mask in began}) > 10
    monkeypatch.setattr(practice, "EMPTY", 1.0)
    assert not begun(lesson(), rng)[1].any()
    monkeypatch.setattr(practice, "EMPTY", 0.0)
    # an early fusion has no experts: its own opinion alone
    alone = replace(lesson(), view=replace(lesson().view, experts={}))
    view, mask = begun(alone, rng)
    assert set(view.images) == {0, 1}
    assert mask.dtype == bool


def test_practice_learns_what_images_show_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(practice, "BATCH", 2)
    lessons = [lesson(seed) for seed in range(3)]
    first, again = (practise(lessons, 2, 40, Recipe(seed=1, devices=(CPU,))) for _ in range(2))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    unseen = lesson(9)
    mask = np.asarray(unseen.view.fused) > 0.5
    place = np.array([(16.0, 10.0, 6.0)])  # in what is missing
    crop = Crop(place, half(SPACING), SHAPE)
    scene = crop.scene(mask, [(place, True)], SPACING)
    with torch.inference_mode():
        logits = first(shown(scene, unseen.view.cut(crop.box), crop, 2)[None])[0]
    missing = (unseen.truth & ~mask)[crop.box]
    added = scene.mended(logits[crop.inner].numpy() > 0) & ~scene.mask
    assert (added & missing).sum() > 0.5 * missing.sum()
    assert (added & ~missing).sum() < 0.5 * missing.sum()


def just_trained(store: FolderStore, spec: TaskSpec) -> tuple[TaskSpec, Trained]:
    """A task with a refinement, and a model of it before that."""
    task = spec.model_copy(update={"training": spec.training.model_copy(update={"refine_steps": 1})})
    ids = [case.id for case in store.cases() if case.label]
    notes = {"trained_on": dict.fromkeys(ids, ""), "validated_on": {ids[0]: ""}}
    modalities = len(task.modalities)
    checkpoint = Checkpoint("toy", "x", modalities, task.classes, task.network, task.training.patch, notes)
    return task, Trained(build_network(modalities, task.classes, task.network), checkpoint, None)


@pytest.mark.parametrize("better", [True, False])
def test_it_is_left_out_where_it_is_worse(
    store: FolderStore, spec: TaskSpec, better: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, trained = just_trained(store, spec)
    checkpoint, notes = trained.checkpoint, trained.checkpoint.notes
    scores = {"0": 0.5, "1": 0.6}

    def played(annotator: Annotator, *_: object) -> dict[str, float]:
        assert annotator.model is not None
        its = annotator.model.checkpoint.refiner
        return {count: value + (0.1 if better else -0.1) * (its is not None) for count, value in scores.items()}

    monkeypatch.setattr(trial, "curve", played)
    lines: list[str] = []
    recipe = Recipe(devices=(CPU,), report=lambda progress: lines.append(progress.note))
    result = trial.refined(task, trained, store.cases(), recipe).checkpoint
    assert (result.refiner is not None) == better
    assert result.notes["refinement"]["kept"] == better
    assert set(result.notes["refinement"]["dice_after_clicks"]) == {"classifier", "refinement"}
    chosen = "refinement" if better else "classifier"
    assert any(f"clicks are answered by the {chosen}" in line for line in lines)
    # nothing to judge it by: none
    alone = replace(trained, checkpoint=replace(checkpoint, notes={**notes, "validated_on": {}}))
    assert trial.refined(task, alone, store.cases(), recipe) is alone


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LabelError("case a: the label is gone"), "case a: the label is gone"),
        (torch.OutOfMemoryError("tried to allocate"), "out of memory"),
    ],
)
def test_what_stands_in_its_way_costs_the_model_nothing(
    store: FolderStore, spec: TaskSpec, error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(trial, "practise", fails)
    task, trained = just_trained(store, spec)
    lines: list[str] = []
    recipe = Recipe(devices=(CPU,), report=lambda progress: lines.append(progress.note))
    assert trial.refined(task, trained, store.cases(), recipe) is trained
    assert lines[-1].startswith(f"clicks are answered by the classifier, no refinement: {words}")
    monkeypatch.setattr(trial, "practise", lambda *_: [][0])
    with pytest.raises(IndexError):  # a fault of the program is no reason to go on
        trial.refined(task, trained, store.cases(), recipe)
