"""The commands that concern the house as a whole: `lethe up` and `lethe demo`; and the way out of every command."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from shared.cli.commands import add_commands
from shared.cli.console import (
    ERRORS,
    OUT,
    ExitCode,
    exit_code_of,
    print_error,
    print_facts,
    print_file_error,
    print_json,
    print_table,
    progress_bars,
)
from shared.cli.demo import Plan, Story
from shared.cli.page import render
from shared.cli.report import Figure, Report
from shared.cli.supervisor import FIRST_PORT, SERVICES, StopRequested, Supervisor, free_ports, stop_signals, usable_cores
from shared.client import LetheClient
from shared.errors import LetheError, UnavailableError
from shared.settings import Settings, get_settings
from shared.telemetry import bound_context, configure_logging, lethe_version, new_trace_id

_CONNECT_PATIENCE: Final = timedelta(seconds=10)

app = typer.Typer(
    help=(
        "Train image diffusion models on your own films, and prove that what they draw is none of your patients.\n\n"
        "Exit codes: 0 done, 1 failed, 2 wrongly asked, 3 a service does not answer, 4 refused."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
add_commands(app)


def main() -> None:
    """Run the command line; what is no defect becomes a sentence and an exit code, and no answer on stdout is mixed with what is logged."""
    configure_logging("cli")
    try:
        app()
    except LetheError as error:
        print_error(error)
        sys.exit(exit_code_of(error))
    except OSError as error:  # what servers do wrong is named by whoever asks them; these are files and folders of this machine
        print_file_error(error)
        sys.exit(ExitCode.FAILURE)


def say_version(wanted: bool) -> None:
    """End with the version where that is asked."""
    if wanted:
        OUT.print(lethe_version(), highlight=False)
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[bool, typer.Option("--version", callback=say_version, is_eager=True, help="Say which version this is.")] = False,
) -> None:
    """What concerns no command."""
    del version


@app.command()
def up(
    home: Annotated[Path | None, typer.Option(help="Folder of store, database, caches and logs; LETHE_HOME without it.")] = None,
    ports: Annotated[
        str, typer.Option(help="The first of four ports in a row, or four of them parted by commas: trainer, sampler, detector, mitigator.")
    ] = str(FIRST_PORT),
) -> None:
    """Start the four services on 127.0.0.1 and keep them until Ctrl-C."""
    supervisor = Supervisor(home=home or get_settings().home, ports=parse_ports(ports), threads=_serving_threads())
    try:
        with stop_signals(), supervisor:
            began = time.monotonic()
            with ERRORS.status("Starting the services"):
                supervisor.start()
            _say_where(supervisor, time.monotonic() - began)
            supervisor.watch()
    except StopRequested:
        OUT.print("Stopped; nothing is left running.")


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Where all randomness starts.")] = 0,
    patients: Annotated[int | None, typer.Option(min=20, max=20_000, help="Synthetic patients.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Training steps.")] = None,
    home: Annotated[Path, typer.Option(help="Folder of everything that the demo keeps, and of its report.")] = Path("var/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A rehearsal of about two minutes, whose figures mean nothing.")] = False,
    connect: Annotated[
        bool, typer.Option("--connect", help="Use the services at LETHE_*_URL instead of starting some on free ports.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of tables.")] = False,
) -> None:
    """Tell the whole story on real training, measure it, and write report.html and report.json."""
    plan = Plan.rehearsal(seed) if quick else Plan(seed=seed)
    plan = replace(plan, patients=patients or plan.patients, steps=steps or plan.steps)
    try:
        with stop_signals(), bound_context(trace_id=new_trace_id()), _services(home, connect=connect) as client, progress_bars() as bars:
            report, gallery = Story(client=client, plan=plan, bars=bars).run()
    except StopRequested:
        ERRORS.print("Stopped; nothing is left running.")
        raise typer.Exit(ExitCode.FAILURE) from None
    home.mkdir(parents=True, exist_ok=True)
    (home / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (home / "report.html").write_text(render(report, gallery), encoding="utf-8")
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print_report(report)
        OUT.print(f"The report: {home / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def parse_ports(text: str) -> list[int]:
    """Four ports from the first of a row, or from all four."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or len(parts) not in {1, len(SERVICES)}:
        raise typer.BadParameter("give one port, or four parted by commas", param_hint="--ports")
    numbers = [int(part) for part in parts]
    ports = numbers if len(numbers) > 1 else list(range(numbers[0], numbers[0] + len(SERVICES)))
    if len(set(ports)) < len(ports) or not all(0 < port < 65536 for port in ports):
        raise typer.BadParameter("the ports must differ and lie between 1 and 65535", param_hint="--ports")
    return ports


@contextmanager
def _services(home: Path, *, connect: bool) -> Iterator[LetheClient]:
    """A client of services that run already, or of some that run as long as it does."""
    if connect:
        with LetheClient.from_settings(get_settings()) as client:
            client.wait_until_ready(patience=_CONNECT_PATIENCE)
            yield client
        return
    with Supervisor(home=home, ports=free_ports(len(SERVICES)), threads=_lone_threads()) as supervisor:
        with ERRORS.status("Starting the services"):
            supervisor.start()
        with LetheClient.from_settings(supervisor.settings()) as client:
            try:
                yield client
            except UnavailableError:
                # A service that died explains the silence better than the silence does.
                supervisor.check()
                raise


def _serving_threads() -> int:
    """Threads of each service when a training and requests run at the same time."""
    return get_settings().torch_threads or max(1, usable_cores() // 2)


def _lone_threads() -> int:
    """Threads of each service in the demo, where one works and the others wait."""
    return get_settings().torch_threads or usable_cores()


def _say_where(supervisor: Supervisor, seconds: float) -> None:
    """What is where."""
    settings = Settings(home=supervisor.home)
    rows = [(service.name, service.url, f"{service.url}/docs") for service in supervisor.services]
    print_table(f"Ready after {seconds:.0f} s", ("service", "answers at", "its routes"), rows)
    print_facts(
        {
            "store": _store_place(settings),
            "database": _without_password(settings.sql_url),
            "logs": str(supervisor.logs),
            "home": str(supervisor.home),
        }
    )
    OUT.print("Ctrl-C stops everything.")


def _store_place(settings: Settings) -> str:
    """Where objects lie."""
    return f"s3://{settings.s3_bucket} at {settings.s3_endpoint}" if settings.store == "s3" else str(settings.home / "store")


def _without_password(url: str) -> str:
    """A database URL fit to be shown."""
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":***@")


def _print_report(report: Report) -> None:
    """The figures as tables."""
    agreement = report.fidelity.prompt_agreement
    figures: list[tuple[str, Figure]] = [
        ("AUC of the screening", report.detection.auc),
        ("canaries found below 1% false alarms", report.detection.tpr_at_1pct_fpr),
        ("controls flagged at the threshold", report.detection.controls_flagged),
        ("score against similarity (Spearman)", report.detection.correlation),
        ("copies, canaries plain", report.copy_rate.canary_plain),
        ("copies, canaries mitigated", report.copy_rate.canary_mitigated),
        ("images of canaries refused", report.refusal_rate),
        ("copies, controls plain", report.copy_rate.control_plain),
        ("agreement, canaries plain", agreement.canary_plain),
        ("agreement, canaries mitigated", agreement.canary_mitigated),
        ("agreement, controls plain", agreement.control_plain),
    ]
    print_table("", ("figure", "value", "95% interval", "n"), [(name, *_figure_cells(figure)) for name, figure in figures])
    print_table(
        "",
        ("strategy", "images", "copies", "agreement", "refused", "seconds"),
        [
            (row.name, str(row.images), str(row.copies), _figure_cells(row.agreement)[0], str(row.refused), f"{row.seconds:.1f}")
            for row in report.strategies
        ],
    )
    print_table(
        "",
        ("promise", "wanted", "reached", ""),
        [(target.name, target.wanted, target.reached, {True: "✓", False: "✗", None: "–"}[target.met]) for target in report.targets],
    )
    OUT.print(f"Took {report.seconds['total']:.0f} s.", highlight=False)


def _figure_cells(figure: Figure) -> tuple[str, str, str]:
    """A figure as cells of a table."""
    if figure.value is None:
        return "–", figure.reason or "", str(figure.n)
    return f"{figure.value:.3f}", f"{figure.low:.3f} – {figure.high:.3f}", str(figure.n)
