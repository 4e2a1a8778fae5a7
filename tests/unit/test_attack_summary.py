"""Findings, file and page of attacks: worked by hand from two seeds."""

import base64
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simulations.attacks.finding import Finding
from simulations.attacks.membership import LIRA
from simulations.attacks.pictures import png_uri
from simulations.attacks.reconstruction import Reconstructions
from simulations.attacks.simulated_members import TOLD
from simulations.attacks.summary import findings_of, reached, verdict, write_attacks
from tests.unit.attack_cases import seed_with


def test_means_and_standard_deviations_over_seeds() -> None:
    image, _, _ = findings_of([seed_with(s, recovered=1.0, gain=0.1) for s in (1, 2)])
    assert image.measures["PSNR, dB"] == pytest.approx(31.5)
    assert image.measures["sd of PSNR, dB"] == pytest.approx(math.sqrt(0.5))
    assert "PSNR, dB: 31.5 ± 0.71" in reached(image)


def test_what_is_found_by_chance_is_no_success() -> None:
    image, crafted, attribute = findings_of([seed_with(1, recovered=1.0, gain=0.1)])
    assert (image.succeeded, crafted.succeeded, attribute.succeeded) == (True, False, True)
    assert verdict(crafted) == "nothing recovered"


def test_an_attack_that_recovers_in_one_seed_of_two_has_succeeded() -> None:
    seeds = [seed_with(1, recovered=0.0, gain=0.0), seed_with(2, recovered=1.0, gain=0.0)]
    image, _, attribute = findings_of(seeds)
    assert (image.succeeded, attribute.succeeded) == (True, False)


def test_membership_told_in_one_seed_of_two_has_been_told() -> None:
    def seed(number: int, *, told: float) -> Reconstructions:
        figures = {"AUC": 0.5 + told / 10, TOLD: told}
        return Reconstructions(seed=number, measured={(LIRA, "no privacy"): figures})

    (none,) = findings_of([seed(1, told=0.0), seed(2, told=0.0)])
    (once,) = findings_of([seed(1, told=0.0), seed(2, told=1.0)])
    assert (verdict(none), verdict(once)) == ("tells no members", "tells members")
    assert "AUC: 0.55 ± 0.07" in reached(once)


def test_an_audit_without_a_bound_breaks_no_claim_and_vouches_for_none() -> None:
    def told(bound: float | None, *, succeeded: bool) -> str:
        return verdict(
            Finding(
                attack="Gaussian canary audit",
                target="t",
                measures={},
                epsilon_lower_bound=bound,
                epsilon_claimed=8.0,
                succeeded=succeeded,
                limits="",
            )
        )

    assert told(7.0, succeeded=False) == "claim holds"
    assert told(9.0, succeeded=True) == "claim broken"
    assert told(None, succeeded=True) == "unclear: noise is not normal"


def test_a_gain_that_one_seed_makes_alone_is_no_success() -> None:
    seeds = [seed_with(n, recovered=0.0, gain=0.5 if n == 1 else 0.0) for n in range(1, 6)]
    attribute = findings_of(seeds)[-1]
    assert attribute.measures["gain over the marginals"] == pytest.approx(0.1)
    assert not attribute.succeeded


def test_equal_results_give_equal_files_that_say_that_patients_are_simulated(
    tmp_path: Path,
) -> None:
    seeds = [seed_with(1, recovered=1.0, gain=0.1)]
    for name in ("one", "two"):
        write_attacks(seeds, tmp_path / name, study="demo", settings={"epsilon": 8.0})
    for name in ("attacks.json", "attacks.html"):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two
    table = json.loads((tmp_path / "one" / "attacks.json").read_text())
    assert table["patients"] == "simulated"
    page = (tmp_path / "one" / "attacks.html").read_text()
    assert "All patients on this page are simulated" in page
    assert 'alt="Simulated patient 1: the original"' in page
    assert page.count("<img ") == page.count("data:image/png") == 3
    assert "http" not in page.replace("http-equiv", "")


def test_an_audit_is_shown_by_its_bound_and_its_claim(tmp_path: Path) -> None:
    audit = Finding(
        attack="audit",
        target="training",
        measures={"canaries": 100.0},
        epsilon_lower_bound=2.0,
        epsilon_claimed=8.0,
        succeeded=False,
        limits="Few canaries.",
    )
    seeds = [seed_with(1, recovered=1.0, gain=0.1)]
    findings = write_attacks(seeds, tmp_path, study="demo", settings={}, audits=[audit])
    assert findings[-1] == audit
    assert reached(audit) == "epsilon at least 2.00, claimed 8.00; canaries: 100.0"
    assert (verdict(audit), verdict(replace(audit, succeeded=True, epsilon_lower_bound=9.0))) == (
        "claim holds",
        "claim broken",
    )


def test_a_picture_is_a_png_of_its_grey_values() -> None:
    grey = np.array([[0.0, 1.0], [0.2, 2.0]])
    data = base64.b64decode(png_uri(grey).partition(",")[2])
    assert np.array(Image.open(io.BytesIO(data))).tolist() == [[0, 255], [51, 255]]
