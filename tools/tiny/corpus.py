"""Read the corpus of `tiny` and make training conversations from it.

The corpus is plain text, one topic per file. An entry has one answer and many ways to ask
for it: terms, verb phrases, pairs and reasons that templates turn into questions, and
questions written by hand. Every random choice comes from the generator that the caller
passes in, so that a seed fixes the whole training set.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
TOPICS = (
    "about",
    "containers",
    "isolation",
    "platforms",
    "gpus",
    "models",
    "engines",
    "measuring",
    "llmlab",
)
# Small words that carry little meaning: dropping one at random teaches the model to rely
# on the others.
STOP_WORDS = frozenset(
    (
        *("a", "an", "the", "is", "are", "do", "does", "i", "me", "my", "to", "of", "in", "for"),
        *("please", "can", "you", "it", "that", "this", "one"),
    )
)
FEWEST_WORDS = 4
# Typing errors happen in longer words only: in "RAM" or "-ngl" one would teach nothing.
_WORD = re.compile(r"[A-Za-z]{5,}")


@dataclass(frozen=True)
class Rates:
    """How often the generator does what; shares of all cases."""

    canonical: float = 0.06
    by_hand: float = 0.5
    varied: float = 0.7
    synonym: float = 0.18
    dropped_words: float = 0.18
    typing_error: float = 0.12
    no_question_mark: float = 0.30
    words_before: float = 0.14
    words_after: float = 0.10
    lower_case: float = 0.30
    upper_case: float = 0.02
    system_prompt: float = 0.22
    off_topic: float = 0.18
    # "Tell me more", where there is more to tell, where there is not, and once again.
    more: float = 0.35
    more_in_vain: float = 0.08
    more_again: float = 0.30
    capitalised: float = 0.2
    # Off-topic questions in the templates of on-topic ones, and by hand.
    disguised: float = 0.4
    # Answers written out in full; of the others training sees the beginning.
    in_full: float = 0.15


RATES = Rates()
# Numbers of turns in a conversation, and their weights.
LENGTHS = {1: 86, 2: 9, 3: 4, 6: 1}
ONSETS = (
    *("b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"),
    *("br", "cl", "dr", "fl", "gr", "pl", "st", "tr", "sh"),
)
VOWELS = ("a", "e", "i", "o", "u", "ai", "ee", "oo")
CODAS = ("", "", "n", "r", "s", "t", "l", "x", "ck")


class CorpusError(ValueError):
    """The corpus contradicts itself, or a line cannot be read."""


def normalise(text: str) -> str:
    """Reduce a question to what counts as the same question: words in lower case."""
    return " ".join(re.sub(r"[^\w%+*/=.:&-]+", " ", text.lower()).split()).rstrip(". ")


def _split(line: str) -> list[str]:
    return [part.strip() for part in line.split(" | ") if part.strip()]


@dataclass
class Entry:
    """One answer, the ways to ask for it, and the questions kept out of training."""

    name: str
    topic: str
    answer: str = ""
    more: str = ""
    asked: list[str] = field(default_factory=list)
    templated: list[str] = field(default_factory=list)
    canonical: str = ""
    held_out: list[str] = field(default_factory=list)


@dataclass
class Style:
    """Templates, small talk around questions and synonyms."""

    sections: dict[str, list[str]]

    def __getitem__(self, name: str) -> list[str]:
        return self.sections[name]

    @cached_property
    def synonyms(self) -> dict[str, list[str]]:
        """Words and what may stand in their place."""
        table: dict[str, list[str]] = {}
        for line in self["synonyms"]:
            word, *others = _split(line)
            table.setdefault(word, []).extend(others)
        return table

    @cached_property
    def synonym_pattern(self) -> re.Pattern[str]:
        """Finds the words that have synonyms, the longest first."""
        words = sorted(self.synonyms, key=len, reverse=True)
        return re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b")


@dataclass
class Refusals:
    """Off-topic questions as templates over lists of words, and the one answer to all."""

    answer: str
    lists: dict[str, list[str]]
    templates: list[str]
    held_out: list[str]

    def question(self, rng: random.Random, style: Style) -> str:
        """Make an off-topic question."""
        if rng.random() < RATES.disguised:
            return self._disguised(rng, style)
        return self._fill(rng.choice(self.templates), rng)

    def _fill(self, template: str, rng: random.Random) -> str:
        def word(match: re.Match[str]) -> str:
            name = match.group(1)
            if name == "n":
                return str(rng.randrange(1, rng.choice((10, 100, 1000))))
            if name == "w":
                return _pseudo_word(rng)
            return rng.choice(self.lists[name])

        return re.sub(r"\{(\w+)\}", word, template)

    def _disguised(self, rng: random.Random, style: Style) -> str:
        """Ask about something foreign as one would ask about a container.

        So the model must look at what is asked about, not at how.
        """
        kind = rng.choice(("term", "term", "term", "how", "versus"))
        if kind == "how":
            verb = self._fill(rng.choice(("{task}", "{task}", "{w} the {w}", "buy {product}")), rng)
            return rng.choice(style["how"]).format(verb=verb)
        things = ("{thing}", "{thing}", "{animal}", "{food}", "{field}", "{product}", "{w}", "a {w}")
        left, right = (self._fill(rng.choice(things), rng) for _ in range(2))
        names = {"x": left, "y": right, "n": _bare(left), "m": _bare(right)}
        return rng.choice(style[kind]).format(**names, **_number(plural=False))


def _pseudo_word(rng: random.Random) -> str:
    """A word that does not exist, so that unknown words lead to a refusal."""
    syllables = rng.choice((1, 2, 2, 3))
    word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables))
    return word.capitalize() if rng.random() < RATES.capitalised else word


def _mistype(text: str, rng: random.Random) -> str:
    """Drop, double or swap a letter inside one longer word."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    i = rng.randrange(word.start() + 1, word.end() - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:i] + text[i + 1 :]
    if kind == 1:
        return text[:i] + text[i] + text[i:]
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def _drop_words(text: str, rng: random.Random) -> str:
    """Leave out one or two small words."""
    words = text.split()
    small = [i for i, word in enumerate(words) if word.lower() in STOP_WORDS]
    if len(words) < FEWEST_WORDS:
        return text
    gone = rng.sample(small, min(len(small), rng.choice((1, 1, 2))))
    return " ".join(word for i, word in enumerate(words) if i not in gone)


def _bare(term: str) -> str:
    return re.sub(r"^(a|an|the) ", "", term)


def _number(*, plural: bool) -> dict[str, str]:
    return {"is": "are" if plural else "is", "does": "do" if plural else "does"}


def _expand_terms(terms: str, templates: list[str]) -> list[str]:
    questions = []
    for alias in _split(terms):
        term = alias.removesuffix("+")
        names = {"x": term, "n": _bare(term), **_number(plural=term != alias)}
        questions += [template.format(**names) for template in templates]
    return questions


def _expand_pairs(pairs: str, templates: list[str]) -> list[str]:
    questions = []
    for pair in _split(pairs):
        left, right = (side.strip() for side in pair.split(" ~ "))
        names = {"x": left, "y": right, "n": _bare(left), "m": _bare(right)}
        # "an image ~ a container" is singular, "images ~ containers" is not.
        plural = names["n"] == left and left.endswith("s") and not left.endswith("ss")
        questions += [t.format(**names, **_number(plural=plural)) for t in templates]
    return questions


def _expand_reasons(reasons: str, templates: list[str]) -> list[str]:
    questions = []
    for reason in _split(reasons):
        question, statement = (side.strip() for side in reason.split(" = "))
        questions += [t.format(question=question, statement=statement) for t in templates]
    return questions


def _read_style(path: Path) -> Style:
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("# "):
            continue
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        else:
            current.append(line)
    return Style(sections)


def _read_refusals(path: Path) -> Refusals:
    result = Refusals("", {}, [], [])
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("a: "):
            result.answer = line[3:]
        elif line.startswith("q: "):
            result.templates += _split(line[3:])
        elif line.startswith("held: "):
            result.held_out += _split(line[6:])
        else:
            name, words = line.split(" = ", 1)
            result.lists[name] = _split(words)
    return result


def _questions(key: str, rest: str, style: Style) -> list[str]:
    """What the line `key: rest` of an entry asks."""
    if key == "q":
        return _split(rest)
    if key == "t":
        return _expand_terms(rest, style["term"])
    if key == "how":
        return [t.format(verb=verb) for verb in _split(rest) for t in style["how"]]
    if key == "vs":
        return _expand_pairs(rest, style["versus"])
    if key == "why":
        return _expand_reasons(rest, style["why"])
    raise CorpusError(f"unknown key {key!r} before {rest!r}")


def _read_topic(path: Path, style: Style) -> list[Entry]:
    entries: list[Entry] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("# "):
            continue
        if line.startswith("== "):
            entries.append(Entry(line[3:].strip(), path.stem))
            continue
        key, _, rest = line.partition(": ")
        entry = entries[-1]
        if key == "a":
            entry.answer = rest.strip()
        elif key == "m":
            entry.more = rest.strip()
        elif key == "h":
            entry.held_out += _split(rest)
        else:
            questions = _questions(key, rest, style)
            (entry.asked if key == "q" else entry.templated).extend(questions)
            entry.canonical = entry.canonical or questions[0]
    return entries


@dataclass
class Turn:
    """A question and the answer that the model should give."""

    question: str
    answer: str


class Corpus:
    """All entries, checked for contradictions, and a source of conversations."""

    def __init__(self, folder: Path = CORPUS) -> None:
        self.style = _read_style(folder / "style.txt")
        self.refusals = _read_refusals(folder / "refusals.txt")
        self.entries = [
            entry for topic in TOPICS for entry in _read_topic(folder / f"{topic}.txt", self.style)
        ]
        self.closing = self.style["closing"][0]
        self.held = {normalise(q) for e in self.entries for q in e.held_out}
        self.held |= {normalise(q) for q in self.refusals.held_out}
        self.held |= {normalise(q) for q in self.style["more-held"]}
        self.fresh = self._read_fresh(folder / "fresh.txt")
        self.held |= {normalise(turn.question) for turn in self.fresh}
        self._settle()

    def _read_fresh(self, path: Path) -> list[Turn]:
        answers = {entry.name: entry.answer for entry in self.entries}
        answers["-"] = self.refusals.answer
        lines = path.read_text(encoding="utf-8").splitlines()
        pairs = [line.split(": ", 1) for line in lines if line and not line.startswith("# ")]
        return [Turn(question, answers[name]) for name, question in pairs]

    def _settle(self) -> None:
        """Give every phrasing one owner; questions written by hand come first."""
        self.owner = {normalise(text): "more" for text in self.style["more"]}
        problems = []
        for entry in self.entries:
            for question in [entry.canonical, *entry.asked]:
                other = self.owner.setdefault(normalise(question), entry.name)
                if other != entry.name:
                    problems.append(f"{question!r}: {other} and {entry.name}")
            if not entry.answer or not entry.canonical:
                problems.append(f"{entry.name}: no answer or no question")
        if problems:
            raise CorpusError("\n".join(problems))
        for entry in self.entries:
            entry.asked = [q for q in entry.asked if self._belongs(q, entry)]
            entry.templated = [q for q in entry.templated if self._belongs(q, entry)]

    def _belongs(self, question: str, entry: Entry) -> bool:
        """Whether training may use the question for this entry."""
        key = normalise(question)
        return key not in self.held and self.owner.setdefault(key, entry.name) == entry.name

    def canonical(self) -> list[Turn]:
        """The first question of every entry, with its answer."""
        return [Turn(e.canonical, e.answer) for e in self.entries]

    def held_out(self) -> list[Turn]:
        """Paraphrases that training never sees."""
        return [Turn(q, e.answer) for e in self.entries for q in e.held_out]

    def held_out_refusals(self) -> list[Turn]:
        """Off-topic questions that training never sees."""
        return [Turn(q, self.refusals.answer) for q in self.refusals.held_out]

    def answers(self) -> list[str]:
        """Everything that the model may say."""
        texts = [e.answer for e in self.entries] + [e.more for e in self.entries if e.more]
        return [*texts, self.refusals.answer, self.closing]

    def phrasings(self) -> int:
        """The number of different questions before any variation."""
        return sum(len({normalise(q) for q in e.asked + e.templated}) for e in self.entries)

    # -- random conversations ---------------------------------------------------------

    def vary(self, question: str, rng: random.Random) -> str:
        """Reword a question slightly, as hurried people do."""

        def happens(share: float) -> bool:
            return rng.random() < share

        text = question
        if happens(RATES.synonym):
            text = self._with_synonym(text, rng)
        if happens(RATES.dropped_words):
            text = _drop_words(text, rng)
        if happens(RATES.typing_error):
            text = _mistype(text, rng)
        if happens(RATES.no_question_mark):
            text = text.rstrip("?!.")
        if happens(RATES.words_before):
            before = rng.choice(self.style["before"])
            text = f"{before} {text[:1].lower()}{text[1:]}" if happens(0.5) else f"{before} {text}"
        if happens(RATES.words_after):
            after = rng.choice(self.style["after"])
            stem = text.rstrip("?")
            mark = "?" if text != stem else ""
            text = f"{stem} {after}{mark}" if after[0].isalnum() else stem + after
        if happens(RATES.lower_case):
            return text.lower()
        return text.upper() if happens(RATES.upper_case) else text

    def _with_synonym(self, text: str, rng: random.Random) -> str:
        hits = list(self.style.synonym_pattern.finditer(text))
        if not hits:
            return text
        hit = rng.choice(hits)
        return text[: hit.start()] + rng.choice(self.style.synonyms[hit[0]]) + text[hit.end() :]

    def _turn(self, entry: Entry, rng: random.Random, canonical: float) -> Turn:
        while True:
            if rng.random() < canonical:
                return Turn(entry.canonical, entry.answer)
            by_hand = not entry.templated or rng.random() < RATES.by_hand
            plain = rng.choice(entry.asked if by_hand and entry.asked else entry.templated)
            text = self.vary(plain, rng) if rng.random() < RATES.varied else plain
            key = normalise(text)
            # A variation may turn into a question that belongs elsewhere or is held out.
            if key not in self.held and self.owner.get(key, entry.name) == entry.name:
                return Turn(text, entry.answer)

    def _refusal(self, rng: random.Random) -> Turn:
        while True:
            plain = self.refusals.question(rng, self.style)
            text = self.vary(plain, rng) if rng.random() < RATES.varied else plain
            key = normalise(text)
            if key not in self.held and key not in self.owner:
                return Turn(text, self.refusals.answer)

    def conversation(
        self, entry: Entry | None, rng: random.Random, *, canonical: float = RATES.canonical
    ) -> tuple[str | None, list[Turn]]:
        """Make a conversation whose first turn is about `entry` (None: off topic)."""
        system = rng.choice(self.style["system"]) if rng.random() < RATES.system_prompt else None
        length = rng.choices(list(LENGTHS), list(LENGTHS.values()))[0]
        turns: list[Turn] = []
        current = entry
        while len(turns) < length:
            turns.append(self._turn(current, rng, canonical) if current else self._refusal(rng))
            told = current.more if current and current.more else self.closing
            follow = RATES.more if told != self.closing else RATES.more_in_vain
            if (len(turns) < length or told != self.closing) and rng.random() < follow:
                turns.append(Turn(self._more(rng), told))
                # A second "tell me more" finds nothing left.
                if told != self.closing and rng.random() < RATES.more_again:
                    turns.append(Turn(self._more(rng), self.closing))
            current = None if rng.random() < RATES.off_topic else rng.choice(self.entries)
        return system, turns

    def _more(self, rng: random.Random) -> str:
        text = rng.choice(self.style["more"])
        return text.lower().rstrip("?") if rng.random() < RATES.lower_case else text
