"""Every kind of page that Wardround writes, from small cases made by hand; and hard ones."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from threading import Thread

from client.explain.explain import explanation_of
from client.explain.explain import page_of as explain_page_of
from common.page.document import html_of
from server.journal import Event
from server.report.compare import compare
from server.report.html.comparison import comparison_html
from server.watch.runs import Runs
from server.watch.service import Service
from simulations.attacks.finding import Finding, finding_to_json
from simulations.attacks.summary import write_attacks
from simulations.experiments.page import experiment_page
from simulations.joining.compare import findings_of
from simulations.joining.page import joining_html
from tests.round.mixed_hospitals import mixed_study
from tests.unit.attack_cases import seed_with
from tests.unit.builders import MORE_OUTCOMES, study_of
from tests.unit.dossier_cases import Hospital
from tests.unit.experiment_cases import small_experiment
from tests.unit.explain_cases import subject_of
from tests.unit.joining_cases import all_pieces
from tests.unit.ledger_cases import open_ledger
from tests.unit.report_journals import (
    GROUPED,
    OWN,
    PLAIN,
    enrolled,
    event_of,
    page_of,
    plain_journal,
    private_journal,
    reply_of,
    site_private_journal,
    start_of,
)

WAIT_S = 60.0
NUM_ROUNDS, NUM_HOSPITALS = 100, 10
_LONG = "university-hospital-of-a-town-with-a-very-long-name"


def _grouped() -> str:
    """Groups, several kinds of outcome, absences, and updates that are too long."""
    journal = [
        event | ({"long_updates": {"north": 4.2}} if event["event"] == "aggregated" else {})
        for event in plain_journal(GROUPED)
    ]
    return page_of(journal)


def _audited(verdict: str, bound: float) -> str:
    findings = [
        Finding(
            attack="one-run audit",
            target="models trained with canaries",
            measures={"delta": 1e-5, "mu": 1.0},
            epsilon_lower_bound=bound,
            epsilon_claimed=3.0,
            succeeded=bound > 3.0,
            limits="It needs canaries, which move the model as far as any patient can.",
        ),
        Finding(
            attack="LiRA with 16 shadow models",
            target="the model that is released",
            measures={
                "auc": 0.512,
                "auc_low": 0.47,
                "auc_high": 0.55,
                "tpr_at_0.01": 0.01,
                "tpr_at_0.01_low": 0.0,
                "tpr_at_0.01_high": 0.05,
            },
            succeeded=False,
            limits="Shadows are few; more of them find more.",
        ),
    ]
    audit = event_of(
        "privacy_audited",
        run_id="abc",
        verdict=verdict,
        confidence=0.999,
        seed=1,
        num_shadows=16,
        quick=False,
        simulated_patients=False,
        hospital="north",
        seconds=412.5,
        findings=[finding_to_json(finding) for finding in findings],
    )
    return page_of([*private_journal(), audit])


def _failed() -> str:
    begun = [e for e in plain_journal(OWN) if e["event"] != "run_finished"]
    return page_of([*begun, event_of("run_failed", reason="cohort")])


def big_journal(num_rounds: int = NUM_ROUNDS, num_hospitals: int = NUM_HOSPITALS) -> list[Event]:
    """A long run of many hospitals with long names, of which one is absent every third round."""
    sites = [f"{_LONG}-{n}" if n < 2 else f"hospital-{n}" for n in range(num_hospitals)]
    sent = [e["metrics"] for e in plain_journal() if e["event"] == "reply" and e["kind"] != "query"]
    journal = [start_of(PLAIN, num_rounds)]
    for site in sites:
        journal += enrolled(site)
    for number in range(num_rounds + 1):
        kind = "train" if number < num_rounds else "evaluate"
        journal.append(event_of("asked", kind=kind, round=number, nonces={}, bytes_down=4000))
        for n, site in enumerate(sites):
            if n == 3 and number % 3 == 0:
                journal.append(event_of("absent", round=number, site=site, reason="late"))
                continue
            journal.append(reply_of(kind, number, site, sent[(number + n) % len(sent)]))
        if kind == "train":
            journal.append(
                event_of("aggregated", round=number + 1, sites=sites, update_norm=1.0, seconds=0.1)
            )
            journal.append(event_of("round_finished", round=number + 1, seconds=0.5))
    return [*journal, event_of("run_finished", round=num_rounds)]


def _compared() -> str:
    return comparison_html(
        compare(
            {
                "first": plain_journal(),
                _LONG: plain_journal(GROUPED, num_rounds=1),
                "private": private_journal(),
            }
        )
    )


def _attacks() -> str:
    with _scratch() as folder:
        write_attacks(
            [seed_with(1, recovered=1.0, gain=0.1), seed_with(2, recovered=0.0, gain=0.0)],
            folder,
            study="small",
            settings={"epsilon": 8.0},
        )
        return (folder / "attacks.html").read_text(encoding="utf-8")


def _explained() -> str:
    study = study_of(outcomes=MORE_OUTCOMES)
    subject = subject_of(study)
    return explain_page_of(subject, explanation_of(subject, 0.9, ["sex"], lambda _: None))


def _dossier(*, simulated: bool) -> str:
    with _scratch() as folder:
        hospital = Hospital(folder, simulated=simulated)
        hospital.live()
        if not simulated:
            with open_ledger(hospital.state, hospital.key) as ledger:
                hospital.release_unprotected(ledger)
        return hospital.signed().page()


# Each is made once: several tests look at it.
_MADE: Mapping[str, Callable[[], str]] = {
    "report": _grouped,
    "report-own-models-failed": _failed,
    "report-private-held": lambda: _audited("held", 1.2),
    "report-private-broken": lambda: _audited("broken", 3.6),
    "report-hidden-sites": lambda: page_of(site_private_journal()),
    "report-begun": lambda: page_of(plain_journal()[:1]),
    "report-big": lambda: page_of(big_journal()),
    "compare": _compared,
    "curve": lambda: html_of(experiment_page(small_experiment())),
    "attacks": _attacks,
    "joining": lambda: joining_html(findings_of(all_pieces(), mixed_study("event"))),
    "explain": _explained,
    "dossier": lambda: _dossier(simulated=False),
    "dossier-simulated": lambda: _dossier(simulated=True),
}
NAMES = tuple(_MADE)


@cache
def page(name: str) -> str:
    """The page of this name."""
    return _MADE[name]()


# What the live page is of: how many events of the run there are yet, None for all.
LIVE: Mapping[str, tuple[Callable[[], list[Event]], int | None]] = {
    "watch-begun": (plain_journal, 12),
    "watch-finished": (plain_journal, None),
    "watch-private": (private_journal, None),
}


@contextmanager
def live(name: str, folder: Path) -> Iterator[str]:
    """The address of the live page of a run, which is served within the block."""
    make, number = LIVE[name]
    for run in ("first", f"other & old {_LONG}"):
        place = folder / "runs" / run
        place.mkdir(parents=True)
        text = "".join(json.dumps(event) + "\n" for event in make()[:number])
        (place / "journal.jsonl").write_text(text, encoding="utf-8")
    ready: Queue[str] = Queue()
    runs = Runs(first=folder / "runs" / "first", parent=folder / "runs")
    service = Service(runs, host="127.0.0.1", port=0, on_ready=ready.put)
    thread = Thread(target=service.run, daemon=True)
    thread.start()
    try:
        yield ready.get(timeout=WAIT_S)
    finally:
        service.should_exit = True
        thread.join(timeout=WAIT_S)


@contextmanager
def _scratch() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


def flawed(fault: str) -> str:
    """The smallest page with nothing wrong in it but this piece of markup."""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        "<style>:root{color-scheme:light dark}body{background:Canvas;color:CanvasText}"
        ":focus-visible{outline:3px solid}</style></head>"
        f"<body><header><h1>t</h1></header><main>{fault}</main><footer></footer></body></html>"
    )
