"""Train the network on random conversations of the corpus."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from chat import encode
from corpus import RATES, Corpus, Entry
from model import MATRIX, Shape, Tiny
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Phase:
    """One stretch of training: how long, how fast, and on what."""

    steps: int
    rate: float
    # The share of steps at the full rate, before it falls to 2 % in a straight line.
    constant: float
    # Shares of answers written out in full, and of questions in their plainest form.
    in_full: float
    canonical: float
    # The weight of the second task: to name the answer before it is written.
    naming: float


@dataclass(frozen=True)
class Recipe:
    """What fixes a training run."""

    phases: tuple[Phase, ...] = (
        # Most of the time goes into telling questions apart, so most answers are cut.
        Phase(4000, 3e-3, 0.6, RATES.in_full, RATES.canonical, 0.3),
        # The last steps write whole answers, to get every word of them right.
        Phase(300, 4e-4, 0.2, 0.6, 0.4, 0.0),
        Phase(200, 4e-4, 0.2, 0.6, 0.6, 0.0),
        Phase(300, 4e-4, 0.2, 1.0, 0.5, 0.0),
    )
    batch_tokens: int = 1024
    decay: float = 0.1
    warm_up: int = 50
    # Tokens of an answer that are shown when it is not written out in full.
    beginning: int = 10
    seed: int = 20
    bfloat16: bool = True


# Token ids, which of them to predict, and the number of each turn's answer.
Example = tuple[list[int], list[bool], list[int]]


def _batches(
    corpus: Corpus, tokenizer: Tokenizer, recipe: Recipe, index: int, context: int
) -> Iterator[list[Example]]:
    """Endless batches of conversations of similar length."""
    rng = random.Random(recipe.seed + index)  # noqa: S311 - repeatable, not secret
    phase = recipe.phases[index]
    number = {answer: i for i, answer in enumerate(corpus.answers())}
    while True:
        examples: list[Example] = []
        # Every entry comes equally often: a shuffled round of all of them at a time.
        for _ in range(4):
            first: list[Entry | None] = [*corpus.entries]
            first += [None] * math.ceil(len(first) * RATES.off_topic)
            rng.shuffle(first)
            for entry in first:
                system, turns = corpus.conversation(entry, rng, canonical=phase.canonical)
                beginning = None if rng.random() < phase.in_full else recipe.beginning
                ids, wanted = encode(tokenizer, system, turns, beginning=beginning)
                if len(ids) <= context:
                    examples.append((ids, wanted, [number[turn.answer] for turn in turns]))
        examples.sort(key=lambda example: len(example[0]))
        batches: list[list[Example]] = [[]]
        for example in examples:
            if batches[-1] and (len(batches[-1]) + 1) * len(example[0]) > recipe.batch_tokens:
                batches.append([])
            batches[-1].append(example)
        rng.shuffle(batches)
        yield from batches


def _share(step: int, phase: Phase, warm_up: int) -> float:
    """The part of the full rate that this step uses."""
    if step < warm_up:
        return (step + 1) / warm_up
    fall = int(phase.steps * phase.constant)
    if step < fall:
        return 1.0
    return 1.0 - 0.98 * (step - fall) / max(1, phase.steps - fall)


def _tensors(batch: list[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Padded ids, which of them to predict, and the answers' numbers."""
    length = max(len(example[0]) for example in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    wanted = torch.zeros(len(batch), length, dtype=torch.bool)
    for row, (tokens, learn, _) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        wanted[row, : len(learn)] = torch.tensor(learn)
    return ids, wanted, torch.tensor([answer for example in batch for answer in example[2]])


def _run(model: Tiny, corpus: Corpus, tokenizer: Tokenizer, recipe: Recipe, index: int) -> None:
    phase = recipe.phases[index]
    # Used in training only: it makes the model settle which answer to give where the answer
    # begins, rather than token after token.
    naming = nn.Linear(model.shape.width, len(corpus.answers()), bias=False)
    matrices = [p for p in model.parameters() if p.dim() == MATRIX] + [naming.weight]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.decay},
            {"params": norms, "weight_decay": 0.0},
        ],
        lr=phase.rate,
        betas=(0.9, 0.97),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, phase, recipe.warm_up))
    batches = _batches(corpus, tokenizer, recipe, index, model.shape.context)
    began, seen, total, missed = time.monotonic(), 0, 0.0, 0.0
    for step in range(1, phase.steps + 1):
        ids, wanted, answers = _tensors(next(batches))
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            hidden = model.hidden(ids)[:, :-1]
            logits = model.logits(hidden[wanted[:, 1:]])
            names = naming(hidden[wanted[:, 1:] & ~wanted[:, :-1]])
        loss = functional.cross_entropy(logits.float(), ids[:, 1:][wanted[:, 1:]])
        named = functional.cross_entropy(names.float(), answers)
        optimiser.zero_grad(set_to_none=True)
        (loss + phase.naming * named).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        seen += ids.numel()
        total += loss.item()
        missed += named.item()
        if step % 100 == 0 or step == phase.steps:
            spent = time.monotonic() - began
            mean = step % 100 or 100
            print(
                f"phase {index + 1}, step {step}/{phase.steps}  loss {total / mean:.4f}"
                f"  naming {missed / mean:.4f}  {seen / spent:.0f} tokens/s  {spent:.0f} s",
                flush=True,
            )
            total = missed = 0.0


def train(corpus: Corpus, tokenizer: Tokenizer, shape: Shape, recipe: Recipe) -> Tiny:
    """Train from scratch; the same seed gives the same weights on the same machine."""
    torch.manual_seed(recipe.seed)
    model = Tiny(shape)
    for index in range(len(recipe.phases)):
        _run(model, corpus, tokenizer, recipe, index)
    return model.eval()
