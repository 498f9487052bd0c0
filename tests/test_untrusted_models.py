"""A model's folder comes from a stranger: nothing in it runs, and nobody is asked whether it may."""

import ast
import builtins
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from bentoml.exceptions import BentoMLException
from transformers import AutoTokenizer

from pipeline import base
from pipeline.command import UserError
from pipeline.tasks.causal_lm import TASK
from serving import model_folder
from serving.engines import ctranslate2, transformers
from tests.conftest import ROOT

PRODUCT = [
    *(
        path
        for folder in ("bench", "data", "deploy", "flows", "pipeline", "serving")
        for path in (ROOT / folder).rglob("*.py")
    ),
    ROOT / "service.py",
]
MODELS = ("AutoModel", "LMHeadModel")  # parts of the names of classes with weights
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "Template", "jinja2.Template"}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def calls(path: Path) -> Iterator[tuple[str, dict[str, object], str]]:
    """Yield every call in a file: what is called, its constant keywords, and where it stands."""
    for node in nodes(path):
        if isinstance(node, ast.Call):
            keywords = {
                str(part.arg): part.value.value if isinstance(part.value, ast.Constant) else part.value
                for part in node.keywords
            }
            yield ast.unparse(node.func), keywords, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_call_that_loads_a_models_folder_refuses_its_code_and_its_pickles() -> None:
    seen = 0
    for path in PRODUCT:
        for name, keywords, place in calls(path):
            assert keywords.get("trust_remote_code", False) is False, place
            assert name not in UNSAFE_CALLS, f"{place}: {name}"
            assert keywords.get("allow_pickle", False) is False, place
            assert not name.endswith("from_string"), f"{place}: a template that is not a file of the project"
            if name.endswith(".from_pretrained"):
                seen += 1
                assert keywords.get("trust_remote_code") is False, f"{place}: without trust_remote_code=False"
                if any(part in name for part in MODELS):
                    assert keywords.get("use_safetensors") is True, f"{place}: without use_safetensors=True"
            if name.split(".")[-1] == "Environment":  # jinja2's, which is no sandbox
                assert "PackageLoader" in ast.unparse(keywords["loader"]), place  # type: ignore[arg-type]
    assert seen > 15


def test_no_module_reads_pickles() -> None:
    for path in PRODUCT:
        for node in nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & UNSAFE_MODULES, path


class Planted:
    """A copy of a model with settings and files of a stranger; `mark` exists once his code has run."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.folder = Path(shutil.copytree(model, folder / "model"))
        self.mark = folder / "it-ran"
        for name in ("evil.py", "custom_generate/generate.py"):
            (self.folder / name).parent.mkdir(exist_ok=True)
            code = f"open({str(self.mark)!r}, 'w')\nfrom transformers import *\n"
            (self.folder / name).write_text(code, encoding="utf-8")

    def set(self, file: str, **settings: object) -> None:
        path = self.folder / file
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(config | settings), encoding="utf-8")


@pytest.fixture
def planted(tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    def never(_: object = "") -> str:
        raise AssertionError("the person at the terminal was asked")

    monkeypatch.setattr(builtins, "input", never)
    return Planted(tiny_gpt2, tmp_path)


def convert(folder: Path) -> None:
    ctranslate2._convert(folder, folder.parent / "converted")


LOADERS: dict[str, Callable[[Path], object]] = {
    "base": lambda folder: base.import_base(str(folder), folder.parent / "base", "causal_lm"),
    "finetune": lambda folder: TASK.load_for_training(folder, 0.1, {}),
    "evaluate": TASK.load,
    "transformers": transformers.load_model,
    "tokenizer": transformers.load_tokenizer,
    "ctranslate2": ctranslate2.unsupported_reason,
    "conversion": convert,
}
CODE = {
    "config": {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"},
    "known config": {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}},
    "tokenizer": {"auto_map": {"AutoTokenizer": ["evil.Slow", "evil.Fast"]}, "tokenizer_class": "EvilTokenizer"},
    "elsewhere": {"auto_map": {"AutoConfig": "some/where--evil.Config"}, "model_type": "evil"},
}


@pytest.mark.filterwarnings("ignore:.*")  # transformers warns of what it does not know
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", CODE)
def test_code_in_a_models_folder_never_runs_and_nobody_is_asked(planted: Planted, kind: str, loader: str) -> None:
    planted.set("tokenizer_config.json" if kind == "tokenizer" else "config.json", **CODE[kind])
    try:
        LOADERS[loader](planted.folder)
    except (UserError, ValueError) as error:  # a refusal will do as well
        assert "custom code" in str(error)  # noqa: PT017 - nor need it be refused
    assert not planted.mark.exists()


def test_the_folders_own_generation_never_runs(planted: Planted) -> None:
    model, _ = TASK.load(planted.folder)
    model.generate(torch.tensor([[1]]), attention_mask=torch.tensor([[1]]), max_new_tokens=2, pad_token_id=0)
    assert not planted.mark.exists()


def test_weights_come_from_safetensors_alone(planted: Planted) -> None:
    (planted.folder / "model.safetensors").unlink()
    torch.save({}, planted.folder / "pytorch_model.bin")
    for load in (TASK.load, transformers.load_model, lambda folder: TASK.load_for_training(folder, 0.1, {})):
        with pytest.raises(OSError, match=r"model\.safetensors"):
            load(planted.folder)


@pytest.mark.parametrize(
    ("file", "settings", "reason"),
    [
        ("adapter_config.json", {"base_model_name_or_path": "some/where"}, "holds an adapter"),
        ("config.json", {"attn_implementation": "some/kernel"}, "take code from the hub"),
        ("config.json", {"_attn_implementation": {"": "some/kernel@main"}}, "take code from the hub"),
        ("config.json", {"text_config": {"_experts_implementation": "some/kernel"}}, "take code from the hub"),
        ("config.json", {"transformers_weights": "adapter_model.bin"}, "read its weights from 'adapter_model.bin'"),
    ],
)
def test_a_folder_that_names_other_code_or_weights_is_neither_taken_in_nor_served(
    planted: Planted, file: str, settings: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.set(file, **settings)
    with pytest.raises(UserError, match=reason):
        base.import_base(str(planted.folder), planted.folder.parent / "base", "causal_lm")
    monkeypatch.setenv("MODEL_DIR", str(planted.folder))
    with pytest.raises(BentoMLException, match=reason):
        model_folder.find(planted.folder.parent, lambda _: "", serve_candidate=True)


def test_a_chat_template_runs_in_a_sandbox(planted: Planted) -> None:
    planted.set("tokenizer_config.json", chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    tokenizer = AutoTokenizer.from_pretrained(planted.folder, trust_remote_code=False)
    with pytest.raises(Exception, match="access to attribute '__class__' of 'str' object is unsafe"):
        tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
