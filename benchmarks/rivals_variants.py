"""The rivals and ablations of the study: what each changes in a task file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from maml_app.cases.spec import TaskSpec, parse_task

OURS = "maml"
ALONE = "single_unets_averaged"
PUBLISHED = "maml_as_published"
# the same models: the paper does not say what answers where a modality is missing; here the mean of its experts
BY_EXPERTS = "maml_as_published_by_experts"

Change = dict[str, Any]
NO_LEARNING_TOGETHER: Change = {"mutual": 0.0, "subset": 0.0, "consistency": 0.0}
# what differs from the task file, by section
RIVALS: dict[str, dict[str, Change]] = {
    OURS: {},
    "early_fusion_dropout": {
        "network": {"kind": "early-fusion", "fusion_width": 1.75},
        "training": {"each_alone": False},
    },
    "early_fusion_dropout_double": {
        "network": {"kind": "early-fusion", "fusion_width": 2.5},
        "training": {"each_alone": False},
    },
    "early_fusion": {
        "network": {"kind": "early-fusion", "fusion_width": 1.75},
        "training": {"modality_dropout": 0.0},
    },
    ALONE: {
        "network": {"head": "average", "shared_decoder": False},
        "loss": {**NO_LEARNING_TOGETHER, "fused": 0.0, "experts": 1.0},
    },
    PUBLISHED: {
        "network": {"head": "paper", "shared_decoder": False},
        "loss": {"subset": 0.0, "consistency": 0.0},
    },
}
ABLATIONS: dict[str, dict[str, Change]] = {
    "attention_alone": {"network": {"head": "light"}},
    "own_decoders": {"network": {"shared_decoder": False}},
    "attention_alone_own_decoders": {"network": {"head": "light", "shared_decoder": False}},
    "without_each_alone": {"training": {"each_alone": False}},
    "without_mutual": {"loss": {"mutual": 0.0}},
    "without_subset_and_consistency": {"loss": {"subset": 0.0, "consistency": 0.0}},
    "without_consistency": {"loss": {"consistency": 0.0}},
    "without_experts_loss": {"loss": {"experts": 0.0, "mutual": 0.0}},
    "temperature_2": {"loss": {"temperature": 2.0}},
    "without_deep_supervision": {"loss": {"deep": 0.0}},
    "without_clipping": {"training": {"clip": 0.0}},
    "without_ema": {"training": {"ema": False}},
    "with_sgd": {"training": {"optimiser": "sgd", "learning_rate": 0.01}},
    "with_more_augmentation": {"augment": {"misalignment_mm": 3.0, "elastic_mm": 6.0, "low_resolution": 0.2}},
    "without_foreground_oversampling": {"training": {"foreground": 0.0}},
    "with_unlabelled": {"training": {"unlabelled": 1.0}},
    "experts_at_full_weight": {"loss": {"experts": 1.0}},
    # two voxels of each axis taken together in place of the first level
    "two_voxel_stem": {
        "network": {"stem": [2, 2, 2], "channels": [16, 32, 64], "strides": [[1] * 3, [2] * 3, [2] * 3]}
    },
}
VARIANTS = {**RIVALS, **ABLATIONS}
ROWS = [*RIVALS, BY_EXPERTS, *ABLATIONS]


def changed(spec: TaskSpec, change: Mapping[str, Change]) -> TaskSpec:
    """The task with some settings of these sections changed, validated again."""
    content = spec.model_dump(mode="json")
    content["training"]["validation"] = 0.0
    places = {
        "network": content["network"],
        "training": content["training"],
        "loss": content["training"]["loss"],
        "augment": content["training"]["augment"],
    }
    for section, values in change.items():
        places[section].update(values)
    return parse_task(json.dumps(content), "variant")
