"""YAML whose keys are there once (1.2.2, 3.2.1.1): PyYAML would take the last of several and say nothing."""

from __future__ import annotations

import yaml


class _Loader(yaml.SafeLoader):
    # before the keys of `<<` are put in; its argument is as the stubs have it
    def compose_mapping_node(self, anchor: dict[object, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                same, line = (key.tag, key.value), key.start_mark.line + 1
                if same in first:
                    raise yaml.YAMLError(f"key {key.value!r} in line {first[same]} and again in line {line}; keep one")
                first[same] = line
        return node


def load_yaml(text: str) -> object:
    """What `yaml.safe_load` gives.

    Raises:
        YAMLError: it does not parse, or a key of a mapping is there twice.
    """
    return yaml.load(text, _Loader)
