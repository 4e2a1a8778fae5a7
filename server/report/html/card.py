"""The model card: what the run itself knows of its model, and what a person must still fill in.

Nothing is invented: a field that neither study nor journal knows is listed as open. After Mitchell
et al. 2019, "Model Cards for Model Reporting", whose headings it keeps.
"""

from typing import Any

from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.page.document import Block, Heading, Items, Paragraph, Section, Table
from common.page.words import listed, several
from server.report.columns import number_of
from server.report.html.attributions import leading_features
from server.report.html.facts import Facts
from server.report.html.spread import spread_of
from server.report.html.subgroups import has_groups
from server.report.privacy import is_private
from server.report.rounds import last_evaluated

_OPEN = (
    "Intended use: for which decision, at which moment of care, by whom, and with what other "
    "information at hand.",
    "Uses that are out of scope, and who must not be scored.",
    "Which patients the training data are of: period, wards, inclusion and exclusion, how outcomes "
    "were found out.",
    "Ethical approval, legal basis, and who agreed for each hospital.",
    "Thresholds of decision, and what a false alarm and a missed case cost.",
    "Results in all groups of patients that matter (sex, age, origin, insurance), and whether they "
    "are fair.",
    "Validation at hospitals that took no part, and in time after the training data.",
    "Regulatory status. Wardround itself is not a medical device.",
    "Who watches the model in use, which drift is looked for, and who switches it off.",
    "Who is responsible, and how to reach them.",
)


def model_card(results: dict[str, Any], facts: Facts) -> Section:
    """What is known, by the headings of a model card, and what is open."""
    rows = [
        ["Model", _model(results, facts)],
        ["Purpose, as the study states it", _purpose(facts)],
        ["Outcomes", "; ".join(_outcome(n, o) for n, o in facts.study.outcomes.items())],
        ["Inputs", _inputs(facts)],
        ["Training data", _training_data(results)],
        ["Evaluation data", _evaluation_data(facts)],
        ["Metrics", _metrics(results)],
        *_reliance(results),
        ["Privacy", _privacy(results)],
    ]
    blocks: list[Block] = [
        Table(
            caption="What the run itself knows",
            head=("field", "what is known"),
            rows=rows,
            is_words=True,
        ),
        Heading(text="Known limits"),
        Items(items=_limits(results, facts)),
        Heading(text="To be filled in by a person"),
        Paragraph(
            text="The run cannot know these. Without them, the model should not meet a patient."
        ),
        Items(items=_OPEN, is_todo=True),
    ]
    return Section(key="card", title="Model card", blocks=blocks)


def _model(results: dict[str, Any], facts: Facts) -> str:
    plan = facts.study.model
    num_averaged = results["averaged_rounds"]
    averaged = f", the models of the last {num_averaged} of them averaged" if num_averaged else ""
    return (
        f"One encoder for each granularity, fused by {plan.fusion.replace('_', ' ')} (width "
        f"{plan.width}), one head for each outcome. Trained by {results['strategy']}, "
        f"{several(results['num_rounds'], 'round')} asked for{averaged}, seed {results['seed']}. "
        "What is absent of a patient is masked."
    )


def _purpose(facts: Facts) -> str:
    identity = facts.study.study
    stated = ". ".join(part.rstrip(".") for part in (identity.title, identity.description) if part)
    return f"{stated}." if stated else "The study states none."


def _outcome(name: str, outcome: AnyOutcome) -> str:
    if isinstance(outcome, ClassOutcome):
        return f"{name}: {outcome.kind}, of the classes {listed(list(outcome.classes))}"
    if isinstance(outcome, RegressionOutcome):
        low, high = outcome.range
        return f"{name}: a quantity in {outcome.unit}, from {low:,g} to {high:,g}"
    return f"{name}: time to an event in {outcome.unit}, up to {outcome.cut_points[-1]:,g}"


def _inputs(facts: Facts) -> str:
    return "; ".join(
        f"{name}: {part.kind}"
        + (f", {several(len(part.columns), 'column')}" if part.columns else "")
        for name, part in facts.study.granularities.items()
    )


def _training_data(results: dict[str, Any]) -> str:
    sites = results["sites"]
    where = several(len(sites), "hospital")
    if is_private(results):
        return f"Patients of {where}; how many is not told in a private study."
    patients = sum(site["training_patients"].get("patients", 0) for site in sites.values())
    return f"{several(patients, 'patient')} of {where}; “Who took part” has them by hospital."


def _evaluation_data(facts: Facts) -> str:
    plan = facts.study.evaluation
    held_out = (
        f"Patients of the same hospitals that were held out: by the column {plan.split_column} "
        f"where a hospital's table has it, otherwise {plan.test_fraction:.0%} by a keyed hash."
    )
    if plan.validation_fold is None:
        return held_out
    return (
        f"Fold {plan.validation_fold} (of {plan.folds}) of the training patients, to choose "
        "settings; held-out patients were not touched."
    )


def _metrics(results: dict[str, Any]) -> str:
    evaluated = last_evaluated(results)
    if evaluated is None:
        return "None yet: there is no complete evaluation."
    spreads = {name: spread_of(results, evaluated, name) for name in results["outcomes"]}
    return "; ".join(
        f"{name}: {s.title} {number_of(s.metric, s.pooled)} pooled"
        + (f" ({s.text})" if s.text else "")
        for name, s in spreads.items()
    )


def _reliance(results: dict[str, Any]) -> list[list[str]]:
    """What predictions rest on, where hospitals told of it."""
    leading = {outcome: names for outcome, names in leading_features(results).items() if names}
    told = "; ".join(f"{outcome}: most on {listed(names)}" for outcome, names in leading.items())
    more = "“What predictions rest on” has all that hospitals told of"
    return [["What predictions rest on", f"{told}. {more}."]] if told else []


def _privacy(results: dict[str, Any]) -> str:
    return {
        "none": "No differential privacy.",
        "patient": "Differential privacy of each patient; “Privacy” has what was spent.",
        "site": "Differential privacy of each hospital's participation; of no patient.",
    }[results["privacy"]["mode"]]


def _limits(results: dict[str, Any], facts: Facts) -> list[str]:
    limits = []
    if results["engine"] == "in-process":
        limits.append("The run was made on one machine, not between real hospitals.")
    if results["status"] != "finished":
        limits.append("The run has not finished, so this is not its final model.")
    lacking = _lacking(results, facts)
    if lacking:
        limits.append(f"Some hospitals lack granularities: {lacking}.")
    if facts.study.evaluation.validation_fold is not None:
        limits.append("It was judged for choosing settings, not on held-out patients.")
    limits += [
        "It was evaluated at the hospitals that trained it, and nowhere else.",
        _groups(results),
        "A prediction is a statement about patients like this one in this data, not about what "
        "caused their outcome.",
    ]
    return limits


def _groups(results: dict[str, Any]) -> str:
    if not has_groups(results):
        return "Nothing is known of groups of patients."
    groups = results["subgroups"]["groups"]
    known = [group for group in groups if group["pooled"]]
    named = list(dict.fromkeys(group["feature"] for group in known))
    which = "those" if len(known) == len(groups) else f"{len(known)} of {len(groups)}"
    return f"Of groups of patients, {which} by {listed(named)} are known, and no others."


def _lacking(results: dict[str, Any], facts: Facts) -> str:
    """Which hospital has nothing of which granularity."""
    lacking: dict[str, list[str]] = {}
    for site, enrolled in sorted(results["sites"].items()):
        counts, offers = enrolled["training_patients"], enrolled.get("offers", [])
        for name in facts.study.granularities:
            has_it = name in offers if counts is None else counts.get(name, 0) > 0
            if not has_it:
                lacking.setdefault(name, []).append(site)
    return "; ".join(f"{name} at {listed(sites)}" for name, sites in lacking.items())
