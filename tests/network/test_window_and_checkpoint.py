from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from maml_app.errors import ModelError
from maml_app.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from maml_app.network.ensemble import MamlEnsemble, build_network
from maml_app.network.refine import Refiner
from maml_app.network.settings import Network
from maml_app.network.window import predict, predict_attention, predict_subsets
from tests.conftest import NETWORK

CPU = torch.device("cpu")
IMAGES = torch.randn(3, 21, 13, 9, generator=torch.Generator().manual_seed(0))
CHECKPOINT = Checkpoint("toy", "abc", 3, 2, NETWORK, (16, 8, 8), {"seed": 4})


def test_windows_cover_images_of_any_size_with_probabilities() -> None:
    net = build_network(3, 2, NETWORK)
    presence = torch.tensor([True, False, True])
    for images in (IMAGES, IMAGES[:, :5, :5, :5]):
        result = predict(net, images, presence, (16, 8, 8))
        assert result.shape == (2, *images.shape[1:])
        assert torch.allclose(result.sum(dim=0), torch.ones(images.shape[1:]), atol=1e-4)


def test_subsets_in_one_go_are_the_single_answers() -> None:
    net = build_network(3, 2, NETWORK)
    presences = [torch.tensor([True, False, True]), torch.tensor([True, True, True])]
    stacked = predict_subsets(net, IMAGES, presences, (16, 8, 8))
    assert stacked.shape == (2, 2, 21, 13, 9)
    for presence, one in zip(presences, stacked, strict=True):
        assert torch.allclose(one, predict(net, IMAGES, presence, (16, 8, 8)), atol=1e-4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, build_network(3, 2, NETWORK), CHECKPOINT)
    return path


def test_a_model_comes_back_as_saved(tmp_path: Path) -> None:
    net = build_network(3, 2, NETWORK).eval()
    save_checkpoint(tmp_path / "m", net, CHECKPOINT)
    loaded, checkpoint = load_checkpoint(tmp_path / "m", "toy", "abc", CPU)
    assert checkpoint == CHECKPOINT
    presence = torch.tensor([True, True, True])
    assert torch.equal(predict(net, IMAGES, presence, (16, 8, 8)), predict(loaded, IMAGES, presence, (16, 8, 8)))


def test_models_of_other_tasks_are_refused(model: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors: expected a model of task 'liver', got one of 'toy'"):
        load_checkpoint(model, "liver", "abc", CPU)
    with pytest.raises(ModelError, match="expected a model of the present form of task 'toy'"):
        load_checkpoint(model, "toy", "xyz", CPU)


def test_damaged_and_foreign_files_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a model file, got none; train one first"):
        load_checkpoint(tmp_path / "nothing", "toy", "abc", CPU)
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(ModelError, match="got a damaged or different file"):
        load_checkpoint(model, "toy", "abc", CPU)
    save_file({"a": torch.ones(1)}, model)
    with pytest.raises(ModelError, match="expected a model of format 'maml_app 1', got None"):
        load_checkpoint(model, "toy", "abc", CPU)
    save_checkpoint(model, build_network(2, 2, NETWORK), CHECKPOINT)
    with pytest.raises(ModelError, match="expected weights of the network it describes"):
        load_checkpoint(model, "toy", "abc", CPU)


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"plan": 3}', '{"plan": {}, "task": "toy"}', "lost"])
def test_a_damaged_description_in_a_whole_file_is_refused(model: Path, damage: str) -> None:
    with safe_open(model, framework="pt") as file:
        metadata = file.metadata()
    metadata = {key: value for key, value in metadata.items() if key != "checkpoint"}
    save_file(load_file(model), model, metadata=metadata if damage == "lost" else {**metadata, "checkpoint": damage})
    with pytest.raises(ModelError, match="expected a description of the network, got a damaged one"):
        load_checkpoint(model, "toy", "abc", CPU)


def test_attention_is_shared_among_those_present() -> None:
    torch.manual_seed(0)
    plan = Network(head="light", shared_decoder=False, channels=(4, 6), strides=((1, 1, 1), (2, 2, 2)))
    net = build_network(3, 2, plan)
    assert isinstance(net, MamlEnsemble)
    images, presence = torch.randn(3, 20, 12, 9), torch.tensor([True, False, True])
    attention = predict_attention(net, images, presence, (8, 8, 8))
    assert attention.shape == (3, 20, 12, 9)
    assert not attention[1].any()
    assert torch.allclose(attention.sum(dim=0), torch.ones(20, 12, 9), atol=1e-4)


def test_a_model_from_before_the_options_is_read_as_it_was(tmp_path: Path) -> None:
    former = NETWORK.model_copy(update={"shared_decoder": False})
    save_checkpoint(tmp_path / "m", build_network(3, 2, former), replace(CHECKPOINT, network=former))
    weights = load_file(tmp_path / "m")
    with safe_open(tmp_path / "m", framework="pt") as file:
        metadata = file.metadata()
    content = json.loads(metadata["checkpoint"])

    def with_plan(**plan: bool) -> Path:
        text = json.dumps({**content, "plan": {**content["plan"], **plan}})
        save_file(weights, tmp_path / "old", metadata={**metadata, "checkpoint": text})
        return tmp_path / "old"

    del content["plan"]["shared_decoder"]
    assert load_checkpoint(with_plan(), "toy", "abc", CPU)[1].network == former
    # options that are gone: unused they do no harm, a network that has them cannot be made any more
    assert load_checkpoint(with_plan(agreement=False, crosstalk=False), "toy", "abc", CPU)[1].network == former
    with pytest.raises(ModelError, match="expected a network of this version, got one with crosstalk; train it anew"):
        load_checkpoint(with_plan(agreement=False, crosstalk=True), "toy", "abc", CPU)


def test_a_refinement_is_kept_beside_the_network_and_files_without_one_load(tmp_path: Path) -> None:
    refiner = Refiner(3).eval()
    torch.nn.init.normal_(refiner.head.conv.conv.weight)
    save_checkpoint(tmp_path / "with", build_network(3, 2, NETWORK), replace(CHECKPOINT, refiner=refiner))
    loaded = load_checkpoint(tmp_path / "with", "toy", "abc", CPU)[1]
    assert loaded.refiner is not None
    assert not loaded.refiner.training
    shown = torch.randn(2, 3 * 3 + 5, 8, 12, 4)
    assert torch.equal(loaded.refiner(shown), refiner(shown))
    assert replace(loaded, refiner=None) == CHECKPOINT
    save_checkpoint(tmp_path / "without", build_network(3, 2, NETWORK), CHECKPOINT)
    assert load_checkpoint(tmp_path / "without", "toy", "abc", CPU)[1].refiner is None
    save_checkpoint(tmp_path / "damaged", build_network(3, 2, NETWORK), replace(CHECKPOINT, refiner=Refiner(2)))
    with pytest.raises(ModelError, match="expected weights of the network it describes, got others"):
        load_checkpoint(tmp_path / "damaged", "toy", "abc", CPU)
