"""What answers as a server of nnInteractive does, in its client's own form; a simple rule takes its network's place."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np
from nnInteractive.inference.remote._protocol import LEASE_HEADER, META_HEADER
from nnInteractive.inference.remote.serialization import pack_array, unpack_array
from scipy import ndimage

from maml_app.imaging.volume import Array

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


class StandIn:
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
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(b"")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def _answer(self, body: bytes) -> None:
                status, meta, content = stand_in.answer(self.path, dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header(META_HEADER, json.dumps(meta))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def forget(self) -> None:
        """Give up all sessions, as after a start anew."""
        self._token += 1

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any], bytes]:
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

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
