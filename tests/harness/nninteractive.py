"""What answers as a server of nnInteractive does, in its client's own form; a simple rule takes its network's place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.message import Message
from typing import Any

import numpy as np
from nnInteractive.inference.remote._protocol import LEASE_HEADER, META_HEADER
from nnInteractive.inference.remote.serialization import pack_array, unpack_array
from scipy import ndimage

from maml_app.imaging.volume import Array
from tests.harness.local import LocalServer, Request

CAPABILITIES = {
    "supported_interactions": {"point": True, "scribble": True, "initial_label": True},
    "channel_mapping": {},
    "num_interaction_channels": 7,
    "supports_initial_label": True,
    "supports_zero_shot_label_refinement": True,
    "preferred_scribble_thickness": [2, 2, 2],
    "interaction_decay": 0.9,
    "inference_session_version": 2,
    "license": "CC BY-NC-SA 4.0",
}


class StandIn(LocalServer):
    """Answers with what is brighter than half of the image's maximum and hangs together with what was drawn inside.

    What was drawn outside is taken away, voxel by voxel. Arrays are (Z, Y, X), as that server's.

    Attributes:
        asked: the paths of requests, heartbeats left out.
        image, mask, drawn: the last image, the answer, and voxels of the last prompt.
        busy, key: whether all its sessions are taken, and the key that it wants.
        other: whether it is some other server, which answers with pages.
    """

    def __init__(self, key: str = "") -> None:
        self.asked: list[str] = []
        self.image = self.mask = self.drawn = np.zeros((0, 0, 0), np.uint8)
        self.busy, self.key, self.other = False, key, False
        self._token = 0
        super().__init__(self._answer)

    def forget(self) -> None:
        """Give up all sessions, as after a start anew."""
        self._token += 1

    def _answer(self, request: Request) -> tuple[int, Mapping[str, str], bytes]:
        status, meta, content = self._said(request.path, request.headers, request.body)
        return status, {META_HEADER: json.dumps(meta)}, content

    def _said(self, path: str, headers: Message, body: bytes) -> tuple[int, dict[str, Any], bytes]:
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {}, b'{"detail": "invalid api key"}'
        if self.other:
            return 200, {}, b"<html>Welcome</html>"
        if path == "/claim":
            self.asked.append(path)
            told = {"lease_token": str(self._token), "idle_timeout_seconds": 600, "liveness_timeout_seconds": 60}
            return (503, {}, b'{"detail": "at capacity"}') if self.busy else (200, {}, json.dumps(told).encode())
        if path == "/capabilities":
            return 200, {}, json.dumps(CAPABILITIES).encode()
        if headers.get(LEASE_HEADER) != str(self._token):
            return 410, {}, b'{"detail": "lease expired"}'
        if path != "/heartbeat":
            self.asked.append(path)
        return self._in_session(path, json.loads(headers.get(META_HEADER, "{}")), body)

    def _in_session(self, path: str, meta: dict[str, Any], body: bytes) -> tuple[int, dict[str, Any], bytes]:
        if path == "/set_image":
            self.image = unpack_array(body)[0]
            return 200, {}, json.dumps({"original_image_shape": [1, *self.image.shape]}).encode()
        if path in ("/set_target_buffer", "/reset_interactions"):
            self.mask = np.zeros(self.image.shape, np.uint8)
        if path == "/add_initial_seg_interaction":
            self.mask = unpack_array(body).copy()
        if path == "/add_point_interaction":
            told = json.loads(body)
            drawn = np.zeros(self.image.shape, bool)
            drawn[tuple(told["coordinates"])] = True
            return self._drawn(drawn, told)
        if path == "/add_scribble_interaction":
            drawn = np.zeros(self.image.shape, bool)
            drawn[tuple(slice(*edge) for edge in meta["interaction_bbox"])] = unpack_array(body) > 0
            return self._drawn(drawn, meta)
        return 200, {}, b"{}"

    def _drawn(self, drawn: Array, told: dict[str, Any]) -> tuple[int, dict[str, Any], bytes]:
        self.drawn = drawn
        if told["include_interaction"]:
            parts, _ = ndimage.label(drawn | (self.image > self.image.max() / 2))
            self.mask[np.isin(parts, parts[drawn])] = 1
        else:
            self.mask[drawn] = 0
        if not told["run_prediction"]:
            return 200, {"ran_prediction": False}, b""
        box = [[0, side] for side in self.mask.shape]
        return 200, {"ran_prediction": True, "bbox": box}, pack_array(self.mask)
