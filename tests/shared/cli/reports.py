"""A report as the demo makes it, from the stand-in services."""

from __future__ import annotations

import io
from functools import cache

from rich.console import Console
from rich.progress import Progress

from shared.cli.console import Bars
from shared.cli.demo import Plan, Story
from shared.cli.report import Gallery, Report
from tests.shared.cli.fake_services import CANARIES, FakeServices


@cache
def told_story(*, quick: bool = False) -> tuple[FakeServices, Report, Gallery]:
    """The services that were asked, the report and the pictures."""
    services = FakeServices()
    plan = Plan(images_per_canary=2, images_per_strategy=1, controls_drawn=9, canaries=CANARIES, quick=quick)
    with services.client() as client, Progress(console=Console(file=io.StringIO())) as progress:
        report, gallery = Story(client=client, plan=plan, bars=Bars(progress)).run()
    return services, report, gallery
