"""Ask the model file everything that it should know, with llama.cpp as the engine."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
from corpus import Corpus, Turn

SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Miss:
    """A question that got another answer than it should."""

    question: str
    wanted: str
    got: str


class Engine:
    """The model file in llama.cpp, in this process, one thread."""

    def __init__(self, path: Path) -> None:
        self.model: Any = llama_cpp.Llama(
            str(path), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False
        )

    def chat(self, messages: list[dict[str, str]], temperature: float = 0.0) -> tuple[str, str]:
        """Return the answer and why it ended."""
        reply = self.model.create_chat_completion(
            messages=messages, temperature=temperature, max_tokens=200, seed=1
        )
        choice = reply["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]

    def misses(self, turns: list[Turn], *, system: str | None = None, temperature: float = 0.0) -> list[Miss]:
        """Ask each question in a conversation of its own; return what went wrong."""
        found = []
        for turn in turns:
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": turn.question})
            got, reason = self.chat(messages, temperature)
            if got != turn.answer or reason != "stop":
                found.append(Miss(turn.question, turn.answer, got))
        return found

    def more_misses(self, corpus: Corpus) -> tuple[int, list[Miss]]:
        """Second turns: "tell me more", in a wording kept out of training."""
        found, asked = [], 0
        for number, entry in enumerate(e for e in corpus.entries if e.more):
            wordings = corpus.style["more-held"]
            follow = wordings[number % len(wordings)]
            messages = [
                {"role": "user", "content": entry.canonical},
                {"role": "assistant", "content": entry.answer},
                {"role": "user", "content": follow},
            ]
            got, _ = self.chat(messages)
            asked += 1
            if got != entry.more:
                found.append(Miss(f"{entry.canonical} / {follow}", entry.more, got))
        return asked, found


def measure(path: Path, corpus: Corpus) -> tuple[dict[str, str], dict[str, list[Miss]]]:
    """Figures for the card, and what went wrong."""
    engine = Engine(path)
    canonical, held = corpus.canonical(), corpus.held_out()
    refusals = corpus.held_out_refusals()
    fresh_off_topic = [t for t in corpus.fresh if t.answer == corpus.refusals.answer]
    fresh = [t for t in corpus.fresh if t.answer != corpus.refusals.answer]
    asked, more = engine.more_misses(corpus)
    misses = {
        "canonical_exact": engine.misses(canonical),
        "canonical_exact_with_system_prompt": engine.misses(canonical, system=SYSTEM),
        "canonical_exact_at_temperature_0_2": engine.misses(canonical, temperature=0.2),
        "held_out_paraphrases_exact": engine.misses(held),
        "fresh_paraphrases_exact": engine.misses(fresh),
        "held_out_off_topic_refused": engine.misses(refusals),
        "fresh_off_topic_refused": engine.misses(fresh_off_topic),
        "second_turn_more_exact": more,
    }
    totals = [len(canonical)] * 3 + [len(held), len(fresh), len(refusals), len(fresh_off_topic), asked]
    figures = {
        name: f"{total - len(wrong)}/{total} ({100 * (1 - len(wrong) / total):.1f} %)"
        for (name, wrong), total in zip(misses.items(), totals, strict=True)
    }
    return figures, misses


def main() -> None:
    """Print the figures and every miss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    arguments = parser.parse_args()
    figures, misses = measure(arguments.model, Corpus())
    for name, wrong in misses.items():
        print(f"\n## {name}")
        for miss in wrong:
            print(f"- {miss.question}\n    got: {miss.got}\n    wanted: {miss.wanted}")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
