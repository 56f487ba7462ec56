"""The tokenizer and the chat format, shared by training and export."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from corpus import Corpus, Turn

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (END_OF_TEXT, START, END)
# Newlines stand inside strings: some readers of chat templates strip them elsewhere.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def render(messages: list[tuple[str, str]]) -> str:
    """Write messages as the template does, ready for the assistant's answer."""
    body = "".join(f"{START}{role}\n{text}{END}\n" for role, text in messages)
    return f"{body}{START}assistant\n"


def train_tokenizer(corpus: Corpus, vocab: int, seed: int) -> Tokenizer:
    """Train byte-level BPE on the answers and a sample of questions."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    texts = corpus.answers() * 4
    for entry in corpus.entries:
        texts += entry.asked
        texts += rng.sample(entry.templated, min(12, len(entry.templated)))
    texts += [corpus.refusals.question(rng, corpus.style) for _ in range(1500)]
    texts += corpus.style["system"]
    tokenizer = Tokenizer(models.BPE())
    # The split of GPT-2, which llama.cpp knows by the name "gpt-2".
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab:
        raise ValueError(f"vocabulary of {tokenizer.get_vocab_size()}, not {vocab}")
    return tokenizer


def encode(
    tokenizer: Tokenizer,
    system: str | None,
    turns: list[Turn],
    *,
    beginning: int | None = None,
) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and which of them the model must predict.

    With `beginning`, the last answer is cut after so many tokens: these decide which answer
    it is, and the time saved goes into more questions.
    """
    ids: list[int] = []
    wanted: list[bool] = []

    def add(text: str, *, learn: bool) -> None:
        new = tokenizer.encode(text).ids
        ids.extend(new)
        wanted.extend([learn] * len(new))

    start = 0
    if system is not None:
        add(f"{START}system\n{system}{END}\n", learn=False)
    for turn in turns:
        add(f"{START}user\n{turn.question}{END}\n{START}assistant\n", learn=False)
        start = len(ids)
        add(f"{turn.answer}{END}", learn=True)
        add("\n", learn=False)
    if beginning is not None:
        del ids[start + beginning :], wanted[start + beginning :]
    return ids, wanted
