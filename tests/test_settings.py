from __future__ import annotations

from pathlib import Path

import pytest

from maml_app.errors import SettingsError
from maml_app.settings import Settings


def test_what_was_said_goes_before_the_environment_and_both_before_the_defaults() -> None:
    environment = {"MAML_CACHE_GB": "3", "MAML_RANDOM": "entropy", "MAML_OTHER": "not ours"}
    settings = Settings.read({"random": "first", "models": "/tmp/m"}, environment)
    assert (settings.random, settings.cache_gb, settings.prepared_gb) == ("first", 3.0, 20.0)
    assert settings.models == Path("/tmp/m")
    assert Settings.read({"cache_gb": ""}, environment).cache_gb == 20.0


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        ({"modles": "x"}, {}, "--conf modles: no such setting; expected one of task, models"),
        ({"cache_gb": "much"}, {}, "--conf cache_gb: Input should be a valid number.*got 'much'"),
        ({"memory_gb": "-1"}, {}, "--conf memory_gb: .*greater than or equal to 0"),
        ({"foreign_segs": "yes"}, {}, "--conf foreign_segs: Input should be 'ignore' or 'use', got 'yes'"),
        ({}, {"MAML_PREPARED_GB": "x"}, "MAML_PREPARED_GB: .*got 'x'"),
    ],
)
def test_a_wrong_setting_is_named_with_what_there_is(
    given: dict[str, str], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.read(given, environment)


def test_every_setting_is_explained() -> None:
    lines = Settings.help().splitlines()
    assert len(lines) == len(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())
