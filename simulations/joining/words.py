"""What joining brings, in sentences that a hospital's board reads: no more than the numbers say.

A difference is called better or worse only where its 95 % interval leaves 0 out, and it is said
whether that stands when all hospitals are judged together.
"""

from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.page.words import several
from server.report.columns import title_of
from simulations.joining.findings import Difference, Findings, Question


def metric_title(findings: Findings) -> str:
    """The main metric as tables call it, with its unit."""
    return title_of(findings.metric, getattr(findings.study.primary, "unit", ""))


def signed(value: float, outcome: AnyOutcome) -> str:
    """A difference with its sign.

    >>> from common.outcomes import ClassOutcome
    >>> event = ClassOutcome(kind="binary", column="event", classes=("no", "yes"))
    >>> signed(0.0316, event), signed(-0.0004, event)
    ('+0.032', '−0.000')
    """
    return f"{'−' if value < 0 else '+'}{plain(abs(value), outcome)}"


def plain(value: float, outcome: AnyOutcome) -> str:
    """A value of the main metric: a share of pairs to three places, an error to three digits."""
    if not isinstance(outcome, RegressionOutcome):
        return f"{value:.3f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(difference: Difference, findings: Findings) -> str:
    """The 95 % interval of a gain; what an error gains is what it loses in size."""
    low, high = difference.gain.low, difference.gain.high
    if low is None or high is None:
        return "–"
    outcome = findings.study.primary
    return f"{signed(low, outcome)} to {signed(high, outcome)}"


def question_asked(findings: Findings) -> str:
    """What every hospital was asked, for a reader who knows nothing yet."""
    return (
        f"How well is “{findings.outcome}” predicted for a hospital's own patients: by a model "
        "from its own patients alone, and by one that it trains together with the others, while "
        "all records stay where they are? Every hospital has its answer here, on patients of its "
        "own whom no model has seen."
    )


def hospital_sentence(joining: Difference, findings: Findings) -> str:
    """What joining brings one hospital, for its board."""
    name = joining.scope
    if joining.before is None or joining.after is None:
        return f"For {name}, nothing can be said: {_because(joining)}"
    title, outcome = metric_title(findings), findings.study.primary
    before, after = (plain(v, outcome) for v in (joining.before, joining.after))
    levels = f"{title} {before} alone, {after} joined"
    bounds = f"95 % interval of the gain: {interval(joining, findings)}"
    if joining.verdict == "untold":
        return f"For {name}, nothing can be said: {levels}, but {_because(joining)}"
    if joining.verdict == "unclear":
        could = _could_be(joining, findings)
        return (
            f"For {name}, no difference can be shown: {levels} ({bounds}, which holds 0). {could}"
        )
    verb = "raises" if joining.after > joining.before else "lowers"
    worse = ", which is worse" if joining.verdict == "worse" else ""
    told = f"For {name}, joining {verb} the {title} from {before} to {after}{worse} ({bounds})"
    parts = [f"{told}: {_meaning(joining, findings)}", _together(joining)]
    return " ".join(part for part in [*parts, _lost_seeds(joining, findings)] if part)


def _because(joining: Difference) -> str:
    return f"{joining.reason or 'it is undefined'}."


def _together(joining: Difference) -> str:
    """Whether a verdict stands among all hospitals that are judged together."""
    if joining.num_compared < 2:
        return ""
    number = several(joining.num_compared, "hospital")
    if joining.stands:
        return f"This stands when all {number} are judged together."
    return (
        f"It does not stand when all {number} are judged together (adjusted p = "
        f"{joining.p_holm or 1.0:.2f}): among so many, one can look like this by chance."
    )


def _lost_seeds(joining: Difference, findings: Findings) -> str:
    lost = len(findings.seeds) - joining.gain.num_seeds
    return f"{lost} of {len(findings.seeds)} trainings came to nothing." if lost else ""


def _meaning(joining: Difference, findings: Findings) -> str:
    """The same in patients, where both numbers are known."""
    before, after = joining.before or 0.0, joining.after or 0.0
    outcome = findings.study.primary
    if isinstance(outcome, RegressionOutcome):
        unit = f" {outcome.unit}" if outcome.unit else ""
        return (
            f"predictions are off by {plain(after, outcome)}{unit} instead of "
            f"{plain(before, outcome)}{unit} on average."
        )
    places = 0 if round(100 * before) != round(100 * after) else 1
    return (
        f"of 100 pairs of patients{_pair(outcome)}, the model puts {100 * after:.{places}f} in the "
        f"right order instead of {100 * before:.{places}f}; by guessing, 50 would be."
    )


def _could_be(joining: Difference, findings: Findings) -> str:
    """What an interval that holds 0 leaves open."""
    low, high = joining.gain.low or 0.0, joining.gain.high or 0.0
    outcome = findings.study.primary
    if isinstance(outcome, RegressionOutcome):
        return (
            f"Joining may make predictions worse by {plain(-low, outcome)} or better by "
            f"{plain(high, outcome)} {outcome.unit}".rstrip()
            + "."
        )
    return (
        f"Of 100 pairs of patients{_pair(outcome)}, joining may put between {-100 * low:.1f} fewer "
        f"and {100 * high:.1f} more in the right order."
    )


def _pair(outcome: AnyOutcome) -> str:
    if not isinstance(outcome, ClassOutcome):
        return " of whom it is known who had the event first"
    if len(outcome.classes) == 2:
        return f", one “{outcome.classes[1]}” and one “{outcome.classes[0]}”"
    return ", one of a class and one not of it (mean over classes)"


def overall(findings: Findings) -> list[str]:
    """What holds for all hospitals together: how many of each verdict, and what stands."""
    all_of_them = [d for d in findings.of("joining") if d.scope in findings.people]
    told = [d for d in all_of_them if d.verdict != "untold"]
    if not told:
        return ["At no hospital there are enough held-out patients to say what joining brings."]
    number = {v: sum(d.verdict == v for d in told) for v in ("better", "worse", "unclear")}
    sentences = [
        f"{several(len(all_of_them), 'hospital')} were compared, each joined with itself alone. "
        f"By its own 95 % interval joining is better at {number['better']} and worse at "
        f"{number['worse']}; at {number['unclear']} no difference can be shown"
        + _untold(len(all_of_them) - len(told))
    ]
    stands = {v: sum(d.verdict == v and d.stands for d in told) for v in ("better", "worse")}
    if len(told) > 1:
        sentences.append(
            f"{len(told)} intervals of 95 % are {len(told)} chances to be wrong. Judged together "
            "(Holm: at most 5 % risk of even one false claim), joining is better at "
            f"{stands['better']} and worse at {stands['worse']} of these hospitals."
        )
    return sentences + mean_sentences(findings)


def _untold(number: int) -> str:
    return f", and of {several(number, 'hospital')} nothing can be said." if number else "."


def mean_sentences(findings: Findings) -> list[str]:
    """What the hospitals gain on average, by ways of joining."""
    ways: dict[Question, str] = {
        "joining": "joined rather than alone",
        "personal": "joined, with a personal model, rather than alone",
        "fine-tuning": "joined, with a personal model, rather than with the shared one",
        "pooling": "all patients pooled at one place rather than joined",
    }
    outcome = findings.study.primary
    sentences = []
    for question, way in ways.items():
        means = [d for d in findings.of(question) if d.scope not in findings.people]
        for d in (d for d in means if d.verdict != "untold"):
            verdict = {"unclear": "no difference can be shown", "better": "better"}
            sentences.append(
                f"As the mean of {several(len(d.sites), 'hospital')}, {way}: "
                f"{verdict.get(d.verdict, 'worse')} ({metric_title(findings)} "
                f"{plain(d.before or 0.0, outcome)} to {plain(d.after or 0.0, outcome)}; 95 % "
                f"interval of the gain {interval(d, findings)})."
            )
    return sentences


def verdict_words(difference: Difference) -> str:
    """A verdict in a table's cell."""
    if difference.verdict == "untold":
        return "nothing can be said"
    if difference.verdict == "unclear":
        return "no difference shown"
    together = difference.num_compared > 1 and not difference.stands
    return difference.verdict + (", not jointly" if together else "")
