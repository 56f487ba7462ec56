"""Progress in bytes: its arithmetic, and as a terminal, a log, a kernel and a shell show it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from llmlab.notebook.reporters import KernelReporter
from llmlab.reporting import Repainter, Reporter, Transfer
from tests.conftest import eventually
from tests.test_kernel import kernel
from tests.test_magics import run, shell

__all__ = ["kernel", "shell"]  # fixtures

MB = 1_000_000
# A pull of 10 MB, of which 2 MB were here, told by a library's own thread.
PULL = """
import sys, threading, time

def pull(report, title="pull hf:a/b", total=10_000_000, pause_s=0.02, fails=False):
    def work():
        for done in range(2_000_000, 10_000_001, 400_000):
            report.progress(done, total)
            time.sleep(pause_s)
    report.begin(title, ("pull",))
    failed = True
    try:
        report.stage("pull", "b-Q4_0.gguf")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        failed = fails
    finally:
        report.end(failed=failed)
"""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def feed(transfer: Transfer, clock: Clock, rate: float, seconds: float, total: int | None) -> None:
    """Bytes that come evenly, told a hundred times a second."""
    before = transfer.done
    for step in range(1, round(seconds * 100) + 1):
        clock.now += 0.01
        transfer.update(before + round(rate * step / 100), total)


# Arithmetic


def test_a_rate_is_unknown_until_there_is_one(clock):
    transfer = Transfer(clock)
    assert transfer.rate is None
    assert transfer.mean_rate is None
    transfer.update(0, 100 * MB)
    clock.now += 0.4
    transfer.update(4 * MB, 100 * MB)
    assert transfer.figures == (4 * MB, 100 * MB, None, None)
    clock.now += 0.6
    transfer.update(10 * MB, 100 * MB)
    assert transfer.rate == pytest.approx(10 * MB)
    assert transfer.left_s == pytest.approx(9)


def test_what_was_there_before_counts_for_no_rate(clock):
    transfer = Transfer(clock)
    transfer.update(90 * MB, 100 * MB)
    feed(transfer, clock, 1 * MB, 2, 100 * MB)
    assert transfer.rate == pytest.approx(1 * MB, rel=0.01)
    assert transfer.mean_rate == pytest.approx(1 * MB, rel=0.01)
    assert transfer.moved == 2 * MB
    assert transfer.left_s == pytest.approx(8, rel=0.01)


def test_the_rate_is_that_of_the_last_seconds(clock):
    transfer = Transfer(clock)
    transfer.update(0, None)
    feed(transfer, clock, 50 * MB, 60, None)
    assert transfer.rate == pytest.approx(50 * MB, rel=0.05)
    feed(transfer, clock, 1 * MB, 6, None)
    assert transfer.rate == pytest.approx(1 * MB, rel=0.05)
    assert transfer.mean_rate == pytest.approx(3006 * MB / 66, rel=0.01)
    assert transfer.left_s is None, "nobody knows how much is to come"
    assert len(transfer._points) < 100, "only those of the last seconds are kept"


def test_what_has_stopped_slows_down_and_has_no_end(clock):
    transfer = Transfer(clock)
    transfer.update(0, 100 * MB)
    feed(transfer, clock, 10 * MB, 2, 100 * MB)
    clock.now += 3
    assert transfer.rate == pytest.approx(4 * MB, rel=0.05)
    clock.now += 60
    assert transfer.figures == (20 * MB, 100 * MB, 0.0, None)
    transfer = Transfer(clock)
    transfer.update(5, 100)
    clock.now += 10
    assert transfer.figures == (5, 100, 0.0, None)


def test_what_begins_anew_is_measured_anew(clock):
    transfer = Transfer(clock)
    transfer.update(0, 100 * MB)
    feed(transfer, clock, 20 * MB, 4, 100 * MB)
    transfer.update(0, 100 * MB)
    assert transfer.rate is None
    feed(transfer, clock, 5 * MB, 1, 100 * MB)
    assert transfer.rate == pytest.approx(5 * MB, rel=0.05)
    assert transfer.moved == 5 * MB


def test_the_time_of_a_pause_counts_for_no_rate(clock):
    transfer = Transfer(clock)
    transfer.update(10 * MB, 100 * MB)
    feed(transfer, clock, 10 * MB, 2, 100 * MB)
    transfer.pause()
    clock.now += 60
    transfer.update(40 * MB, 100 * MB)
    assert transfer.rate is None
    feed(transfer, clock, 10 * MB, 2, 100 * MB)
    assert transfer.moved == 40 * MB
    assert transfer.rate == pytest.approx(10 * MB, rel=0.01)
    assert transfer.mean_rate == pytest.approx(10 * MB, rel=0.01)
    transfer.update(0, 100 * MB)
    assert transfer.moved == 0, "what begins anew begins anew"


def test_late_news_of_another_thread_is_no_new_beginning(clock):
    transfer = Transfer(clock)
    transfer.update(0, 100 * MB)
    feed(transfer, clock, 10 * MB, 2, 100 * MB)
    transfer.update(19 * MB, 100 * MB)
    assert transfer.rate == pytest.approx(10 * MB, rel=0.1)


def test_many_threads_may_tell(clock):
    transfer = Transfer()

    def tell(part: int) -> None:
        for i in range(20_000):
            transfer.update(part + i, 1 << 40)
            if i % 1000 == 0:
                assert transfer.rate is None or transfer.rate >= 0

    threads = [threading.Thread(target=tell, args=(1_000_000 + n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert transfer.done >= 1_000_000


def test_the_silent_reporter_takes_it():
    Reporter().begin("pull x", ("pull",))
    Reporter().progress(1, None)


# Repainting


def test_a_repainter_paints_what_has_changed_and_stops():
    painted: list[float] = []
    painter = Repainter(lambda: painted.append(time.monotonic()), pause_s=0.05, tick_s=60)
    for _ in range(10_000):
        painter.changed()
    eventually(lambda: painted)
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        painter.changed()
    painter.close()
    count = len(painted)
    assert 2 <= count <= 15, "once for each pause, however many changes there were"
    painter.changed()
    time.sleep(0.1)
    assert len(painted) == count


def test_a_repainter_ends_with_the_thread_it_works_for():
    painters: list[Repainter] = []
    owner = threading.Thread(
        target=lambda: painters.append(Repainter(lambda: None, pause_s=0.01, tick_s=0.01))
    )
    owner.start()
    owner.join()
    eventually(lambda: not painters[0]._thread.is_alive())


def test_telling_costs_little_beside_reading_a_block():
    """Against hashing 64 KiB, which is less than a download does for each block it tells."""
    import hashlib  # noqa: PLC0415 - only for this ratio

    transfer, painter = Transfer(), Repainter(lambda: None)
    block = bytes(65536)

    def timed(work) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            for i in range(2000):
                work(i)
            times.append(time.perf_counter() - began)
        return min(times)

    def tell(i: int) -> None:
        transfer.update(i, 1 << 30)
        painter.changed()

    telling, hashing = timed(tell), timed(lambda _: hashlib.sha256(block))
    painter.close()
    assert telling < hashing


# In a terminal and in a log


def script(body: str) -> list[str]:
    return [sys.executable, "-c", PULL + textwrap.dedent(body)]


CLI = """
    from llmlab import cli
    from llmlab.reporting import Reporter, reporting_to
    reporter = cli.TerminalReporter(quiet=False)
    {setting}
    pull(reporter, {arguments})
"""


def in_terminal(command: list[str], columns: int = 80) -> str:
    """What a program writes to a terminal of so many columns."""
    import fcntl  # noqa: PLC0415 - as pty, only for this
    import struct  # noqa: PLC0415
    import termios  # noqa: PLC0415

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not block:
            break
        written += block
    os.close(ours)
    assert process.wait(60) == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize("columns", [0, 40, 80, 200])
def test_in_a_terminal_one_line_is_written_over(columns):
    shown = in_terminal(script(CLI.format(setting="", arguments="title='pull x'")), columns)
    assert "\n" not in shown, "one line, and wiped at the end since all went well"
    assert shown.endswith("\r\x1b[K")
    lines = [line for line in shown.split("\r\x1b[K") if line]
    assert len(lines) >= 3
    assert all(len(line) < (columns or 80) for line in lines)
    if columns != 40:
        assert any(re.search(r"s  pull: b-Q4_0.gguf  ▓+░+ \d+ %, \d.\d of 10 MB", line) for line in lines)
        assert re.search(r"b-Q4_0.gguf  10 MB, \d+ MB/s", lines[-1])
    rates = [float(rate) for rate in re.findall(r", ([\d.]+) MB/s", shown)]
    assert all(rate <= 20 for rate in rates), "8 MB in at least 0.4 s: what was here before is no rate"


def test_in_a_terminal_a_failed_pull_leaves_its_line():
    shown = in_terminal(script(CLI.format(setting="", arguments="fails=True")))
    assert re.search(r"pull: b-Q4_0.gguf  10 MB, \d+ MB/s\r\n$", shown)


def test_a_note_stands_above_the_line():
    body = CLI.format(setting="", arguments="") .replace(
        "pull(reporter, )",
        "work = reporter.progress\n"
        "    reporter.progress = lambda d, t: (work(d, t), reporter.note('a mirror is used') if d == 6_000_000 else None)\n"
        "    pull(reporter)",
    )  # fmt: skip
    shown = in_terminal(script(body))
    assert "\r\x1b[Knote: a mirror is used\r\n" in shown
    assert shown.count("\n") == 1


def piped(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_in_a_log_there_is_a_line_for_the_stage_and_one_for_the_end():
    done = piped(script(CLI.format(setting="", arguments="")))
    first, last = done.stderr.splitlines()
    assert first.endswith("s  pull: b-Q4_0.gguf")
    assert re.search(r"s  pull: b-Q4_0.gguf  10 MB, \d+ MB/s$", last)
    assert done.stdout == ""


def test_in_a_log_a_long_pull_shows_a_line_now_and_then():
    setting = "cli._PIPE_S = cli._LOOK_S = 0.1"
    done = piped(script(CLI.format(setting=setting, arguments="total=None")))
    lines = done.stderr.splitlines()
    assert len(lines) > 3
    assert "\r" not in done.stderr
    assert "%" not in done.stderr, "without an end, no share of it"
    assert "10 MB" in lines[-1]


# In notebooks


def test_in_a_kernel_the_bar_is_updated_in_place_and_becomes_a_record(kernel):
    kernel.run(
        PULL + "\nfrom llmlab.reporting import reporter\nreporter().announce(\"llmlab.pull('hf:a/b')\")"
    )
    pulled = kernel.begin("pull(reporter(), pause_s=0.05)")
    running = kernel.finish(
        pulled, until=lambda cell: any("MB/s" in text for text in cell.texts("display_data"))
    )
    (output,) = running.outputs
    assert 'role="progressbar"' in output["data"]["text/html"]
    assert re.search(r"▓+░+ \d+ %, \d.\d of 10 MB", output["data"]["text/plain"])
    done = kernel.finish(pulled, running)
    assert done.ok, done.reply
    assert len(done.outputs) == 1
    (text,) = done.texts("display_data")
    assert re.match(r"✓ pull hf:a/b .*pull .*, 10 MB, [\d.]+ MB/s", text)
    assert "progressbar" not in output["data"]["text/html"]
    assert 3 < done.updates < 40, "at most ten a second"


def test_pulls_of_two_threads_are_not_mixed_up(kernel):
    kernel.run(PULL)
    done = kernel.run(
        "from llmlab.reporting import reporter\n"
        "def own(title, total):\n"
        "    report = reporter()\n"
        "    report.begin(title)\n"
        "    report.stage('pull', '')\n"
        "    for i in range(5):\n"
        "        report.progress(i * total // 4, total)\n"
        "        time.sleep(0.1)\n"
        "    report.end(failed=False)\n"
        "threads = [threading.Thread(target=own, args=(f'pull {n}', n * 10**6)) for n in (2, 3)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]; None"
    )
    assert done.ok
    texts = sorted(done.texts("display_data"))
    assert len(texts) == 2
    for text, n in zip(texts, (2, 3), strict=True):
        assert re.match(rf"✓ pull {n} .*, {n}.0 MB", text)


def test_in_an_ipython_shell_lines_are_printed(shell, capsys):
    run(shell, PULL + "\nfrom llmlab.reporting import reporter")
    capsys.readouterr()
    run(shell, "pull(reporter())")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pull hf:a/b"
    assert lines[1] == "  pull b-Q4_0.gguf"
    assert re.fullmatch(r"  pull b-Q4_0.gguf  10 MB, \d+ MB/s", lines[2])
    assert lines[3:] == ["  done"]


def test_in_an_ipython_terminal_one_line_is_written_over(tmp_path):
    source = tmp_path / "pull.ipy"
    source.write_text(f"{PULL}\n%load_ext llmlab\nfrom llmlab.reporting import reporter\npull(reporter())\n")
    command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", str(source)]
    shown = in_terminal(command)
    assert "pull hf:a/b" in shown
    lines = shown.split("\r\x1b[K")
    assert any(re.search(r"▓+░+ \d+ %, \d.\d of 10 MB", line) for line in lines)
    assert re.search(r"pull b-Q4_0.gguf  10 MB, \d+ MB/s\r\n  done", lines[-1])


def test_progress_of_an_unknown_thread_or_without_a_beginning_is_left_out():
    report = KernelReporter()
    report.progress(1, 2)
    assert report._shown == []
