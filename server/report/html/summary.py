"""The first section: what was trained, how well it does, what that means, and what is not known."""

from typing import Any

from common.page.document import Block, Figure, Figures, Heading, Items, Paragraph, Section
from common.page.words import bytes_text, listed, several
from common.privacy.meaning import most_right, percent_text
from server.report.columns import noised_number_of, number_of
from server.report.html.facts import Facts
from server.report.html.spread import Spread, spread_of
from server.report.html.subgroups import has_groups
from server.report.html.words import meaning_of
from server.report.privacy import cost_of, is_private
from server.report.rounds import last_evaluated, unfinished_text, whose

# Below this many held-out patients a hospital's own numbers say little.
_FEW = 50


def summary(results: dict[str, Any], facts: Facts) -> Section:
    """The summary in plain words."""
    blocks: list[Block] = [Paragraph(text=_what_was_done(results, facts), look="lead")]
    if results["status"] != "finished":
        told = [_UNFINISHED[results["status"]], unfinished_text(results)]
        blocks.append(Paragraph(text=" ".join(filter(None, told)), look="warn"))
    blocks.append(Figures(figures=_figures(results)))
    items = _what_came_out(results)
    blocks.append(Items(items=items) if items else Paragraph(text=_nothing_yet(results)))
    blocks += [
        Heading(text="What may be learned of patients"),
        *_risk(results),
        Heading(text="What this report does not tell"),
        Items(items=_unknown(results)),
    ]
    return Section(key="summary", title="In short", blocks=blocks)


_UNFINISHED = {
    "unfinished": "This run has not finished; everything here is as far as it has come.",
    "failed": "This run failed before its end; everything here is as far as it came.",
}


def _what_was_done(results: dict[str, Any], facts: Facts) -> str:
    study = facts.study
    title = f"“{study.study.title}” ({study.name})" if study.study.title else study.name
    predicted = listed([f"“{name}”" for name in study.outcomes])
    rounds = several(results["num_aggregated"], "round")
    return (
        f"One model for {title} was trained across {several(len(results['sites']), 'hospital')} in "
        f"{rounds} of federated learning. It predicts {predicted} from "
        f"{listed(list(study.granularities))}. Patients' records stayed at their hospitals."
    )


def _figures(results: dict[str, Any]) -> list[Figure]:
    figures = [
        Figure(name="Hospitals", value=str(len(results["sites"])), more=_absent(results)),
        Figure(
            name="Rounds",
            value=str(results["num_aggregated"]),
            more=f"of {results['num_rounds']} asked for",
        ),
    ]
    evaluated = last_evaluated(results)
    for outcome in list(results["outcomes"])[:3] if evaluated else []:
        spread = spread_of(results, evaluated or {}, outcome)
        values = spread.by_site.values()
        ends = [number_of(spread.metric, v) for v in (min(values), max(values))] if values else []
        figures.append(
            Figure(
                name=f"{spread.title}, {outcome}",
                value=number_of(spread.metric, spread.pooled),
                more=f"hospitals {ends[0]} to {ends[1]}" if ends else "by no hospital alone",
            )
        )
    figures.append(_privacy_figure(results))
    sent = results["bytes"]["up"]
    figures.append(Figure(name="Left the hospitals", value=bytes_text(sent), more="in all"))
    return figures


def _absent(results: dict[str, Any]) -> str:
    absent = {a["site"] for a in results["absent"]}
    return f"{len(absent)} absent at times" if absent else "none was ever absent"


def _privacy_figure(results: dict[str, Any]) -> Figure:
    privacy = results["privacy"]
    if privacy["mode"] == "none":
        return Figure(name="Differential privacy", value="none", more="no bound is promised")
    if privacy["mode"] == "site":
        return Figure(
            name="Epsilon, per hospital",
            value=cost_of(privacy["epsilon"]),
            more="patients are not protected",
        )
    spent = [c["epsilon"] for c in privacy["sites"].values() if c["epsilon"] is not None]
    return Figure(
        name="Epsilon, per patient",
        value=cost_of(max(spent)) if spent else "not told yet",
        more=f"most at one hospital; delta {privacy['delta']:g}",
    )


def _what_came_out(results: dict[str, Any]) -> list[str]:
    """One text for each outcome: the result, its spread over sites, what it means."""
    evaluated = last_evaluated(results)
    if evaluated is None:
        return []
    told = []
    for outcome, kind in results["outcomes"].items():
        spread = spread_of(results, evaluated, outcome)
        if spread.pooled is None:
            continue
        unit = results["units"].get(outcome, "")
        meaning = meaning_of(spread.metric, spread.pooled, unit=unit, outcome=outcome)
        number = f"{spread.title} {noised_number_of(spread.metric, evaluated['pooled'][outcome])}"
        of_whom = f"held-out patients of {whose(results, evaluated, outcome)} together"
        if kind == "multiclass" or not meaning:
            parts = [f"{outcome}: {number} over the {of_whom}, after round {evaluated['round']}."]
        else:
            parts = [
                f"{outcome}: {meaning} That is {number}, over the {of_whom}, after round "
                f"{evaluated['round']}.",
                _is_it_chance(spread, evaluated["pooled"][outcome]),
            ]
        if spread.text:
            parts.append(f"Hospital by hospital: {spread.text}.")
        parts.append(_before(results, evaluated, outcome))
        told.append(" ".join(part for part in parts if part))
    return told


_ATTACKED = {
    "held": "Attacks were tried on this run, and refute nothing of that (“Audited”).",
    "broken": "An attack proves that this is not kept: do not release the model (“Audited”).",
    "no claim": "“Audited” has what attacks on such a model reach.",
}
_NOT_VOUCHED = "An audit could not vouch for that: do not release the model (“Audited”)."
_NOT_ATTACKED = "No attack was tried on this run (“wardround audit-privacy RUN” does that)."


def _risk(results: dict[str, Any]) -> list[Block]:
    """What is promised to patients, in a sentence or two; the section on privacy has the rest."""
    promised = results["privacy"]
    audit = results["audit"]
    attacked = _NOT_ATTACKED if audit is None else _ATTACKED.get(audit["verdict"], _NOT_VOUCHED)
    if promised["mode"] == "none":
        text = (
            "No limit is promised. No record left a hospital, but exact sums over its patients and "
            f"updates of the model did, and those can tell of single patients. {attacked}"
        )
        return [Paragraph(text=text, look="warn")]
    if promised["mode"] == "site":
        text = (
            "The model hides which hospitals took part, and protects no patient from the "
            "coordinator."
        )
        return [Paragraph(text=text, look="warn")]
    spent = [c["epsilon"] for c in promised["sites"].values() if c["epsilon"] is not None]
    epsilon = max(spent, default=promised["epsilon"])
    limit = "A limit is promised for every patient"
    if epsilon is not None:
        most = percent_text(most_right(epsilon, promised["delta"]))
        limit = (
            "Whoever guesses from all that was released whether a certain patient was trained on, "
            f"and held yes and no for equally likely before, is right at most {most} of the time, "
            "whatever else they know; a coin is right half of the time (epsilon "
            f"{cost_of(epsilon)}, delta {promised['delta']:g})"
        )
    is_fine = audit is None or audit["verdict"] == "held"
    return [Paragraph(text=f"{limit}. {attacked}", look="" if is_fine else "warn")]


def _is_it_chance(spread: Spread, pooled: dict[str, float | None]) -> str:
    """Says so where the noise for privacy alone could have made a guess look like this."""
    sd = pooled.get(f"{spread.metric}_noise_sd")
    if sd is None or spread.pooled is None or spread.metric not in ("auroc", "c_index"):
        return ""
    is_lost = abs(spread.pooled - 0.5) < 1.96 * sd
    return "With this much noise, that cannot be told from guessing." if is_lost else ""


def _before(results: dict[str, Any], evaluated: dict[str, Any], outcome: str) -> str:
    """What the untrained model reached, where it was evaluated at all."""
    first = results["rounds"][0]
    if first is evaluated or first["round"] != 0 or not any(first["sites"].values()):
        return ""
    spread = spread_of(results, first, outcome)
    if spread.pooled is None:
        return ""
    return f"Before the first round it was {number_of(spread.metric, spread.pooled)}."


def _nothing_yet(results: dict[str, Any]) -> str:
    if is_private(results):
        return (
            "A private run is evaluated once, after its last round, because every evaluation costs "
            "privacy. There is no complete evaluation yet."
        )
    none = "No hospital has sent an evaluation" if results["rounds"] else "No round is complete"
    return f"{none}, so nothing is known of how well the model does."


_NO_GROUPS = (
    "How it does in groups of patients, such as by sex or age: results are by hospital only."
)


def _unknown(results: dict[str, Any]) -> list[str]:
    unknown = [
        "Whether a hospital gains by joining: no model trained on one hospital alone was compared "
        "(“wardround joining” does that).",
        "How the model does at a hospital that took no part: held-out patients are of the same "
        "hospitals as those it was trained on.",
        *([] if has_groups(results) else [_NO_GROUPS]),
        f"How much of a difference is chance: this is one run with one seed ({results['seed']}), "
        "and numbers of few patients move by themselves.",
    ]
    if is_private(results):
        unknown.append(
            "Exact numbers: every metric carries noise for privacy, and how many patients each "
            "hospital has is not told."
        )
    else:
        evaluated = last_evaluated(results)
        few = [] if evaluated is None else _with_few(evaluated)
        if few:
            unknown.append(
                f"Much about {listed(few)}: fewer than {_FEW} patients were held out there."
            )
    return unknown


def _with_few(evaluated: dict[str, Any]) -> list[str]:
    """The sites with an outcome that is known of few held-out patients."""
    return [
        site
        for site, outcomes in sorted(evaluated["sites"].items())
        if any(0 < (m["num_patients"] or 0) < _FEW for m in (outcomes or {}).values())
    ]
