"""Which rounds can be told of, and of how many hospitals their figures are.

A run that was interrupted, or failed, may have heard some hospitals in its last exchange and others
not: figures of those alone would pass for figures of all.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from server.journal import Event


def answers_of(events: Iterable[Event]) -> list[Event]:
    """What hospitals have answered of models, without those that a run has given up.

    A run that goes on from a checkpoint makes the models after it anew.
    """
    answers: list[Event] = []
    for event in events:
        if is_answer(event):
            answers.append(event)
        elif event["event"] == "run_resumed":
            answers = [answer for answer in answers if answer["round"] <= event["round"]]
    return answers


def whole_rounds(events: Iterable[Event]) -> set[int]:
    """The rounds that were answered, and whose exchange is complete.

    Guarantees:
        - One that was aggregated or finished is, whoever was absent from it.
        - Any other is once every hospital that has enrolled has answered.
        - What was answered before the run went on from an older checkpoint makes none complete.
    """
    events = list(events)
    answered: dict[int, set[str]] = {}
    for answer in answers_of(events):
        answered.setdefault(answer["round"], set()).add(answer["site"])
    complete: set[int] = set()
    enrolled: set[str] = set()
    for event in events:
        kind = event["event"]
        if kind == "aggregated":
            complete.add(event["round"] - 1)
        elif kind == "run_finished":
            complete.add(event["round"])
        elif kind == "run_resumed":
            complete = {number for number in complete if number <= event["round"]}
        elif kind == "enrolled":
            enrolled.add(event["site"])
    return {n for n, sites in answered.items() if n in complete or sites >= enrolled}


def unfinished_round(events: Iterable[Event], *, whole: Collection[int]) -> dict[str, Any] | None:
    """The entry of the results: the newest round, and who has answered it; None if it is whole.

    Args:
        whole: `whole_rounds` of these events.
    """
    answers = answers_of(events)
    newest = max((event["round"] for event in answers), default=None)
    if newest is None or newest in whole:
        return None
    return {
        "round": newest,
        "answered": sorted({event["site"] for event in answers if event["round"] == newest}),
    }


def is_answer(event: Event) -> bool:
    """Whether a hospital has answered a round; an enrolment is none."""
    return bool(event["event"] == "reply" and event["kind"] != "query")


def last_evaluated(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest entry of `rounds` in which a site sent statistics, or None."""
    return next((e for e in reversed(results["rounds"]) if any(e["sites"].values())), None)


def whose(results: Mapping[str, Any], evaluated: Mapping[str, Any], outcome: str) -> str:
    """Of which hospitals the pooled figures of an outcome are, where there are some.

    >>> sites = {"north": {"event": {"auroc": 0.7}}, "south": None}
    >>> whose({"sites": {"north": {}, "south": {}}}, {"sites": sites}, "event")
    '1 of 2 hospitals'
    >>> whose({"sites": {"north": {}}}, {"sites": {"north": sites["north"]}}, "event")
    'all hospitals'
    """
    told = sum(1 for m in evaluated["sites"].values() if (m or {}).get(outcome) is not None)
    num_sites = len(results["sites"])
    return "all hospitals" if told in (0, num_sites) else f"{told} of {num_sites} hospitals"


def pooled_title(results: Mapping[str, Any], evaluated: Mapping[str, Any], outcome: str) -> str:
    """What tables call the pooled figures of an outcome."""
    of = whose(results, evaluated, outcome)
    return "all, pooled" if of == "all hospitals" else f"{of}, pooled"


def unfinished_text(results: Mapping[str, Any]) -> str:
    """Says that answers are left out, whose and of which round; empty where none are."""
    unfinished = results["unfinished_round"]
    if unfinished is None:
        return ""
    return (
        f"The exchange after round {unfinished['round']} is not complete: "
        f"{len(unfinished['answered'])} of {len(results['sites'])} hospitals have answered, and "
        "what they tell of the model is left out."
    )
