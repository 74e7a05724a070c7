# SPDX-License-Identifier: Apache-2.0
"""The recall task, and that the checkpoint in the repository does it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen3NextForCausalLM

import recall_task
import train_recall
from recall_eval import acceptance, forgetful, load_mtp, right_answers
from recall_task import (
    END,
    FILLER,
    FULL_STOP,
    HELD_OUT_SEED,
    KEYS,
    LAST_WORDS,
    LONGEST_ANSWER,
    QUESTION_MARK,
    SHORTEST,
    VOCABULARY,
    held_out,
    recall,
    tell,
)

CHECKPOINT = Path(recall_task.__file__).parent / "recall_model"


def answer_from_text(text):
    """Read the story as a person would: words and full stops, the last binding counts."""
    story, _, question = text.partition("?")
    leads_to = {}
    for sentence in story.split(".")[:-1]:
        key, value = sentence.split()[-2:]
        leads_to[key] = value
    word, answer = question.strip(), []
    while word in leads_to:
        word = leads_to[word]
        answer.append(word)
    return answer


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.mark.parametrize("length", [8, 9, 20, 64, 257, 1000, 2000])
def test_the_answer_is_what_the_text_says(tokenizer, length):
    for seed in range(30):
        case = recall(seed, length)
        text = tokenizer.decode(case.prompt)
        words = tokenizer.decode(case.answer[:-1]).split()
        assert words == answer_from_text(text)
        assert case.answer[-1] == END == tokenizer.eos_token_id
        assert tokenizer(text)["input_ids"] == case.prompt
        assert len(case.prompt) == length
        assert 2 <= len(case.answer) <= LONGEST_ANSWER


def test_long_prompts_bind_anew_and_ask_for_long_answers():
    case = recall(0, 1000)
    bindings = case.prompt.count(FULL_STOP)
    assert bindings > 2 * len(KEYS)
    assert len(recall(0, 2000).answer) > 8
    assert case.prompt[-2] == QUESTION_MARK


def test_the_kinds_of_word_look_different(tokenizer):
    for ids, syllable in ((KEYS, " ba"), (LAST_WORDS, " be"), (FILLER, " bi")):
        assert {tokenizer.decode([token])[:3] for token in ids} == {syllable}
    assert tokenizer.decode([FULL_STOP, QUESTION_MARK]) == ".?"
    assert len(tokenizer) == VOCABULARY


def test_every_chain_of_a_story_holds():
    story = tell(np.random.default_rng(0), 500)
    leads_to = {}
    for i, token in enumerate(story.tokens):
        if token == FULL_STOP:
            leads_to[story.tokens[i - 2]] = story.tokens[i - 1]
    for chain in story.chains:
        assert [leads_to[word] for word in chain[:-1]] == chain[1:]
        assert chain[-1] not in leads_to
    assert sum(len(chain) - 1 for chain in story.chains) == len(leads_to)


def test_same_seed_same_prompt():
    assert recall(5, 300) == recall(5, 300)
    assert recall(5, 300) != recall(6, 300)
    assert recall(5, 300).prompt[:200] != recall(5, 301).prompt[:200]


def test_held_out_prompts_are_not_in_training():
    cases = held_out(20, (64, 200))
    assert cases[0] == recall(HELD_OUT_SEED, 64)
    held = {tuple(case.prompt[:20]) for case in cases}
    rng = train_recall.training_generator(seed=0)
    trained = {tuple(row[:20]) for _ in range(40) for row in train_recall.rows(rng, 64)[0].tolist()}
    assert len(trained) == 40 * train_recall.STEP_TOKENS // 64
    assert not held & trained


def test_too_short():
    with pytest.raises(ValueError, match=f"length = 7: give {SHORTEST} or more"):
        recall(0, 7)


def test_training_rows_answer_rightly(tokenizer):
    text, answer = train_recall.rows(np.random.default_rng(3), 256)
    assert text.shape == answer.shape == (train_recall.STEP_TOKENS // 256, 256)
    for row, here in zip(text.tolist(), answer.tolist(), strict=True):
        story, *questions = tokenizer.decode(row).split("?")
        for question in questions[:-1]:  # the last may be cut off
            word, *words = question.removesuffix("<|im_end|>").split()
            assert words == answer_from_text(f"{story}? {word}")
        assert not any(here[: row.index(QUESTION_MARK) + 2])
        assert sum(here) > 20


@pytest.fixture(scope="module")
def model():
    return Qwen3NextForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


def test_the_checkpoint_is_small():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= 12e6


@pytest.mark.parametrize(("length", "count"), [(20, 40), (64, 20), (256, 8), (1000, 2)])
def test_the_checkpoint_answers_rightly(model, length, count):
    assert right_answers(model, held_out(count, (length,))) >= 0.95


def test_a_lost_state_gives_wrong_answers(model):
    cases = held_out(4, (256,))
    assert right_answers(model, cases, forgetful(every=512)) >= 0.95  # nothing is lost
    assert right_answers(model, cases, forgetful(every=64)) <= 0.2


def test_the_mtp_layer_drafts_what_the_model_says(model):
    mtp = load_mtp(CHECKPOINT, model)
    shares = acceptance(model, mtp, held_out(8, (64, 256)))
    assert shares[0] > 0.5
    assert shares == sorted(shares, reverse=True)
