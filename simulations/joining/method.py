"""How the numbers of a page came about, in words, and what they do not say."""

from common.page.words import several
from simulations.joining.findings import Findings


def how_measured(findings: Findings) -> list[str]:
    """Sentences on trainings, intervals, several hospitals, and settings."""
    sentences = [
        _trainings(findings),
        _intervals(findings),
        "In a comparison of hospitals, adjusted p values are Holm's, over all hospitals with "
        "enough held-out patients; each comparison is adjusted by itself. Means over hospitals, "
        "and the gain at one hospital by what is absent, are not adjusted.",
        "A hospital's model alone has the settings of the study, and as much work: these may have "
        "been chosen for all hospitals together, and with others it may do better alone.",
        "A gain is above 0 where the first arm is better"
        + (", here by a smaller error." if findings.metric == "mae" else "."),
    ]
    if findings.of("receiving"):
        sentences.append(
            "“The others' model” is trained without the hospital and used there as it is: nothing "
            "is fitted to the hospital's patients, and it has no intercept of its own."
        )
    steps = findings.study.personal.fine_tune_steps
    if steps and findings.of("personal"):
        sentences.append(
            f"Personal models: the joined model, trained {steps} steps further at the hospital."
        )
    if findings.study.privacy.mode == "patient":
        sentences.append(
            "Every patient is protected in both arms: a hospital alone owes its own patients the "
            "same. Nothing is pooled, and there are no personal models. Noise is repeatable in a "
            "simulation and protects nobody here."
        )
    return sentences


def _trainings(findings: Findings) -> str:
    seeds = findings.seeds
    if len(seeds) == 1:
        return (
            "Every model was trained once: how far chance in training moves a number is not known. "
            "It was judged by each hospital's own held-out patients, whom no model had seen."
        )
    return (
        f"Every model was trained {several(len(seeds), 'time')} (seeds "
        f"{', '.join(map(str, seeds))}) and judged by each hospital's own held-out patients, "
        "whom no model had seen. A number is the mean over these trainings."
    )


def _intervals(findings: Findings) -> str:
    return (
        "Intervals of 95 % hold two kinds of chance: which patients are held out (bootstrap, "
        f"{findings.num_resamples:,} resamples; both arms are judged by the same patients, and all "
        "trainings of a patient are drawn together) and, for several trainings, the chance in "
        "training (Student's t with the standard error over seeds, added to each resample). They "
        "do not hold what other training patients would have changed."
    )
