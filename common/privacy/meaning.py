"""What epsilon and delta mean to a patient: limits that no attack can pass, as probabilities.

Whoever reads all that was released has some event in mind: to be right about a guess, to recognise
a patient, to find a value. Had the patient taken no part, it would happen with probability `before`
and no more; epsilon and delta say how much likelier it may be because the patient did. These are
limits and not forecasts: what attacks reach is measured elsewhere (`docs/attacks.md`).
"""

from math import exp

# What is told of odds; e^10 is already no protection worth a number.
_LARGEST_TOLD = 10.0


def most_likely(before: float, epsilon: float, delta: float) -> float:
    """The largest probability, with the patient, of what has `before` without.

    Guarantees:
        - Never below `before`, never above 1.
        - A larger epsilon or delta never gives less.

    At 1 in 100 it is the true positive rate of membership inference at 1 % false positives; at 1 in
    1,000, the chance to find a value that would be guessed once in 1,000 times.

    >>> round(most_likely(0.01, 1.0, 1e-5), 4), most_likely(0.01, 0.0, 0.0)
    (0.0272, 0.01)

    Args:
        before: in [0, 1].

    Source: Kairouz, Oh & Viswanath 2015, arXiv:1311.0776, theorem 2.1: P <= e^epsilon before +
    delta, and the same of the opposite event.
    """
    by_factor = delta + exp(epsilon) * before if epsilon < 700 else 1.0
    by_rest = 1.0 - exp(-epsilon) * (1.0 - before - delta)
    return max(before, min(1.0, by_factor, by_rest))


def most_right(epsilon: float, delta: float) -> float:
    """How often a guess is right at most, whether a patient took part, if yes is as likely as no.

    >>> most_right(0.0, 0.0), round(most_right(1.0, 1e-5), 4)
    (0.5, 0.7311)

    Source: as `most_likely`, at equal error of both kinds.
    """
    return min(1.0, (1.0 + delta * exp(-epsilon)) / (1.0 + exp(-epsilon)))


def meaning_of(epsilon: float, delta: float, *, shown: str) -> str:
    """What epsilon allows, in a sentence about one patient and one guess.

    Args:
        shown: the epsilon as the page shows it, rounded up.
    """
    odds = f"{exp(epsilon):,.1f}" if epsilon < _LARGEST_TOLD else "more than 20,000"
    return (
        "Suppose that somebody knows everything about a patient but whether the patient was among "
        "those trained on, and guesses it from all that was released. If yes and no were equally "
        f"likely before, epsilon {shown} allows the guess to be right at most "
        f"{percent_text(most_right(epsilon, delta))} of the time (a coin is right half of the "
        f"time; the odds change by a factor of {odds} at most, but for a chance of delta)."
    )


# What a limit is, and what it is not; for behind `meaning_of`.
A_LIMIT = (
    "That is a limit that no attack can pass, whatever it knows; it is not a measure of what "
    "attacks do reach"
)
HOW_STRONG = (
    "At 1 and below the limit itself is strong; the further above, the less it rules out by itself."
)


def percent_text(part: float) -> str:
    r"""A probability as people read it, rounded up: a limit is not made better by rounding.

    >>> percent_text(0.5249), percent_text(0.99996), percent_text(1.0)
    ('52.5\xa0%', '99.996\xa0%', '100.0\xa0%')
    """
    digits = 1 if part < 0.999 or part >= 1.0 else 3
    return f"{-(-part * 100 * 10**digits // 1) / 10**digits:.{digits}f}\N{NO-BREAK SPACE}%"
