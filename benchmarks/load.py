"""Several clients at a time, in a mix of OHIF's and 3D Slicer's calls, while inference and a training run.

Everything is on this machine: Orthanc, the server, the clients. Beside each figure stands the same call with nobody
else there, so that the noise of the machine can be seen.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import requests
import typer

from maml_app.cases.spec import load_task
from maml_app.disk import write_text
from maml_app.phantom.dicom import DicomStudy, make_study
from maml_app.stores.choice import shipped_tasks
from tests.harness.orthanc import Orthanc
from tests.harness.server import Server

TASK = shipped_tasks()["sarcoma_pet_ct_mr"]
SPEC = load_task(TASK)
STUDIES, SIZE = 6, 40

Call = Callable[[requests.Session], requests.Response]


def calls(server: str, series: list[str], study: str) -> dict[str, Call]:
    """What clients ask, by name."""
    infer = {"params": json.dumps({"result_extension": ".nrrd", "result_compress": False})}
    address = f"{server}/infer/{SPEC.name}?output=image&image="
    rng = np.random.default_rng(0)
    return {
        "info": lambda session: session.get(f"{server}/info/", timeout=120),
        "qido": lambda session: session.get(f"{server}/proxy/dicom/qido/studies?limit=101", timeout=120),
        "wado": lambda session: session.get(f"{server}/proxy/dicom/wado/studies/{study}/metadata", timeout=120),
        "series": lambda session: session.get(f"{server}/maml/series/{series[0]}", timeout=120),
        "next": lambda session: session.post(f"{server}/activelearning/random", json={}, timeout=120),
        "training": lambda session: session.get(f"{server}/train/", timeout=120),
        "infer": lambda session: session.post(f"{address}{rng.choice(series)}", data=infer, timeout=600),
    }


MIX = ["info", "qido", "wado", "series", "next", "training", "info", "qido", "infer", "wado"]


def timed(call: Call, session: requests.Session) -> tuple[float, int]:
    """Seconds, and the status; 0 where no answer came."""
    began = time.monotonic()
    try:
        status = call(session).status_code
    except requests.RequestException:
        status = 0
    return time.monotonic() - began, status


def ask(wanted: dict[str, Call], count: int, clients: int) -> dict[str, list[tuple[float, int]]]:
    """So many requests of the mix, from so many clients at a time: seconds and status by call."""
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in wanted}

    def client(first: int) -> None:
        with requests.Session() as session:
            for number in range(first, count, clients):
                name = MIX[number % len(MIX)]
                found[name].append(timed(wanted[name], session))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return found


def told(found: dict[str, list[tuple[float, int]]]) -> dict[str, dict[str, float]]:
    """Median and 95th percentile in ms, and how many failed: no answer, or 500 and more but 503."""
    rows = {}
    for name, answers in found.items():
        seconds = [1000 * second for second, _ in answers]
        failed = sum(status == 0 or (status >= 500 and status != 503) for _, status in answers)
        busy = sum(status == 503 for _, status in answers)
        p50, p95 = (round(float(np.percentile(seconds, share)), 1) for share in (50, 95))
        rows[name] = {"requests": len(answers), "p50_ms": p50, "p95_ms": p95, "failed": failed, "busy": busy}
    return rows


def memory_mb(port: int) -> float:
    """Memory of the process that listens on a port."""
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            return float(psutil.Process(connection.pid).memory_info().rss) / 1e6
    return float("nan")


def main(
    out_file: Annotated[Path, typer.Argument(help="the JSON to write")],
    count: Annotated[int, typer.Option(min=10, help="requests while others work")] = 200,
    clients: Annotated[int, typer.Option(min=1)] = 8,
) -> None:
    """Ask alone, then with all clients beside a training, then watch memory. Exit code 1 if anything failed."""
    with tempfile.TemporaryDirectory(prefix="maml-load-") as home:
        folder = Path(home)
        studies = [make_study(SPEC, 5, number, SIZE, labelled=number < 4)[0] for number in range(STUDIES)]
        conf = {"task": str(TASK), "models": str(folder / "models"), "cache": str(folder / "cache")}
        with Orthanc(folder / "orthanc") as orthanc:
            for study in studies:
                orthanc.add(study.instances())
            with Server(orthanc.dicomweb, folder / "log", conf=conf) as server:
                first = next(studies[0].instances())
                asked = calls(server.url, [_uid(study) for study in studies], str(first.StudyInstanceUID))
                result = _measure(server, asked, count, clients)
    result["machine"] = f"{psutil.cpu_count()} cores, {platform.machine()}"
    write_text(out_file, json.dumps(result, indent=1) + "\n")
    typer.echo(json.dumps(result, indent=1))
    raise typer.Exit(1 if result["failed"] else 0)


def _uid(study: DicomStudy) -> str:
    return str(study.series["ct"][0].SeriesInstanceUID)


def _measure(server: Server, wanted: dict[str, Call], count: int, clients: int) -> dict[str, object]:
    _train(server.url, 5)
    while requests.get(f"{server.url}/train/", timeout=60).json()["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(1)
    ask(wanted, 20, 1)  # series are fetched, the model is loaded
    quiet = told(ask(wanted, 60, 1))
    _train(server.url, 2000)
    busy = told(ask(wanted, count, clients))
    requests.delete(f"{server.url}/train/", timeout=60)
    ask(wanted, 30, clients)
    before = memory_mb(server.port)
    told_after = told(ask(wanted, 300, clients))
    after = memory_mb(server.port)
    failed = sum(row["failed"] for rows in (quiet, busy, told_after) for row in rows.values())
    memory = {"after_30_requests": round(before), "after_330_requests": round(after)}
    return {"clients": clients, "failed": failed, "alone": quiet, "with_training": busy, "memory_mb": memory}


def _train(address: str, steps: int) -> None:
    requests.post(f"{address}/train/{SPEC.name}", json={"steps": steps}, timeout=60).raise_for_status()


if __name__ == "__main__":
    typer.run(main)
