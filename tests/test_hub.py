"""The hub path, against a stand-in hub on this machine that speaks what `huggingface_hub` asks for."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from utils import ROOT
from utils.fetch import hub
from utils.load import MODELS, PINNED, load_lm

HUB_ID, REVISION, STAND_IN = PINNED["gpt2"]
SMALL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": random.Random(0).randbytes(600_000),
    "pytorch_model.bin": b"a pickle that nobody should fetch",
    "onnx/config.json": b"{}",
}


class StandInHub(ThreadingHTTPServer):
    """Serves `files` as any repository, in a `manner` that tests choose; `log` holds (method, path, range)."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.manner, self.log = files, "well", []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def fetched(self, name: str) -> list[str | None]:
        """The byte ranges asked for in downloads of one file; None for a whole one."""
        return [span for method, path, span in self.log if method == "GET" and path.endswith(f"/{name}")]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, manner = self.path.split("?")[0], self.server.manner
        self.server.log.append((self.command, path, self.headers["Range"]))
        if manner == "silent":
            time.sleep(30)
        elif path.startswith(("/api/models/", "/api/datasets/")):
            self.describe(path, manner)
        elif "/resolve/" not in path:
            self.reply(404)
        elif manner == "gated":
            self.reply(401, {"X-Error-Code": "GatedRepo"})
        else:
            self.file(path.split("/resolve/")[1].split("/", 1)[1], manner)

    def describe(self, path: str, manner: str) -> None:
        files = self.server.files
        failures = {"missing": (401, {}), "gone": (404, {"X-Error-Code": "RevisionNotFound"}), "broken": (503, {})}
        if manner in failures:
            self.reply(*failures[manner])
            return
        if "/tree/" in path:
            found = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in files.items()]
        else:
            siblings = [{"rfilename": n, "size": len(b)} for n, b in files.items()]
            found = {"id": HUB_ID, "sha": REVISION, "siblings": siblings}
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(found).encode())

    def file(self, name: str, manner: str) -> None:
        body = self.server.files[name]
        headers = {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        weights = name.endswith(".safetensors")
        if not weights or self.command == "HEAD" or manner == "well":
            return self.reply(206 if first else 200, headers, body[first:])
        self.reply(206 if first else 200, {**headers, "Content-Length": str(len(body) - first)})
        if manner in ("cut", "stall"):
            self.wfile.write(body[first : first + len(body) // 2])
            if manner == "stall":
                time.sleep(30)
            self.server.manner, self.close_connection = "well", True
        else:
            step = {"trickle": 1_000, "slow": 30_000}[manner]
            for start in range(first, len(body), step):
                self.wfile.write(body[start : start + step])
                time.sleep(0.2)

    def reply(self, status: int, headers: dict | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def standin(monkeypatch, tmp_path):
    """A stand-in hub, and an empty cache."""
    server = StandInHub(SMALL)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()


def timed_download() -> tuple:
    start = time.monotonic()
    folder, reason = hub.download(HUB_ID, REVISION)
    return folder, reason, time.monotonic() - start


# What a good hub gives


def test_a_download_lands_in_the_cache_with_a_bar_that_fills(standin, capfd):
    assert hub.cached(HUB_ID, REVISION) is None
    folder, reason, _ = timed_download()
    assert reason == "" and (folder / "model.safetensors").read_bytes() == SMALL["model.safetensors"]
    assert hub.cached(HUB_ID, REVISION) == folder
    bar = capfd.readouterr().err
    assert HUB_ID in bar and "100%" in bar and "600k/600k" in bar


def test_neither_pickles_nor_subfolders_are_fetched(standin):
    folder, _, _ = timed_download()
    assert {path.name for path in folder.rglob("*")} == {"config.json", "tokenizer.json", "model.safetensors"}


def test_a_slow_but_steady_hub_is_waited_for(standin, monkeypatch):
    """600 kB at 150 kB/s take longer than the patience; bytes that keep arriving keep it alive."""
    standin.manner = "slow"
    monkeypatch.setattr(hub, "PATIENCE", 2.5)
    folder, _, seconds = timed_download()
    assert folder and seconds > 2.5


# What a bad one costs


@pytest.mark.parametrize(
    ("manner", "expected"),
    [
        ("dead", "hub not reachable"),
        ("silent", "hub not reachable within 6 s"),
        ("trickle", "hub too slow"),
        ("missing", "the hub has no such public repository"),
        ("gated", "the hub has no such public repository"),
        ("gone", "the hub no longer has this revision"),
        ("broken", "the hub answered with HTTP status 503"),
    ],
)
def test_a_bad_hub_costs_under_ten_seconds_and_is_one_clear_line(standin, manner, expected):
    standin.manner = manner
    if manner == "dead":
        standin.shutdown()
        standin.server_close()
    folder, reason, seconds = timed_download()
    assert folder is None and seconds < 10
    assert reason.startswith(expected) if manner == "trickle" else reason == expected


def test_a_repository_without_safetensors_is_refused_before_anything_is_fetched(standin):
    standin.files = {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"a pickle"}
    assert timed_download()[:2] == (None, "the repository holds no safetensors weights")
    assert not any("/resolve/" in path for _, path, _ in standin.log)


def test_a_repository_without_a_tokenizer_is_refused(standin):
    standin.files = {name: body for name, body in SMALL.items() if name != "tokenizer.json"}
    folder, reason, _ = timed_download()
    assert folder is None and "lacks" in reason
    assert hub.cached(HUB_ID, REVISION) is None


# Interruptions


def test_a_connection_that_breaks_is_taken_up_again(standin):
    standin.manner = "cut"
    folder, reason, _ = timed_download()
    assert reason == "" and (folder / "model.safetensors").read_bytes() == SMALL["model.safetensors"]
    assert len(standin.fetched("model.safetensors")) == 2


def test_an_abandoned_download_leaves_no_half_model_and_can_be_repeated(standin, monkeypatch, tmp_path):
    standin.manner = "stall"
    monkeypatch.setattr(hub, "PATIENCE", 2.0)
    folder, reason, _ = timed_download()
    assert folder is None and reason.startswith("hub too slow")
    assert hub.cached(HUB_ID, REVISION) is None
    assert not list(tmp_path.rglob("*.incomplete"))
    standin.manner = "well"
    folder, _, _ = timed_download()
    assert (folder / "model.safetensors").read_bytes() == SMALL["model.safetensors"]
    assert len(standin.fetched("model.safetensors")) == 2
    assert len(standin.fetched("config.json")) == 1  # files that had arrived whole are not fetched again


def test_an_interrupt_stops_the_download_and_leaves_nothing_running(standin, monkeypatch, tmp_path):
    standin.manner = "stall"
    started = []
    popen = subprocess.Popen

    def remember(*args, **options):
        started.append(popen(*args, **options))
        return started[0]

    def interrupt(storage):
        if "model.safetensors" in str(standin.log):
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(hub.subprocess, "Popen", remember)
    monkeypatch.setattr(hub, "_bytes_in", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hub.download(HUB_ID, REVISION)
    assert started[0].poll() is not None
    assert not list(tmp_path.rglob("*.incomplete"))


# Through load_lm, as a user meets it


def use(server_url: str, home, code: str, **environment) -> subprocess.CompletedProcess:
    """Run `code` in a fresh Python that knows only the stand-in hub and an own cache."""
    settings = {"HF_ENDPOINT": server_url, "HF_HOME": str(home), "SPILLED_ENERGY_MODELS": "auto", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=120
    )


LOAD = "from utils.load import load_lm; lm = load_lm('gpt2'); print(lm.source)"


def test_downloaded_once_a_model_is_read_from_the_cache_and_offline(standin, tmp_path):
    standin.files = {file.name: file.read_bytes() for file in (MODELS / STAND_IN).iterdir()}
    first = use(standin.url, tmp_path, LOAD)
    line, source = first.stdout.splitlines()
    assert source == "hub" and line.startswith(f"{HUB_ID} (hub revision {REVISION})")
    assert "100%" in first.stderr

    asked = len(standin.log)
    second = use(standin.url, tmp_path, LOAD)
    assert second.stdout.splitlines()[1] == "cache" and second.stderr == ""
    offline = use(standin.url, tmp_path, LOAD, HF_HUB_OFFLINE="1")
    assert offline.stdout.splitlines()[1] == "cache" and offline.stderr == ""
    assert len(standin.log) == asked  # neither of them asked the hub for anything


def test_offline_with_an_empty_cache_the_stand_in_speaks_and_says_why(standin, monkeypatch, capfd):
    monkeypatch.setenv("SPILLED_ENERGY_MODELS", "auto")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    lm = load_lm("gpt2")
    out, err = capfd.readouterr()
    assert lm.stand_in and "HF_HUB_OFFLINE is set" in out and out.count("\n") == 1
    assert err == "" and standin.log == []


def test_a_dead_hub_costs_load_lm_under_ten_seconds_and_the_stand_in_speaks(standin, monkeypatch, capfd):
    monkeypatch.setenv("SPILLED_ENERGY_MODELS", "auto")
    standin.shutdown()
    standin.server_close()
    start = time.monotonic()
    lm = load_lm("gpt2")
    out, err = capfd.readouterr()
    assert time.monotonic() - start < 10
    assert lm.stand_in and f"bundled stand-in for {HUB_ID}: hub not reachable" in out and err == ""


def test_a_hub_that_was_insisted_on_is_never_replaced(standin, monkeypatch):
    monkeypatch.setenv("SPILLED_ENERGY_MODELS", "auto")
    standin.manner = "missing"
    with pytest.raises(ValueError, match="could not be loaded: the hub has no such public repository"):
        load_lm("gpt2", source="hub")
    with pytest.raises(ValueError, match="not in the local cache"):
        load_lm("gpt2", source="cache")
    with pytest.raises(ValueError, match="no such public repository"):
        load_lm("someone/some-model", source="auto")
