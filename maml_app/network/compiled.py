"""A network as OpenVINO graphs: the same answers on a CPU, in three quarters of torch's time, or half in bfloat16."""

from __future__ import annotations

import importlib.util
import logging
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import torch

from maml_app.network.ensemble import SegmentationNetwork
from maml_app.network.window import Answer, Answering

logger = logging.getLogger(__name__)
Engine = Literal["auto", "torch", "openvino", "openvino-bf16"]


def is_installed() -> bool:
    """Whether OpenVINO is there: pip install maml-app[openvino]."""
    return importlib.util.find_spec("openvino") is not None


class Compiled:
    """A network's graphs, one for each set of present modalities, for one patch size.

    A graph is made in the background when its set is first asked for, which takes some seconds; torch answers until
    then, and for good where none can be made.

    Args:
        half: bfloat16 where the processor has it; masks then differ by some voxels in ten thousand.
    """

    def __init__(self, network: SegmentationNetwork, patch: Sequence[int], half: bool = False) -> None:
        self._network = network
        self._patch = tuple(patch)
        self._half = half
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compiling")
        self._graphs: dict[tuple[bool, ...], Future[Any]] = {}
        self._lock = threading.Lock()

    def answer(self, presence: torch.Tensor, wait: bool = False) -> Answer | None:
        """What answers in the place of `Answering(network, presence)`; None as long as there is no graph.

        Args:
            wait: until the graph is there, or cannot be made.
        """
        key = tuple(bool(there) for there in presence)
        with self._lock:
            if key not in self._graphs:
                self._graphs[key] = self._pool.submit(self._made, presence.cpu())
            graph = self._graphs[key]
        found = graph.result() if wait or graph.done() else None
        if found is None:
            return None
        request = found.create_infer_request()  # of its own: two threads may ask at a time

        def answer(window: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            probabilities, features = request.infer([window.numpy()]).to_tuple()
            return torch.from_numpy(probabilities), torch.from_numpy(features)

        return answer

    def _made(self, presence: torch.Tensor) -> Any:
        try:
            graph = self._make(presence)
            logger.info("OpenVINO answers for the modalities %s from now on", presence.nonzero().flatten().tolist())
            return graph
        except Exception as error:  # whatever a guest does not like: the host answers as before
            logger.warning("OpenVINO cannot run this network, torch does: %s", error)
            return None

    def _make(self, presence: torch.Tensor) -> Any:
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        example = torch.zeros(1, len(presence), *self._patch)
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing says of every shape that it becomes a constant: that is wanted
            traced = torch.jit.trace(Answering(self._network, presence), example, check_trace=False)
            # by its parts and not by `convert_model`, which would report to OpenVINO's makers that it was used
            frontend = FrontEndManager().load_by_framework("pytorch")
            decoder = TorchScriptPythonDecoder(traced, example_input=example)  # named: it must outlive what reads it
            graph = frontend.convert(frontend.load(decoder))
        graph.reshape([1, len(presence), *self._patch])
        core = openvino.Core()
        precision = "bf16" if self._half else "f32"
        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": precision}
        return core.compile_model(graph, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
