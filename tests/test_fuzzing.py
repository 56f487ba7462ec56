"""Whatever comes from elsewhere is read, or refused with an error of ours: tried with Hypothesis.

What once broke something stands as an `example` at its test. The same readers are
searched with coverage for longer by the programs in `tests/fuzz/`.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import shlex
import socket
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmlab import runtime
from llmlab.backends import container, labels
from llmlab.client import ChatRequest, Client
from llmlab.comparing import card as cards
from llmlab.errors import LabError, RequestError, ServerStoppedError, UsageError
from llmlab.lab import ledger
from llmlab.notebook import magics
from llmlab.profiles import PROFILES
from llmlab.prompts import looks_like_control, neutralise
from llmlab.reporting import reporting_to
from llmlab.results import Answer
from llmlab.specs import Endpoint, Prediction, Process, Record, record_from_dict, to_dict
from llmlab.telemetry import recording
from llmlab.telemetry.history import Series
from llmlab.telemetry.metrics import Metric
from llmlab.verbs import VERBS, Call, HelpShown, parse
from llmlab.weights import rates
from llmlab.workshop import keeping, progressing
from llmlab.workshop.preflighting import reading, report
from llmlab.workshop.progress_views import ClassProgress
from tests import examples
from tests.behaviour import Recorder
from tests.comparing_examples import card
from tests.scripted_server import CHUNKED, END, _read_request, chunk

DEEP = "[" * 100_000
HUGE = 10**400  # a number of JSON's, and none that becomes a float
ODD = st.sampled_from(
    [HUGE, -HUGE, 10**18, -1, 0, math.inf, -math.inf, math.nan, 1e300, "", "\0", "\ud800", "x" * 999]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside of some JSON."""
    found = [at]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        found += places(inner, (*at, key))
    return found


def replaced(value: Any, at: tuple[Any, ...], by: Any) -> Any:
    """JSON with another value at one place."""
    if not at:
        return by
    key, *rest = at
    if isinstance(value, dict):
        return {**value, key: replaced(value[key], tuple(rest), by)}
    return [replaced(each, tuple(rest), by) if number == key else each for number, each in enumerate(value)]


def damaged(whole: Any) -> st.SearchStrategy[Any]:
    """JSON of the right form, but for one value."""
    plain = json.loads(json.dumps(whole))
    ways = st.sampled_from(places(plain)[1:])
    return st.builds(lambda at, by: replaced(plain, at, by), ways, JSON)


def files(whole: Any) -> st.SearchStrategy[bytes]:
    """What may stand in a file: nearly right, any JSON, any bytes."""
    return (
        damaged(whole).map(json.dumps).map(str.encode)
        | JSON.map(json.dumps).map(str.encode)
        | st.binary(max_size=40)
    )


@contextmanager
def file_with(data: bytes, name: str = "x.json"):
    with tempfile.TemporaryDirectory(prefix="llm-") as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


# Command lines, as they are typed in a cell

NAMES = {"n": 5, "x": 0.5, "text": "--all {{n}}", "huge": HUGE**20, "none": None}
TYPED = st.lists(
    st.sampled_from([*VERBS, *(flag for verb in VERBS.values() for p in verb.options for flag in p.flags)])
    | st.sampled_from(["{{n}}", "{{huge}}", "\\{{n}}", "{{nobody}}", "{{ text }}", "{{", "}}", "--", "-o", "'", '"', "tiny"])
    | st.text(max_size=6),
    max_size=6,
).map(" ".join)  # fmt: skip


@given(TYPED | st.text(max_size=30), st.none() | st.text(max_size=8) | st.just("{{text}} {{huge}}"))
@example("ask {{huge}}", None)
@example("ask --max-tokens {{huge}} hi", None)
@example("ask", "{{huge}}")
@example("start --engine '\ud800'", None)
@example("ask --seed " + "9" * 5000, None)
def test_a_line_is_a_call_or_a_usage_error(line, body):
    try:
        words, out = magics._out(magics._with_numbers(word, NAMES) for word in magics._split(line))
        call = magics._with_values(parse(words, prog="%llm", body=body), NAMES)
    except UsageError as error:
        str(error).encode(errors="surrogatepass")
    except HelpShown as shown:
        str(shown)
    else:
        assert isinstance(call, Call)
        assert out == "" or out.isidentifier()
        call.python()


PLAIN = st.text(st.characters(exclude_characters="{}\\\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(PLAIN, PLAIN, PLAIN)
def test_a_variable_is_put_in_as_it_is_and_only_once(before, value, after):
    line = shlex.join(["ask", f"-{before}{{{{a}}}}{after}".lstrip("-") or "x{{a}}"])
    values = {"a": value + "{{a}}--all"}
    call = magics._with_values(
        parse([magics._with_numbers(word, values) for word in magics._split(line)]), values
    )
    assert call.arguments["prompt"].endswith(f"{value}{{{{a}}}}--all{after}")
    again = parse(call.words())
    assert again.arguments == call.arguments, "the words of a call make the same call"


# Control tokens, which a model's file may name as it likes

PIECES = st.sampled_from(
    [
        "<",
        "|",
        ">",
        "s",
        "</s>",
        "[INST]",
        "<|im_end|>",
        "\u2060",
        "\u200b",
        " ",
        "ab",
        "\n",
        "<|" + "x" * 70 + "|>",
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=2), max_size=12).map("".join)
INVISIBLE = "\u2060\u200b\u200c\u200d\ufeff\u2061\u2062\u2063\u2064"


@given(TEXTS, st.lists(TEXTS, max_size=4))
@example("\u2060\u2060", ["\u2060\u2060"])
@example("<s>", ["<s>", "<\u2060"])
@example(INVISIBLE * 2, [*INVISIBLE * 2, INVISIBLE])
@example("<|" + "x" * 70 + "|>", ["<|" + "x" * 70 + "|>"])
def test_no_control_token_is_left_whatever_a_models_file_calls_one(text, tokens):
    out, found = neutralise(text, tokens)
    whole = [token for token in tokens if len(token) > 1]
    if not all(any(mark in token for token in whole) for mark in INVISIBLE):
        assert not [token for token in whole if token in out]
    assert not re.search(r"<\|[^|\s]{1,64}\|>", out)
    # Taken out again, what was put in leaves the text as it was.
    rest = iter(out)
    assert all(character in rest for character in text)
    assert bool(found) == (out != text)
    assert set(out) - set(text) <= {*INVISIBLE, " "}


@given(TEXTS)
def test_a_token_of_a_models_is_known_by_its_form_or_has_to_be_named(token):
    assert looks_like_control(token) == (
        neutralise(f"a{token}b")[0] != f"a{token}b" and neutralise(token)[1] == (token,)
    )


# What an engine answers


def asked(*sent: bytes) -> tuple[Answer, list[str]]:
    """Ask somebody who sends these bytes over a real socket."""
    here, there = socket.socketpair()

    def send() -> None:
        with there, suppress(OSError):
            _read_request(there)
            for part in sent:
                there.sendall(part)
            there.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    seen: list[str] = []
    with here:
        thread.start()
        try:
            client = Client("a", Endpoint(port=1), opener=lambda: here)
            return client.chat(ChatRequest(prompt="hi", timeout_s=20), seen.append), seen
        finally:
            here.close()
            thread.join()


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"


def piece(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]}


LAST: dict[str, Any] = {
    "choices": [
        {
            "delta": {"content": "!"},
            "finish_reason": "stop",
            "logprobs": {
                "content": [
                    {"token": "!", "bytes": [33], "logprob": -0.1, "top_logprobs": [{"token": "?", "logprob": -2.0}]}
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 1}},
    "timings": {"predicted_n": 9, "predicted_ms": 4.5, "prompt_per_second": 100.0, "cache_n": 1},
}  # fmt: skip


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=6), st.data())
def test_wherever_an_answer_is_cut_its_text_is_the_same(texts, data):
    whole = b"".join(map(event, [*map(piece, texts), LAST])) + b"data: [DONE]\n\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    body = b"".join(chunk(part) for part in parts if part)
    stream = CHUNKED + body + END
    at = data.draw(st.integers(0, len(stream)))
    answer, seen = asked(stream[:at], stream[at:])
    assert answer.text == "".join(seen) == "".join(texts) + "!"
    assert len(seen) == len(texts) + 1
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (3, 9, 1)


def with_last(**changes: Any) -> dict[str, Any]:
    return {**LAST, **changes}


TOKEN = LAST["choices"][0]["logprobs"]["content"][0]


@given(damaged(LAST))
@example(with_last(usage={"completion_tokens": "many"}))
@example(with_last(usage={"completion_tokens": HUGE}))
@example(with_last(usage={"prompt_tokens_details": [1]}, timings={}))
@example(with_last(timings={"predicted_ms": "4"}))
@example(with_last(timings={"predicted_ms": HUGE}))
@example(replaced(LAST, ("choices", 0, "logprobs", "content", 0), {**TOKEN, "bytes": 1 << 40}))
@example(replaced(LAST, ("choices", 0, "delta", "content"), "\ud800"))
@example(replaced(LAST, ("choices", 0, "finish_reason"), ["stop"]))
@example({"error": {"code": HUGE, "message": "\ud800"}})
def test_whatever_one_event_says_it_is_an_answer_or_an_error_of_ours(last):
    try:
        answer, _ = asked(CHUNKED + chunk(event(piece("so far"))) + chunk(event(last)) + END)
    except (RequestError, ServerStoppedError) as error:
        str(error).encode()
        return
    assert answer.text.startswith("so far")
    json.dumps(answer.to_dict(), ensure_ascii=False, allow_nan=False).encode()
    answer.to_html().encode()
    str(answer).encode()


@given(
    st.binary(max_size=80)
    | st.lists(
        st.sampled_from([CHUNKED, END, b"data: {}\n\n", b"-5\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"\xff", b"\0"])
    ).map(b"".join)
)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n")
@example(b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\n\r\n")
@example(CHUNKED + b"f" * 5000 + b"\r\n")
@example(CHUNKED + chunk(b"data: " + DEEP.encode() + b"\n\n") + END)
@example(CHUNKED + chunk(b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n') + END)
def test_whatever_bytes_answer_it_is_an_error_of_ours(data):
    with pytest.raises((RequestError, ServerStoppedError)) as caught:
        asked(data)
    str(caught.value).encode()


@given(damaged({"content": "a", "tokens": [1, 2], "tokens_predicted": 2, "stop": False,
                "timings": {"prompt_n": 3, "prompt_ms": 1.5, "predicted_ms": 2.5}}))  # fmt: skip
@example({"content": "a", "tokens": 5, "timings": {"prompt_n": 3}})
@example({"content": "a", "tokens_predicted": "2", "timings": {"prompt_ms": HUGE}})
def test_a_measurement_of_another_form_is_unknown_or_an_error_of_ours(data):
    here, there = socket.socketpair()
    with here, there:
        there.sendall(CHUNKED + chunk(event(data)) + END)
        there.shutdown(socket.SHUT_WR)
        with suppress(RequestError, ServerStoppedError):
            found = Client("a", Endpoint(port=1), opener=lambda: here).complete("x", tokens=1)
            assert all(isinstance(token, int) for token in found.tokens)
            assert found.prompt_s is None or math.isfinite(found.prompt_s)


# State files and labels

FULL = examples.record(
    pid=5,
    owner=Process(pid=7, start="boot:1:3"),
    profile=PROFILES["sealed"],
    predicted=Prediction(required_mib=1, resident_mib=2, ready_mib=3, decode_tokens_per_s=4.5),
    build={"llama-server": "00"},
    transport="socket",
    notes=("a note",),
)


def shown(record: Record) -> None:
    """As whoever lists servers goes through a record."""
    assert record_from_dict(json.loads(json.dumps(to_dict(record)))) == record
    assert isinstance(str(record.endpoint), str)
    assert math.isfinite(record.created)
    runtime.Claim(Path("/nowhere") / record.name)


@given(damaged(to_dict(FULL)))
@example({**to_dict(FULL), "created": "yesterday"})
@example({**to_dict(FULL), "created": HUGE})
@example({**to_dict(FULL), "name": "../../home"})
@example({**to_dict(FULL), "name": ["a"]})
@example({**to_dict(FULL), "argv": 5})
@example({**to_dict(FULL), "endpoint": {"socket": "a\0b"}})
@example({**to_dict(FULL), "notes": "text"})
@example([1])
def test_a_record_of_another_form_is_none(data):
    try:
        record = record_from_dict(data)
    except ValueError as error:
        assert "not a server" in str(error)  # noqa: PT017 - any other error fails
    else:
        shown(record)


def test_a_record_comes_back_as_it_was_and_what_a_newer_llmlab_adds_is_left_out():
    plain = json.loads(json.dumps(to_dict(FULL)))
    assert record_from_dict(plain) == FULL
    assert record_from_dict({**plain, "of a later version": [1]}) == FULL


@given(files(to_dict(FULL)))
@example(DEEP.encode())
@example(b"\xff\xfe")
def test_a_server_whose_record_is_damaged_does_not_stop_the_list(data):
    root = runtime.runtime_dir()
    folder = root / "a"
    folder.mkdir(exist_ok=True)
    try:
        (folder / runtime.RECORD).write_bytes(data)
        for record in runtime.records():
            shown(record)
    finally:
        (folder / runtime.RECORD).unlink()
        folder.rmdir()


@given(files(to_dict(FULL)))
@example(DEEP.encode())
def test_a_containers_label_is_a_record_or_nothing(data):
    entry = {"Id": "c0ffee", "Labels": {labels.RECORD: data.decode(errors="replace")}, "Ports": None}
    found = container._record(entry)
    assert found is None or found.container_id == "c0ffee"


KEPT = keeping.to_data(
    "02", {"ready": keeping.Kept(predicted=3, tries=2, outcome="failed", text="no", changed_at=1.0)}
)


@given(files(KEPT))
@example(DEEP.encode())
@example(json.dumps(replaced(KEPT, ("tasks", "ready", "changed_at"), HUGE)).encode())
def test_a_lesson_that_cannot_be_read_is_laid_aside(data):
    path = keeping.made_folder() / "02.json"
    path.write_bytes(data)
    with reporting_to(Recorder()) as seen:
        kept = keeping.read("02")
    assert path.exists() == (not seen.notes)
    assert kept == {} or keeping.from_data(json.loads(json.dumps(keeping.to_data("02", kept)))) == kept


HANDED_IN = {"format": progressing.FORMAT, "name": "Ada", "made": 1.0, "lessons": {"02": KEPT}}


@given(files(HANDED_IN))
@example(DEEP.encode())
@example(json.dumps({**HANDED_IN, "made": HUGE}).encode())
@example(json.dumps({**HANDED_IN, "made": math.inf}).encode())
@example(json.dumps({**HANDED_IN, "made": math.nan}).encode())
@example(json.dumps({**HANDED_IN, "name": "\ud800"}).encode())
def test_no_file_that_is_handed_in_stops_the_teacher(data):
    with file_with(data) as path:
        found = progressing.progress(collect=str(path.parent))
        assert isinstance(found, ClassProgress)
        assert len(found.learners) + len(found.problems) == 1
        str(found)
        found.to_html()
        json.dumps(found.to_dict())


PREFLIGHT = {
    "format": report.FORMAT, "version": report.VERSION, "mode": "native", "made": "2026-01-01T00:00:00+00:00",
    "verdict": "ready", "learner": {"name": "Ada", "id": "00"},
    "machine": {"gpus": ["H100"], "free_memory_mib": 5, "free_disk_bytes": 7, "platform": "Linux",
                "versions": {"llmlab": "1"}, "container_engine": "Docker 20"},
    "lines": [{"name": "a", "topic": "b", "blocks": ["container"], "fix": "llmlab build", "state": "to do"}],
}  # fmt: skip


@given(files(PREFLIGHT))
@example(DEEP.encode())
@example(json.dumps(replaced(PREFLIGHT, ("lines", 0, "blocks"), HUGE)).encode())
@example(json.dumps(replaced(PREFLIGHT, ("lines", 0, "state"), [])).encode())
def test_no_preflight_report_stops_the_teacher(data):
    with file_with(data) as path:
        learners, notes = reading.reports(str(path.parent))
        assert len(learners) + len(notes) == 1


ENTRY = {"what": "tokens_per_s", "predicted": 5.0, "observed": 4.0}


@given(files(ENTRY))
@example(DEEP.encode())
@example(json.dumps({**ENTRY, "predicted": HUGE}).encode())
@example(json.dumps({**ENTRY, "observed": math.nan}).encode())
def test_a_line_of_the_ledger_that_is_none_is_passed_over(data):
    line = data.replace(b"\n", b" ")
    (runtime.made_state_dir() / "predictions.jsonl").write_bytes(
        line + b"\n" + json.dumps(ENTRY).encode() + b"\n"
    )
    found = ledger.summary()
    assert found
    assert found["answers"] in {1, 2}
    assert math.isfinite(found["rate_worst"])


MEASURED = rates.Rates(threads=2, engine="e", cpu="c", measured="2026-01-01", bandwidth_gb_per_s=10.0,
                       read_bytes_per_s={"Q8_0": 1e10}, prefill_parameters_per_s={"Q8_0": 1e11})  # fmt: skip


@given(files(to_dict(MEASURED)))
@example(DEEP.encode())
@example(json.dumps({**to_dict(MEASURED), "read_bytes_per_s": ["Q8_0"]}).encode())
@example(json.dumps({**to_dict(MEASURED), "layer_s": "long"}).encode())
@example(json.dumps({**to_dict(MEASURED), "read_bytes_per_s": {"Q8_0": 0}}).encode())
def test_rates_that_cannot_be_read_are_measured_again(data):
    path = runtime.made_state_dir() / "rates.json"
    path.write_bytes(b'{"' + rates._key(2).encode() + b'": ' + data + b"}")
    found = rates.load(2)
    if found is not None:
        assert all(
            roof > 0 for roof in [*found.read_bytes_per_s.values(), *found.prefill_parameters_per_s.values()]
        )
        assert math.isfinite(found.layer_s + found.attention_s + found.prompt_attention_s)
    rates.save(MEASURED)
    assert rates.load(2) == MEASURED


# Recordings and run cards

METRIC = Metric(
    key="cpu", title="CPU", unit="CPUs", method="counted", interval_s=0.5, most=2.0, error=(0.1, 0.2)
)


def head() -> dict[str, Any]:
    empty = recording.Recording(
        began="now", machine={}, series=(Series(subject="a", metric=METRIC, times_s=(), values=()),)
    )
    first = gzip.decompress(recording.packed(empty)).splitlines()[0]
    found: dict[str, Any] = json.loads(first)
    found["requests"] = [{"subject": "a", "began_s": 0.1, "total_s": 0.2, "tokens": 3, "ttft_s": None}]
    return found


@given(files(head()), st.lists(JSON.map(json.dumps) | st.just("[0.0, 1]"), max_size=3))
@example(json.dumps(replaced(head(), ("requests", 0, "tokens"), HUGE)).encode(), [])
@example(json.dumps(replaced(head(), ("metrics", 0, "most"), HUGE)).encode(), [])
@example(json.dumps(head()).encode(), [f"[0.0, {HUGE}]"])
@example(json.dumps(head()).encode(), [f"[{HUGE}, 0.0]"])
@example(DEEP.encode(), [])
def test_a_recording_is_read_or_refused(first, rows):
    text = b"\n".join([first.replace(b"\n", b" "), *map(str.encode, rows)]) + b"\n"
    with file_with(gzip.compress(text), "x.jsonl.gz") as path:
        try:
            found = recording.read(path)
        except UsageError as error:
            assert str(path) in str(error)  # noqa: PT017 - any other error fails
            return
        recording.write(found, path)
        assert recording.read(path).series == found.series


@given(st.binary(max_size=60), st.integers(0, 200))
def test_a_recording_with_other_bytes_in_it_is_read_or_refused(data, at):
    whole = gzip.compress(json.dumps(head()).encode() + b"\n[0.0, 1]\n")
    with file_with(whole[:at] + data + whole[at + len(data) :], "x.jsonl.gz") as path, suppress(UsageError):
        recording.read(path)


CARD = json.loads(json.dumps(card().to_dict()))


@given(files({**CARD, "blocks": CARD["blocks"][:1], "aa": CARD["aa"][:1]}))
@example(DEEP.encode())
@example(json.dumps({**CARD, "seed": math.inf}).encode())
@example(json.dumps({**CARD, "margin": HUGE}).encode())
@example(json.dumps({**CARD, "prompt_tokens": HUGE}).encode())
def test_a_run_card_is_read_or_refused(data):
    with file_with(data) as path:
        try:
            found = cards.read(path)
        except LabError as error:
            assert str(path) in str(error)  # noqa: PT017 - any other error fails
            return
        cards.write(found, path)
        assert cards.read(path) == found
