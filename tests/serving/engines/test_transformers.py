import shutil
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
)

from serving.engines import transformers
from serving.engines.transformers import TransformersRunner

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
ARCHITECTURES: dict[str, PreTrainedConfig | None] = {
    "gpt2": None,
    "llama, keys shared by heads": LlamaConfig(**SMALL, num_key_value_heads=2),
    "mistral, a window of 8 tokens": MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8),
    "gemma2, a window in each second layer": Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=8),
    "gpt-neox": GPTNeoXConfig(**SMALL),
    "mamba, recurrent": MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2),
}
TEXTS = [[0, *range(7, 7 + n)] for n in (1, 5, 21, 12)]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of some architecture, with the tiny GPT-2's tokenizer."""
    config = ARCHITECTURES[request.param]
    if config is None:
        return tiny_gpt2
    made = Path(shutil.copytree(tiny_gpt2, tmp_path_factory.mktemp("architecture") / "model"))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def runner(folder: Path) -> TransformersRunner:
    return TransformersRunner(folder)


def parts(text: Sequence[int], first: int) -> list[list[int]]:
    """Cut a text: `first` tokens, then one at a time."""
    return [list(text[:first]), *([token] for token in text[first:])]


def read(runner: TransformersRunner, parts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the logits after each part of a text that is alone."""
    row = runner.open(sum(map(len, parts)))
    logits = torch.cat([runner.step([row], [part]) for part in parts])
    runner.close(row)
    return logits


def test_chunks_give_the_logits_of_the_whole_text(runner: TransformersRunner, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        whole = model(torch.tensor([TEXTS[2]]), use_cache=False).logits[0]
    torch.testing.assert_close(read(runner, parts(TEXTS[2], 10)), whole[9:], atol=1e-5, rtol=1e-4)


def test_reads_a_prompt_in_parts_where_it_says_so(runner: TransformersRunner) -> None:
    if runner.prefill_tokens == sys.maxsize:  # Mamba's state after a part would be another one, in its third digit
        assert runner._model.config.model_type == "mamba"
        return
    step = min(runner.prefill_tokens, 6)
    cut = [TEXTS[2][at : at + step] for at in range(0, len(TEXTS[2]), step)]
    torch.testing.assert_close(read(runner, cut)[-1], read(runner, [TEXTS[2]])[-1], atol=1e-5, rtol=1e-4)


def test_the_logits_of_a_sequence_have_the_same_bits_in_any_batch(runner: TransformersRunner) -> None:
    alone = [read(runner, parts(text, 2)) for text in TEXTS]
    together = _together(runner, lambda: None)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


def test_a_failed_step_can_be_repeated(runner: TransformersRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    def fail_each_third() -> None:
        nonlocal steps
        steps += 1
        if steps % 3:
            return
        inner = runner._model.forward
        calls = 0

        def forward(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            output = inner(*args, **options)
            if calls == 2:  # one text was read, of the second one all layers hold what was read
                monkeypatch.undo()
                raise torch.OutOfMemoryError
            return output

        monkeypatch.setattr(runner._model, "forward", forward)

    alone = [read(runner, parts(text, 2)) for text in TEXTS]
    together = _together(runner, fail_each_third)
    assert steps > 9
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


def _together(runner: TransformersRunner, before: Callable[[], None]) -> list[torch.Tensor]:
    """Return each text's logits when they join one a step, in an order that changes, and leave when they are read."""
    left = [parts(text, 2) for text in TEXTS]
    slots = [runner.open(len(text)) for text in TEXTS]
    results: list[list[torch.Tensor]] = [[] for _ in TEXTS]
    for step in range(sum(map(len, left))):
        chosen = [n for n in range(min(step + 1, len(TEXTS))) if left[n]]
        if step % 2:
            chosen.reverse()
        if not chosen:
            break
        tokens = [left[n][0] for n in chosen]
        before()
        try:
            logits = runner.step([slots[n] for n in chosen], tokens)
        except torch.OutOfMemoryError:
            logits = torch.cat([runner.step([slots[n]], [part]) for n, part in zip(chosen, tokens, strict=True)])
        for n, of_text in zip(chosen, logits, strict=True):
            results[n].append(of_text)
            del left[n][0]
    for slot in slots:
        runner.close(slot)
    assert not any(left)
    return [torch.stack(one) for one in results]


def test_it_has_the_models_context_and_its_tokenizers_special_tokens(tiny_gpt2: Path) -> None:
    runner = TransformersRunner(tiny_gpt2)
    assert (runner.context, runner.start, runner.end) == (64, 0, 0)
    ids = runner.tokenizer.encode("Once upon a time", add_special_tokens=False).ids
    assert 0 not in ids
    assert runner.tokenizer.decode(ids) == "Once upon a time"


def test_a_text_longer_than_the_context_is_not_cut_by_the_tokenizer(tiny_gpt2: Path) -> None:
    runner = TransformersRunner(tiny_gpt2)
    assert len(runner.tokenizer.encode("king " * 200, add_special_tokens=False).ids) >= 200


def test_slots_open_while_all_caches_can_grow_to_their_lengths(
    tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = TransformersRunner(tiny_gpt2)
    a_token = 2 * 2 * 32 * 4  # key and value, layers, width, bytes
    free = transformers._MEMORY_RESERVE + 100 * a_token
    monkeypatch.setattr(transformers, "free_memory", lambda _: free)
    first = runner.open(60)
    with pytest.raises(MemoryError):
        runner.open(41)
    second = runner.open(40)
    runner.close(first)
    runner.close(second)
    runner.open(100)


def test_a_tokenizer_without_an_end_token_is_refused_with_a_sentence(tiny_gpt2: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"eos_token": "<|endoftext|>"', '"eos_token": null'))
    with pytest.raises(transformers.EngineError, match="names no token that ends a text"):
        TransformersRunner(folder)


def test_a_tokenizer_with_tokens_that_the_model_does_not_know_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    """The trial could pass, and any prompt with one of them would give 500."""
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    last = len(tokenizer)
    assert tokenizer.add_tokens(["unheard-of"]) == 1
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        transformers.EngineError,
        match=rf"has a token {last}, but the model knows {last} tokens \(0 to {last - 1}\)",
    ):
        TransformersRunner(folder)


def test_lengths_grow_by_one_token_a_step(runner: TransformersRunner) -> None:
    slot = runner.open(5)
    growth = [slot.growth]
    for token in TEXTS[1][:5]:
        runner.step([slot], [[token]])
        growth.append(slot.growth)
    runner.close(slot)
    assert all(before - after == 1 for before, after in pairwise(growth))


def test_the_private_flag_of_transformers_tells_recurrent_models_apart(runner: TransformersRunner) -> None:
    assert runner._model._is_stateful == (runner._model.config.model_type == "mamba")
