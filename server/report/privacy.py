"""The section of the report that a privacy officer reads: what is promised, released, and not."""

from collections.abc import Mapping
from typing import Any


def is_private(results: Mapping[str, Any]) -> bool:
    """Whether patients are protected, so that no site tells anything exact."""
    return bool(results["privacy"]["mode"] == "patient")


def privacy_section(results: dict[str, Any]) -> str:
    """What was promised to whom, what was released for it, and what is not protected."""
    privacy = results["privacy"]
    if privacy["mode"] == "patient":
        return _of_patients(results, privacy)
    return _of_sites(privacy) if privacy["mode"] == "site" else _none()


def _none() -> str:
    return (
        "## Privacy\n\n"
        "None (mode `none`). Hospitals sent exact updates, counts and sums over their patients. "
        "They sent no patient's record, but no mathematical bound says how much can be learned of "
        "one patient from what they sent."
    )


def _of_patients(results: dict[str, Any], privacy: dict[str, Any]) -> str:
    epsilon, delta = privacy["epsilon"], privacy["delta"]
    asked = "the noise that the study fixes" if epsilon is None else f"at most epsilon {epsilon:g}"
    lines = [
        "## Privacy",
        "",
        f"**Promised**: every patient of every hospital is protected, from the coordinator and "
        f"from everyone else, by differential privacy: {asked}, at delta {delta:g}, for all that "
        f"this run releases. The unit is the {privacy['unit']}, with all of their records; "
        f"adjacency is *{privacy['adjacency']}*. A hospital's own policy may allow less, never "
        "more.",
        "",
        "| hospital | epsilon of this run | delta |",
        "|---|---:|---:|",
    ]
    for site, cost in sorted(privacy["sites"].items()):
        delta_of_run = "–" if cost["delta"] is None else f"{cost['delta']:g}"
        lines.append(f"| {site} | {cost_of(cost['epsilon'])} | {delta_of_run} |")
    lines += [
        "",
        "By each hospital's own ledger, told with its last evaluation (– : not told). A patient in "
        "several hospitals, or in several runs, pays for each; the ledger adds up the runs "
        "(`wardround ledger SITE_DIR`).",
        "",
        f"**Released**: {released(results)}.",
        "",
        "**Not protected**: which hospitals took part, and which granularities and outcomes they "
        "have; the public number of patients by which the study weights them; how many bytes they "
        "sent, and when. What is true of people like a patient, whether or not the patient took "
        "part, can still be learned: that is what the study is for.",
    ]
    if any(entry["oracle"] for entry in results["rounds"]):
        lines += [
            "",
            "The oracle's numbers in this report are exact and outside of this promise: they exist "
            "because this is a simulation on one machine.",
        ]
    return "\n".join(lines)


def released(results: dict[str, Any]) -> str:
    """What hospitals have sent so far, in words."""
    parts = []
    unfinished = results["unfinished_round"]
    if results["rounds"] or unfinished:
        parts.append("in each round one noised update of each hospital that answered")
    if results["privacy"]["moments"] and results["sites"]:
        parts.append("noised moments of each measured quantity, once, for normalisation")
    last = results["rounds"][-1] if results["rounds"] else None
    if last is not None and any(last["sites"].values()):
        parts.append("one evaluation on held-out patients, as noised sums")
    elif unfinished and unfinished["round"] == results["num_rounds"]:
        parts.append("by some, one evaluation on held-out patients, as noised sums")
    return "; ".join(parts) or "nothing yet"


def _of_sites(privacy: dict[str, Any]) -> str:
    spent = "no round has been aggregated yet"
    if privacy["epsilon"] is not None:
        spent = (
            f"epsilon {cost_of(privacy['epsilon'])} at delta {privacy['delta']:g} after the last "
            f"round, with noise multiplier {privacy['noise_multiplier']:.4g}"
        )
    return (
        "## Privacy\n\n"
        f"**Promised**: whether a hospital took part in the training is hidden in the model: "
        f"{spent}. The unit is the {privacy['unit']}; adjacency is *{privacy['adjacency']}*. The "
        "coordinator adds the noise, and is trusted.\n\n"
        "**Not protected**: no patient is protected from the coordinator, to whom hospitals sent "
        "exact updates, counts and sums over their patients; this report shows some of them. None "
        "of the noise is credited to a patient."
    )


def cost_of(epsilon: float | None) -> str:
    """An epsilon as reports show it, rounded up: a promise is not made better by rounding.

    >>> cost_of(1.23401), cost_of(0.0001234), cost_of(None)
    ('1.235', '0.000124', '–')
    """
    if epsilon is None:
        return "–"
    digits = 3 if epsilon >= 0.01 else 6
    return f"{-(-epsilon * 10**digits // 1) / 10**digits:.{digits}f}"


def left_of(limit: float | None, spent: float | None) -> str:
    """What is left of a limit, rounded down: nobody is promised more than there is.

    >>> left_of(3.0, 2.9917), left_of(3.0, 2.7), left_of(1.0, 1.2), left_of(None, 1.0)
    ('0.008', '0.300', '0.000', '–')
    """
    if limit is None or spent is None:
        return "–"
    # From what is shown as spent, so that both add up; a float's last digit must not cost a unit.
    left = max(limit - float(cost_of(spent)), 0.0)
    return f"{(left * 1000 + 1e-6) // 1 / 1000:.3f}"
