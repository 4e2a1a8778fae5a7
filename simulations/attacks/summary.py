"""What the attacks of several seeds reached, as findings, a file, a page and a table."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from common.files import write_atomically
from common.json_values import finite
from common.page.document import Block, Page, Paragraph, Section, Table, html_of
from common.page.words import several
from simulations.attacks import (
    analytic_inversion,
    attribute_inference,
    gradient_inversion,
    imprint,
    membership,
)
from simulations.attacks.attribute_inference import interval_of_mean
from simulations.attacks.finding import Finding, finding_to_json
from simulations.attacks.inferred import ATTRIBUTE, Key
from simulations.attacks.membership import LIRA, LOSS_THRESHOLD
from simulations.attacks.pictures import pictures_of
from simulations.attacks.reconstruction import IMAGES, IMPRINT, TABLES, Reconstructions
from simulations.attacks.simulated_members import TOLD

_LIMITS = {
    IMAGES: gradient_inversion.LIMITS,
    TABLES: analytic_inversion.LIMITS,
    IMPRINT: imprint.LIMITS,
    ATTRIBUTE: attribute_inference.LIMITS,
    LIRA: membership.LIRA_LIMITS,
    LOSS_THRESHOLD: membership.LOSS_LIMITS,
}
_GAIN, _LOW, _HIGH = "gain over the marginals", "gain, 95 % from", "gain, 95 % to"
_SPREAD = "sd of "
# What an attack on patients is judged by, in the mean over seeds.
_DECISIVE = {
    IMAGES: "recovered",
    TABLES: "recovered of 1",
    IMPRINT: "recovered of 16",
    LIRA: TOLD,
    LOSS_THRESHOLD: TOLD,
}
_SHOWN_GALLERIES = 5


def findings_of(seeds: Sequence[Reconstructions]) -> list[Finding]:
    """A finding for each attack and protection: means over seeds, and their standard deviations.

    Guarantees:
        - An attack that recovers patients has succeeded if it recovered one by more than chance in
          any seed, one on membership if it told members in any (`tells_members`); attribute
          inference if the 95 % interval of its mean gain over seeds is above 0.
    """
    attacks = list(dict.fromkeys(attack for one in seeds for attack, _ in one.measured))
    keys = list(dict.fromkeys(key for one in seeds for key in one.measured))
    keys.sort(key=lambda key: attacks.index(key[0]))
    return [_finding(key, [one for one in seeds if key in one.measured]) for key in keys]


def _finding(key: Key, seeds: Sequence[Reconstructions]) -> Finding:
    attack, protection = key
    measures: dict[str, float] = {}
    for name in seeds[0].measured[key]:
        values = [one.measured[key][name] for one in seeds]
        measures[name] = fmean(values)
        measures[f"{_SPREAD}{name}"] = stdev(values) if len(values) > 1 else float("nan")
    measures["seeds"] = len(seeds)
    gains = [one.gains[key] for one in seeds if one.gains.get(key)]
    if gains:
        measures[_GAIN] = fmean(map(fmean, gains))
        measures[_LOW], measures[_HIGH] = interval_of_mean(gains)
        succeeded = measures[_LOW] > 0
    else:
        succeeded = measures[_DECISIVE[attack]] > measures.get("by chance", 0.0)
    limits = next(text for name, text in _LIMITS.items() if attack.startswith(name))
    return Finding(
        attack=attack, target=protection, measures=measures, succeeded=succeeded, limits=limits
    )


def write_attacks(
    seeds: Sequence[Reconstructions],
    out: Path,
    *,
    study: str,
    settings: Mapping[str, object],
    audits: Sequence[Finding] = (),
) -> list[Finding]:
    """Writes `attacks.json` and `attacks.html` into `out`; equal results give equal bytes.

    Args:
        audits: findings of other attacks, to be shown beside these.
    """
    findings = [*findings_of(seeds), *audits]
    table: dict[str, Any] = {
        "study": study,
        "patients": "simulated",
        "settings": dict(settings),
        "findings": [finding_to_json(finding) for finding in findings],
        "seeds": [
            {
                "seed": one.seed,
                "measured": [
                    {"attack": attack, "target": target, "measures": measures}
                    for (attack, target), measures in one.measured.items()
                ],
            }
            for one in seeds
        ],
    }
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite(table), indent=1) + "\n"
    write_atomically(out / "attacks.json", text.encode(), durable=False)
    page = _page(findings, seeds, study, settings)
    write_atomically(out / "attacks.html", html_of(page).encode(), durable=False)
    return findings


def rows_of(findings: Sequence[Finding]) -> list[tuple[str, str, str, str]]:
    """Attack, protection, what it reached (mean ± sd over seeds), verdict: for people."""
    return [(f.attack, f.target, reached(f), verdict(f)) for f in findings]


def verdict(finding: Finding) -> str:
    """Whether the attack did what it is for, in a word or two."""
    if finding.attack.startswith(ATTRIBUTE):
        return "better than the marginals" if finding.succeeded else "no better"
    if finding.attack in (LIRA, LOSS_THRESHOLD):
        return "tells members" if finding.succeeded else "tells no members"
    if finding.epsilon_claimed is not None:
        if finding.breaks_claim:
            return "claim broken"
        return "unclear: noise is not normal" if finding.succeeded else "claim holds"
    return "recovers patients" if finding.succeeded else "nothing recovered"


def reached(finding: Finding) -> str:
    """The figures of a finding in one line."""
    parts = []
    for name, value in finding.measures.items():
        if name.startswith((_SPREAD, _GAIN, "gain, ")) or name == "seeds":
            continue
        spread = finding.measures.get(f"{_SPREAD}{name}", float("nan"))
        parts.append(f"{name}: {_number(value)}" + (f" ± {_number(spread)}" if spread >= 0 else ""))
    if _GAIN in finding.measures:
        gain, low, high = (finding.measures[name] for name in (_GAIN, _LOW, _HIGH))
        parts.append(f"gain: {gain:+.2f} ({low:+.2f} to {high:+.2f})")
    if finding.epsilon_lower_bound is not None and finding.epsilon_claimed is not None:
        bound, claimed = finding.epsilon_lower_bound, finding.epsilon_claimed
        parts.insert(0, f"epsilon at least {bound:.2f}, claimed {claimed:.2f}")
    return "; ".join(parts)


def _number(value: float) -> str:
    if value != 0 and abs(value) < 0.005:
        return f"{value:.0e}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _page(
    findings: Sequence[Finding],
    seeds: Sequence[Reconstructions],
    study: str,
    settings: Mapping[str, object],
) -> Page:
    attacks = list(dict.fromkeys(finding.attack for finding in findings))
    overview = Section(
        key="overview",
        title="What attacks recover",
        blocks=[
            Paragraph(
                text="All patients on this page are simulated. What is recovered from updates was "
                "read from those that have left a hospital's own door, in the setting that is best "
                "for the attacker: one step of plain gradient descent on the attacked patients and "
                "nobody else. Membership and attributes are asked of models that were trained as "
                "the study says.",
                look="lead",
            ),
            Table(
                caption=f"Attacks on {several(len(seeds), 'set')} of simulated patients",
                head=("attack", "protection", "outcome"),
                rows=[(f.attack, f.target, verdict(f)) for f in findings],
                is_words=True,
            ),
        ],
    )
    return Page(
        title=f"Attacks: {study}",
        subtitle=[", ".join(f"{name} {value}" for name, value in settings.items())],
        sections=[overview, *(_section(a, findings, seeds) for a in attacks)],
        footer="Written by wardround experiment attacks.",
    )


def _section(attack: str, findings: Sequence[Finding], seeds: Sequence[Reconstructions]) -> Section:
    own = [finding for finding in findings if finding.attack == attack]
    blocks: list[Block] = [
        Table(
            caption="Mean ± standard deviation over seeds",
            head=("protection", "outcome", "reached"),
            rows=[(f.target, verdict(f), reached(f)) for f in own],
            note=own[0].limits,
            is_words=True,
        )
    ]
    if attack == IMAGES:
        shown = [one for one in seeds if one.gallery is not None][:_SHOWN_GALLERIES]
        blocks += [pictures_of(o.gallery, seed=o.seed) for o in shown if o.gallery is not None]
    key = re.sub(r"[^a-z0-9]+", "-", attack.lower()).strip("-")
    return Section(key=key, title=attack[0].upper() + attack[1:], blocks=blocks)
