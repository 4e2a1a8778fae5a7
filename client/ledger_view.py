"""`wardround ledger` in a terminal: what was spent on a hospital's patients, and on what."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from client.ledger.view import Events, LedgerView, epsilon_text
from common.page.words import several


def renderables(view: LedgerView) -> list[RenderableType]:
    """The view for a terminal, top to bottom."""
    simulated = "  (simulation: nobody's budget)" if view.simulation else ""
    opened = f"opened {view.opened_at[:10]}, {view.num_entries} entries"
    cohort = "undecided" if view.cohort_size is None else f"{view.cohort_size} training patients"
    lines = [
        f"[bold]{escape(view.dataset_id)}[/]{simulated}",
        f"{opened}; cohort_size: {cohort}; adjacency: add or remove one patient",
        _spent_line(view),
    ]
    if view.no_bound_since is not None:
        lines.append(
            "[red]No bound holds[/]: something was released without any mechanism, since "
            f"{view.no_bound_since}, in {several(view.runs_without_privacy, 'run')}."
        )
    if view.second_opinion is not None:
        others = ", ".join(f"{k} {epsilon_text(v)}" for k, v in sorted(view.second_opinion.items()))
        lines.append(f"second opinion at the same delta: {escape(others)}")
    notes = [
        (
            view.over_counts,
            "reservations that count as spent, although nothing was released under them",
        ),
        (len(view.data_changes), "changes of the data; what was spent before is added up"),
        (len(view.repairs), "torn last lines that were removed after a power cut"),
    ]
    lines += [f"[yellow]{text}: {count}[/]" for count, text in notes if count]
    lines += [_chain_line(view), *(f"[red]fault[/]  {escape(fault)}" for fault in view.faults)]
    return [Text.from_markup("\n".join(lines)), *([_table(view)] if view.runs else [])]


def _spent_line(view: LedgerView) -> str:
    if view.faults:
        return (
            f"[red]spent: at least epsilon {epsilon_text(view.spent)} at delta {view.delta:g}[/]; "
            "what came after the fault is not known, and nothing must be spent"
        )
    spent = f"spent: epsilon {epsilon_text(view.spent)} at delta {view.delta:g}"
    if view.left is None or view.budget is None:
        return f"{spent}; the policy has no budget"
    style = "red" if view.spent > view.budget else "green"
    return f"{spent} of {epsilon_text(view.budget)}; [{style}]left: {epsilon_text(view.left)}[/]"


def _chain_line(view: LedgerView) -> str:
    verdict = "[red]the ledger is NOT whole[/]" if view.faults else "[green]the chain is whole[/]"
    if view.checked_against is None:
        return f"{verdict}; no head was ever countersigned: a cut end would not be seen"
    whose = "the coordinator's copy of" if view.is_outside_head else "the site's own copy of"
    return f"{verdict}; checked against {whose} the head of entry {view.checked_against}"


def _table(view: LedgerView) -> Table:
    table = Table()
    for column in ("study and run", "rounds", "what was done", "epsilon"):
        table.add_column(column, justify="right" if column == "epsilon" else "left")
    for run in view.runs:
        refused = [f"refused {count} times: {code}" for code, count in run.refusals.items()]
        over = [f"{run.over_counts} reserved, never released"] if run.over_counts else []
        models = [f"answered for {several(run.models, 'model')}"] if run.models else []
        noise = [f"noise: {', '.join(run.noise)}"] if run.noise else []
        table.add_row(
            f"{escape(run.study)} {escape(run.study_hash[:8])}\n{escape(run.run_id)}\n"
            f"{run.first_at[:16]}",
            _ranges(run.rounds),
            "\n".join([*map(_event_line, run.events), *models, *noise, *over, *refused]),
            epsilon_text(run.epsilon),
        )
    return table


def _event_line(event: Events) -> str:
    if event.noise_multiplier is None or event.sample_rate is None:
        return f"{event.count} × without any mechanism ({event.part})"
    return (
        f"{event.count} × noise {event.noise_multiplier:.4g}, q {event.sample_rate:.3g} "
        f"({event.part})"
    )


def _ranges(rounds: Sequence[int]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    parts: list[list[int]] = []
    for number in rounds:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts)
