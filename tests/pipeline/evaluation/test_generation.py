"""Many prompts written on at once give what each alone would, and the reference is the real text itself."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pipeline import params
from pipeline.command import UserError
from pipeline.evaluation.generation import cut_to_lengths, generate, sample_prompts, select_prompts
from tests.conftest import LINES, Workspace

CONTEXT = 64
PROMPTS = ["The", LINES[0], "", "A small cat", "The quick brown fox", LINES[3], "é 漢字"]  # of 0 to some 20 tokens
CHINESE = "從前有一位國王。他找不到自己的金色王冠。於是派人到全國各地去尋找。"


@pytest.fixture(scope="module")
def model(tiny_gpt2: Path):
    return AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path):
    return AutoTokenizer.from_pretrained(tiny_gpt2)


@pytest.fixture
def config(workspace: Workspace) -> params.Evaluate:
    workspace.set(evaluate__max_new_tokens=12)
    return params.load().evaluate


def greedy(config: params.Evaluate) -> params.Evaluate:
    return config.model_copy(update={"top_k": 1})


def ending_after(model, tokenizer, logit: float):
    """Return a copy of `model` whose end token has about `logit` before every token, whatever came before."""
    ends = AutoModelForCausalLM.from_config(model.config).eval()
    ends.load_state_dict(model.state_dict())
    with torch.no_grad():
        final = ends.transformer.ln_f
        final.weight.zero_()
        final.bias.zero_()
        final.bias[0] = 1
        ends.lm_head.weight[:, 0] = 0
        ends.lm_head.weight[tokenizer.eos_token_id, 0] = logit
    return ends


def test_a_prompt_in_a_batch_of_other_lengths_is_written_on_as_it_is_alone(model, tokenizer, config) -> None:
    together = generate(model, tokenizer, PROMPTS, greedy(config), batch_size=4)
    alone = [generate(model, tokenizer, [prompt], greedy(config))[0] for prompt in PROMPTS]
    assert together == alone
    assert len({text.text for text in together}) > 1


def test_greedy_text_is_the_likeliest_token_time_after_time(model, tokenizer, config) -> None:
    ids = [tokenizer.bos_token_id, *tokenizer(LINES[0])["input_ids"]]
    before = len(ids)
    with torch.inference_mode():
        for _ in range(config.max_new_tokens):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert tokenizer.eos_token_id not in ids[before:]
    [written] = generate(model, tokenizer, [LINES[0]], greedy(config))
    assert written.text == tokenizer.decode(ids[before:])
    assert (written.prompt, written.tokens, written.ended) == (LINES[0], config.max_new_tokens, False)


def test_the_same_seed_writes_the_same_another_seed_does_not(model, tokenizer, config) -> None:
    first = generate(model, tokenizer, PROMPTS, config)
    torch.rand(7)  # what was drawn before does not matter
    assert generate(model, tokenizer, PROMPTS, config) == first
    assert generate(model, tokenizer, PROMPTS, config.model_copy(update={"seed": 1})) != first


def test_the_same_prompt_is_written_on_differently_within_a_batch_and_across(model, tokenizer, config) -> None:
    texts = [text.text for text in generate(model, tokenizer, ["The cat"] * 6, config, batch_size=2)]
    assert len(set(texts)) == 6


def test_texts_are_drawn_as_often_as_their_likelihood_says(model, tokenizer, config) -> None:
    half = ending_after(model, tokenizer, logit=float(torch.log(torch.tensor(len(tokenizer) - 1.0))))
    some = config.model_copy(update={"temperature": 1.0, "top_k": len(tokenizer), "top_p": 1.0, "max_new_tokens": 1})
    texts = generate(half, tokenizer, ["The"] * 400, some, batch_size=100)
    assert sum(text.ended for text in texts) == pytest.approx(200, abs=40)  # 4 standard deviations


def test_torchs_random_state_is_left_as_it_was(model, tokenizer, config) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate(model, tokenizer, PROMPTS, config)
    assert torch.equal(torch.rand(3), expected)


def test_a_text_that_ends_by_itself_says_so_and_counts_no_end_token(model, tokenizer, config) -> None:
    never, at_once = ending_after(model, tokenizer, -30), ending_after(model, tokenizer, 30)
    ended = generate(at_once, tokenizer, PROMPTS, config)
    assert {(text.text, text.tokens, text.ended) for text in ended} == {("", 0, True)}
    assert {(text.tokens, text.ended) for text in generate(never, tokenizer, PROMPTS, config)} == {(12, False)}


def test_a_batch_stops_when_its_last_text_has_ended(model, tokenizer, config) -> None:
    at_once = ending_after(model, tokenizer, 30)
    steps = 0

    def counted(*_: object) -> None:
        nonlocal steps
        steps += 1

    at_once.register_forward_hook(counted)
    generate(at_once, tokenizer, PROMPTS, config)
    assert steps == 1


def test_each_token_is_computed_once_even_where_the_models_settings_turn_the_cache_off(
    model, tokenizer, config
) -> None:
    widths = []
    without = AutoModelForCausalLM.from_config(model.config).eval()
    without.generation_config.use_cache = False  # as training leaves it
    without.register_forward_pre_hook(
        lambda _, __, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    generate(without, tokenizer, ["The quick brown fox"], greedy(config))
    assert set(widths[1:]) == {1}


def test_a_text_stays_within_the_context_and_cuts_no_other_short(model, tokenizer, config) -> None:
    taken = 1 + len(tokenizer(LINES[0])["input_ids"])
    never = ending_after(model, tokenizer, -30)
    most = config.model_copy(update={"max_new_tokens": 50})
    texts = generate(never, tokenizer, [LINES[0], "The", "A cat"], most)
    assert [text.tokens for text in texts] == [CONTEXT - taken, 50, 50]
    assert 0 < CONTEXT - taken < 50


def test_a_prompt_that_fills_the_context_is_refused_with_its_mend(model, tokenizer, config) -> None:
    with pytest.raises(UserError, match=r"'The quick .* but the model's context is 64 tokens.* shorten it"):
        generate(model, tokenizer, ["The", " ".join(LINES)], config)


def test_no_prompts_give_no_texts(model, tokenizer, config) -> None:
    assert generate(model, tokenizer, [], config) == []


def test_openings_are_spread_evenly_over_the_texts_that_are_long_enough(tokenizer) -> None:
    texts = [text for number in range(8) for text in (f"{number} {LINES[1]}", "short")]
    prompts = select_prompts(texts, tokenizer, 4, prompt_tokens=5, max_tokens=10).texts
    assert [prompt[0] for prompt in prompts] == ["0", "2", "4", "6"]
    opened = select_prompts(texts, tokenizer, 100, prompt_tokens=5, max_tokens=10)
    assert (len(opened.texts), opened.too_short) == (8, 8)


@pytest.mark.parametrize("text", [*LINES, CHINESE, "One  two\n\n three four , five six seven eight 🙂🙂🙂🙂 nine"])
def test_an_opening_and_what_follows_are_letter_for_letter_the_texts_beginning(tokenizer, text: str) -> None:
    tokens = len(tokenizer(text)["input_ids"])
    for prompt_tokens in range(1, tokens // 2 + 1):
        for most in (1, 4, tokens - prompt_tokens - 1, tokens - prompt_tokens, tokens):
            opened = select_prompts([text], tokenizer, 1, prompt_tokens, most)
            [prompt], [continuation], [is_complete] = opened.texts, opened.continuations, opened.is_complete
            assert text.startswith(prompt + continuation)
            assert "\ufffd" not in prompt + continuation
            assert is_complete == (prompt_tokens + most >= tokens)
            assert not is_complete or prompt + continuation == text


def test_an_opening_has_as_many_tokens_as_asked_and_so_has_what_follows(tokenizer) -> None:
    tokens = tokenizer(LINES[0])["input_ids"]
    opened = select_prompts(LINES[:1], tokenizer, 1, prompt_tokens=6, max_tokens=7)
    assert (opened.texts, opened.continuations) == ([tokenizer.decode(tokens[:6])], [tokenizer.decode(tokens[6:13])])
    assert opened.is_complete == [False]


def test_where_most_texts_are_short_the_openings_are_shorter(tokenizer) -> None:
    texts = [*LINES, "Yes, no."] * 4 + ["A"]
    tokens = len(tokenizer("Yes, no.")["input_ids"])
    most_are_short = select_prompts([*LINES, *["Yes, no."] * 7, "A"], tokenizer, 100, prompt_tokens=8, max_tokens=10)
    assert most_are_short.prompt_tokens == tokens // 2 < 8
    assert (len(most_are_short.texts), most_are_short.too_short) == (11, 1)
    assert select_prompts(texts, tokenizer, 100, prompt_tokens=8, max_tokens=10).prompt_tokens == 8  # most are long


def test_texts_of_one_token_are_begun_from_the_start_token_alone(model, tokenizer, config) -> None:
    opened = select_prompts(["A", "B", "C"], tokenizer, 10, prompt_tokens=8, max_tokens=10)
    assert (opened.texts, opened.continuations, opened.is_complete) == ([""] * 3, ["A", "B", "C"], [True] * 3)
    assert (opened.prompt_tokens, opened.too_short) == (0, 0)
    assert any(text.tokens for text in generate(model, tokenizer, opened.texts, config))


def test_a_sample_prompt_is_how_a_text_begins_in_words_or_in_tokens_where_a_word_is_a_whole_text(tokenizer) -> None:
    chinese = CHINESE * 20
    [prompt] = sample_prompts([LINES[0]], tokenizer, 2, words=3, max_tokens=30)
    assert prompt == "The quick brown"
    [cut] = sample_prompts([chinese], tokenizer, 1, words=3, max_tokens=30)
    assert chinese.startswith(cut)
    assert 10 <= len(cut) <= 30
    code = "def add(one,\n        other):\n    return one + other + one + other + one + other\n"
    assert sample_prompts([code], tokenizer, 1, words=3, max_tokens=30) == ["def add(one,\n        other):"]
    assert sample_prompts(LINES, tokenizer, 0, 3, 12) == []


def test_a_sample_prompt_leaves_at_least_half_of_its_text_to_be_continued(tokenizer) -> None:
    [prompt] = sample_prompts([LINES[0]], tokenizer, 1, words=100, max_tokens=100)
    assert LINES[0].startswith(prompt)
    assert 0 < len(tokenizer(prompt)["input_ids"]) <= len(tokenizer(LINES[0])["input_ids"]) / 2
    assert sample_prompts(["a"], tokenizer, 3, words=6, max_tokens=24) == [""]


def test_sample_prompts_differ_and_stay_when_the_corpus_grows(tokenizer) -> None:
    alike = [f"The  QUICK brown fox number {number} runs away from everybody here" for number in range(50)]
    texts = [*alike, *(f"Story {number} is about nothing in particular, says he" for number in range(200))]
    before = sample_prompts(texts, tokenizer, 8, words=3, max_tokens=30)
    assert len({prompt.casefold() for prompt in before}) == 8
    more = [f"Chapter {number} is about nothing in particular, says he" for number in range(10)]
    after = sample_prompts([*more, *reversed(texts)], tokenizer, 8, words=3, max_tokens=30)
    assert len(set(before) & set(after)) >= 6
    assert len(sample_prompts(alike, tokenizer, 8, words=3, max_tokens=30)) == 1


def test_a_model_with_another_tokenizer_continues_the_same_prompts(tokenizer, config) -> None:
    letters = Tokenizer(models.BPE())  # byte by byte: more tokens for the same prompt, and a start token of its own
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    names = ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=258, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    letters.train_from_iterator([], trainer)
    its_own = PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<s>", eos_token="</s>")  # noqa: S106
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=258, n_positions=64, n_embd=16, n_layer=1, n_head=1)).eval()
    prompts = select_prompts(LINES, tokenizer, 4, prompt_tokens=5, max_tokens=10).texts
    texts = generate(model, its_own, prompts, greedy(config))
    assert [text.prompt for text in texts] == prompts
    ids = [its_own.bos_token_id, *its_own(prompts[0])["input_ids"]]
    with torch.inference_mode():
        first = its_own.decode(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert texts[0].text.startswith(first)


def test_real_texts_are_cut_to_the_lengths_of_generated_ones_and_none_is_taken_twice(tokenizer) -> None:
    lengths = [len(tokenizer(line)["input_ids"]) for line in LINES]
    longest = max(lengths)
    chosen = cut_to_lengths(LINES, [3, longest, 0], tokenizer)
    assert [len(tokenizer(text)["input_ids"]) for text in chosen] == [longest, 3, 0]
    assert chosen[0] == LINES[lengths.index(longest)]
    assert LINES[lengths.index(min(lengths))].startswith(chosen[1])  # the shortest that is long enough
    too_long = cut_to_lengths(LINES, [1000] * 10, tokenizer)
    assert sorted(too_long) == sorted(LINES)
    assert cut_to_lengths([], [5], tokenizer) == []
