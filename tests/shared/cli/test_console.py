"""Exit codes mean what the help says; bars follow operations."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.progress import Progress

from shared.cli import console
from shared.cli.console import Bars, ExitCode, exit_code_of, print_error, print_facts, print_json, print_table, progress_bars
from shared.cli.supervisor import StartError
from shared.client import Progress as OperationProgress
from shared.client import UnexpectedAnswerError
from shared.client.failures import problem_error
from shared.errors import (
    DatasetError,
    InvalidRequestError,
    JobCancelledError,
    LetheError,
    MitigationInsufficientError,
    NotFoundError,
    ScreenerUnavailableError,
    SettingsError,
    UnavailableError,
)


def problem(slug: str, status: int) -> LetheError:
    return problem_error({"type": f"urn:lethe:problem:{slug}", "detail": "why", "trace_id": "abc"}, status=status)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnavailableError("x"), ExitCode.UNREACHABLE),
        (ScreenerUnavailableError("x"), ExitCode.UNREACHABLE),
        (UnexpectedAnswerError("x"), ExitCode.UNREACHABLE),
        (problem("dependency-unavailable", 503), ExitCode.UNREACHABLE),
        (MitigationInsufficientError("x", evidence=[]), ExitCode.REFUSED),
        (problem("mitigation-insufficient", 409), ExitCode.REFUSED),
        (problem("forbidden", 403), ExitCode.REFUSED),
        (InvalidRequestError("x"), ExitCode.USAGE),
        (problem("validation", 422), ExitCode.USAGE),
        (SettingsError("x"), ExitCode.USAGE),
        (NotFoundError("x"), ExitCode.FAILURE),
        (problem("not-found", 404), ExitCode.FAILURE),
        (problem("internal", 500), ExitCode.FAILURE),
        (JobCancelledError("x"), ExitCode.FAILURE),
        (StartError("x"), ExitCode.FAILURE),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}",
)
def test_error_ends_with_its_code(error: LetheError, code: ExitCode) -> None:
    assert exit_code_of(error) is code


def test_error_tells_fields_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    body = {"type": "urn:lethe:problem:validation", "detail": "Some [fields] break.", "trace_id": "abc"}
    print_error(problem_error({**body, "errors": [{"loc": ["body", "steps"], "msg": "too many", "type": "x"}]}, status=422))
    assert capsys.readouterr().err.splitlines() == ["Error: Some [fields] break.", "  body.steps: too many", "  trace abc"]


def test_dataset_error_of_the_command_line_itself_is_usage() -> None:
    assert exit_code_of(DatasetError("x")) is ExitCode.USAGE


def test_json_is_one_document_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"text": "[bold]" + "x" * 500, "list": [1, None]}
    print_json(value)
    assert json.loads(capsys.readouterr().out) == value


def test_tables_and_facts_show_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title", ("a", "b"), [("[red]", "1")])
    print_facts({"id": "[x]"})
    out = capsys.readouterr().out
    assert "[red]" in out
    assert "[x]" in out


def test_refused_key_is_told_with_the_variable_that_holds_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(problem("unauthenticated", 401))
    assert "LETHE_API_KEY" in capsys.readouterr().err
    print_error(problem("forbidden", 403))
    assert "LETHE_API_KEY" not in capsys.readouterr().err


KEY = "key_01hzy0123456789abcdefghjkm"
COLUMNS = ("id", "name", "what it may do", "where it is")
ROWS = [(KEY, "ward [a]", "read generate", "a/path/as/long/as/an/id"), (KEY, "", "read", "here"), ("unreadable",)]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A terminal of so many columns."""
    return lambda width: monkeypatch.setattr(console, "OUT", Console(width=width, force_terminal=True, color_system=None))


def test_table_that_fits_is_a_table(terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    terminal(100)
    print_table("", COLUMNS, ROWS)
    head, _, first, second, third = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert head.split(" ┃ ")[0].strip() == "id"
    assert [cell.strip() for cell in first.split("│")] == list(ROWS[0])
    assert [cell.strip() for cell in second.split("│")] == list(ROWS[1])
    assert third.startswith("unreadable ")


def test_table_that_is_too_wide_for_a_terminal_is_stacked_and_no_word_of_it_is_cut(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(60)
    print_table("Keys", COLUMNS, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        "Keys",
        f"id {KEY}",
        "  name: ward [a]  what it may do: read generate",
        "  where it is: a/path/as/long/as/an/id",
        f"id {KEY}",
        "  what it may do: read  where it is: here",
        "id unreadable",
    ]


def test_table_too_wide_by_its_prose_folds_that_alone(terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    terminal(60)
    said = "a word after another, until nobody can read them in one line any more"
    print_table("", ("id", "what is wrong"), [(KEY, said)])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 60 for line in lines)
    cells = [[cell.strip() for cell in line.split("│")] for line in lines[2:]]
    assert (cells[0][0], len(cells) > 1, " ".join(cell[1] for cell in cells)) == (KEY, True, said)


def test_table_without_a_terminal_has_a_line_for_each_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "OUT", Console(width=20))
    print_table("", COLUMNS, ROWS)
    _, _, *lines = capsys.readouterr().out.splitlines()
    assert [[cell.strip() for cell in line.split("│")] for line in lines[:2]] == [list(row) for row in ROWS[:2]]
    assert len(lines) == 3


def test_bar_follows_an_operation_and_ends_full() -> None:
    with Progress(console=Console(file=io.StringIO())) as progress:
        bar = Bars(progress).add("Training")
        bar.follow(OperationProgress(step=3, total=10, message="denoiser", values={"loss": 0.25}))
        (task,) = progress.tasks
        assert (task.completed, task.total, task.fields["message"]) == (3, 10, "denoiser, loss 0.250")
        bar.advance(2, "on")
        assert task.completed == 5
        bar.finish("done")
        assert task.finished
        assert (task.completed, task.fields["message"]) == (10, "done")


def test_bar_of_unknown_length_ends_full() -> None:
    with Progress(console=Console(file=io.StringIO())) as progress:
        bar = Bars(progress).add("Registering")
        bar.follow(OperationProgress())
        bar.finish()
        assert progress.tasks[0].finished


def test_phases_are_told_on_stderr_only_one_line_each_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as bars:
        bars.add("Sampling", 1).finish("16 images")
        bars.add("Matching").finish()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["✓ Sampling (0 s) 16 images", "✓ Matching (0 s) "]


def test_bars_are_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(console, "ERRORS", screen)
    with progress_bars() as bars:
        bars.add("Sampling", 16).advance(4, "half way")
    assert isinstance(screen.file, io.StringIO)
    assert "4/16" in screen.file.getvalue()
