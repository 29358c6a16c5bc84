"""Peers as servers on loopback: started one at a time by the scripts of ../shared/peers, and ended.

Where they are is said by environment variables: LLAMA_BIN (the folder of llama-server), VLLM_VENV
(a virtual environment that has vLLM) and VLLM_MODEL (a Hugging Face folder of the same model).
llama.cpp is measured with 4 and with 16 slots where a crowd asks (chat, json), of which the better
counts, and with 1 slot in all else.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

START_SECONDS = 600.0  # vLLM compiles at its first start
END_SECONDS = 20.0

_BLOCKED = """\
import sys
for name in ("torchvision", "torchaudio", "torchcodec"):
    sys.modules[name] = None
"""
"""A sitecustomize.py: the builds of these that pip takes can fail to load, and vLLM imports them
where they are."""


class Setting(msgspec.Struct, frozen=True):
    """A way to start a peer, and the workloads that it is measured with."""

    name: str
    workloads: frozenset[str]
    environment: dict[str, str] = {}


_ALONE = frozenset({"single", "prefill", "fewshot", "tree", "json1", "ttft"})
_CROWD = frozenset({"chat", "json"})
SETTINGS = {
    "llamacpp": (
        Setting("1 slot", _ALONE, {"SLOTS": "1", "CTX": "8192"}),
        Setting("4 slots", _CROWD, {"SLOTS": "4", "CTX": "32768"}),
        Setting("16 slots", _CROWD, {"SLOTS": "16", "CTX": "32768"}),
    ),
    "vllm": (Setting("compiled, fp32", _ALONE | _CROWD),),
}
"""One slot keeps a shared prefix, which several lose; several answer a crowd sooner."""

NEEDED = {"llamacpp": ("LLAMA_BIN",), "vllm": ("VLLM_VENV", "VLLM_MODEL")}


def missing(peer: str) -> list[str]:
    """Environment variables without which a peer cannot be started."""
    return [name for name in NEEDED[peer] if not os.environ.get(name)]


@contextmanager
def server(peer: str, setting: Setting, model: Path, shared: Path, log: Path) -> Iterator[str]:
    """Its URL, once it answers.  RuntimeError if it does not start."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **setting.environment}
        environment.pop("OMP_WAIT_POLICY", None)  # sgen.kernels sets it for our process
        if peer == "vllm":
            (Path(folder) / "sitecustomize.py").write_text(_BLOCKED)
            environment["PYTHONPATH"] = folder
            script, served = "vllm.sh", os.environ["VLLM_MODEL"]
        else:
            script, served = "llamacpp.sh", str(model)
        command = ["bash", str(shared / "peers" / script), served, str(port)]
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, env=environment, stdout=out, stderr=out, start_new_session=True
            )
            try:
                _wait(process, f"http://127.0.0.1:{port}/health", log)
                yield f"http://127.0.0.1:{port}"
            finally:
                _end(process)


def client(load: ModuleType, url: str, timeout: float) -> Any:
    """load.py's own client."""
    return load.Client(argparse.Namespace(url=url, model="model", timeout=timeout))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass  # not yet
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start; see {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and the processes that it started: they are a process group of their own."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
