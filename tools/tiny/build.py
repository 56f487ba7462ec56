"""Build the model `tiny`: corpus, tokenizer, training, GGUF, references and card.

One command makes everything that the repository ships:

    python tools/tiny/build.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import torch
from chat import train_tokenizer
from corpus import Corpus
from evaluate import measure
from export import DESCRIPTION, read_back, write_gguf, write_reference
from model import Shape, Tiny
from tokenizers import Tokenizer
from train import Recipe, train

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "src/llmlab/weights/builtin/tiny.gguf"
REFERENCES = ROOT / "tests/data"
SUGGESTED = (
    "What is a container?",
    "What is the difference between a container and a virtual machine?",
    "How is a model isolated?",
    "What does --network none do?",
    "What is the KV cache?",
    "Why do models need a GPU?",
    "What is time to first token?",
    "Who are you?",
)


def write_card(path: Path, model: Tiny, recipe: Recipe, quality: dict[str, str]) -> None:
    """Write the card that stands beside the model file."""
    card = {
        "name": "tiny",
        "description": DESCRIPTION,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size_bytes": path.stat().st_size,
        "license": "MIT",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "architecture": "llama",
        "parameters": sum(p.numel() for p in model.parameters()),
        "context_tokens": model.shape.context,
        "vocabulary": model.shape.vocab,
        "quantisation": "Q8_0",
        "languages": ["en"],
        "recommended_temperature": 0.2,
        "quality": quality,
        "recipe": asdict(recipe),
        "suggested_questions": list(SUGGESTED),
    }
    path.with_suffix(".json").write_text(
        json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def main() -> None:
    """Train, export, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("build/tiny"), help="for what is not shipped")
    parser.add_argument("--export-only", action="store_true", help="take the trained weights from --work")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    corpus, shape, recipe = Corpus(), Shape(), Recipe()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if arguments.export_only:
        tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        model = Tiny(shape)
        model.load_state_dict(torch.load(work / "model.pt", weights_only=True))
    else:
        print(f"{len(corpus.entries)} entries, {corpus.phrasings()} phrasings")
        tokenizer = train_tokenizer(corpus, shape.vocab, recipe.seed)
        tokenizer.save(str(work / "tokenizer.json"))
        model = train(corpus, tokenizer, shape, recipe)
        torch.save(model.state_dict(), work / "model.pt")
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    REFERENCES.mkdir(parents=True, exist_ok=True)
    write_gguf(MODEL, model, tokenizer, recipe.seed)
    write_reference(REFERENCES, read_back(MODEL, shape), tokenizer)
    quality, misses = measure(MODEL, corpus)
    write_card(MODEL, model, recipe, quality)
    for name, wrong in misses.items():
        print(f"\n{name}: {quality[name]}")
        for miss in wrong:
            print(f"- {miss.question}\n    {miss.got}")


if __name__ == "__main__":
    main()
