"""`wardround results` from a made-up data set in the true format to the page, and on real ones."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.errors import DataError, StudyError
from common.study_file import load_study, override
from simulations.cli import main
from simulations.results.make import make_results
from simulations.results.methods import Method
from simulations.results.page import Page, Split
from simulations.results.pages import page_of
from simulations.results.run import held_out_by, make_parts, open_split
from tests.unit import test_eicu_demo, test_hannover_cxr
from tests.unit.real_data import real_data

_ORGAN_SYSTEM = "admission diagnosis|Operative Organ Systems|Organ System|Musculoskeletal/Skin"


@pytest.fixture(scope="module")
def eicu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 patients of ten hospitals in two regions; half of them die, those with a fast heart."""
    folder = tmp_path_factory.mktemp("eicu")
    hospitals = {str(h): "Midwest" if h < 20 else "South" for h in (*range(10, 15), *range(20, 25))}
    stays, events = [], []
    for i in range(200):
        ends = {"hospitaldischargestatus": "Expired" if i % 20 < 10 else "Alive"}
        ids = {"patientunitstayid": str(i), "uniquepid": f"p{i:03}"}
        days = {"unitdischargeoffset": "600" if i % 7 == 0 else str(1440 + i)}
        stays.append({**ids, **ends, **days, "hospitalid": list(hospitals)[i % 10]})
        events.append((str(i), 1, "a|b"))
    vitals = [(str(i), 5, 100 + i % 20, 60, 80) for i in range(200)]
    admissions = [(str(i), 20, _ORGAN_SYSTEM) for i in range(200)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_eicu_demo, "HOSPITALS", hospitals)
        source = test_eicu_demo.write_source(
            folder, stays, diagnosis=events, vitalaperiodic=vitals, admissiondx=admissions
        )
    # Gradient boosting takes no column of which nothing is known.
    aps = pd.read_csv(source / "apacheapsvar.csv.gz", dtype=str).replace("-1", "5")
    rates = [str(120 - 3 * (i % 20)) for i in range(200)]
    aps.assign(heartrate=rates, ph="7.3", fio2="30", pao2="80", urine="900").to_csv(
        source / "apacheapsvar.csv.gz", index=False
    )
    pred = pd.read_csv(source / "apachepredvar.csv.gz", dtype=str)
    pred.assign(electivesurgery="1").to_csv(source / "apachepredvar.csv.gz", index=False)
    results = pd.DataFrame(
        {
            "patientunitstayid": range(200),
            "apacheversion": "IVa",
            "predictedhospitalmortality": [-1 if i % 4 == 0 else i % 20 / 20 for i in range(200)],
        }
    )
    results.to_csv(source / "apachepatientresult.csv.gz", index=False)
    return source


def _type(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["wardround", "results", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_eicu_from_the_data_set_to_the_page_and_again_from_what_is_there(
    eicu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("eicu-demo", "--source", eicu, "--out", tmp_path, "--rounds", 1, "--jobs", 2)
    assert _type(monkeypatch, *words) == 0
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    rows = _rows(tmp_path)
    people = {
        r["group"]: r["value"]
        for r in rows
        if (r["arm"], r["scope"], r["metric"]) == ("federated", "all, pooled", "num_patients")
        and r["run"] == "out of fold, repeat 0"
        and r["outcome"] == "mortality"
    }
    # Of 200, 50 have no score; 29 (0, 7, …, 196) stayed for less than a day.
    assert people == {
        "all held-out patients": "200.0",
        "patients scored by APACHE IVa": "150.0",
        "stays of at least one day": "171.0",
    }
    arms = {r["arm"] for r in rows if r["group"] == "all held-out patients"}
    for arm in ("federated", "pooled training", "local only", "physiology alone", "notes alone"):
        assert arm in arms
    assert "| physiology alone |" in text
    assert "| APACHE IVa | patients scored by APACHE IVa (150) |" in text
    assert "median of training patients" in text
    assert "With 1 rounds in place of the study's" in text
    assert "## Failures" not in text
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    spoilt = min(parts)
    spoilt.unlink()
    assert _type(monkeypatch, *words) == 0
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    assert [path for path in parts if again[path] != parts[path]] == [spoilt]
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == text


def test_every_patient_is_predicted_once_by_models_that_never_saw_their_hospital(
    eicu: Path, tmp_path: Path
) -> None:
    page = page_of("eicu-demo")
    study = override(load_study("eicu-demo"), training__rounds=1)
    seen: list[str] = []
    for fold in range(5):
        folder = tmp_path / f"{fold}"
        page.importer(eicu, folder, fold)
        held = held_out_by(page.methods[-1], open_split(study, folder, eicu))
        tables = [pd.read_csv(path, dtype=str) for path in folder.glob("*/patients.csv")]
        table = pd.concat(tables).set_index("patient_id")
        trained_on = set(table.loc[table["split"] == "train", "hospital"])
        assert trained_on.isdisjoint(table.loc[held.id_B, "hospital"])
        expired_B = (table.loc[held.id_B, "hospital_mortality"] == "expired").to_numpy()
        assert np.array_equal(held.outcomes["mortality"]["label_B"] == 1, expired_B)
        seen += held.id_B.tolist()
    assert sorted(seen) == [f"p{i:03}" for i in range(200)]


def _hannover(folder: Path) -> Path:
    rows = [
        {
            "patient_id": f"p{i:02}",
            "icu_admission_offset": 1 if i % 3 == 0 else "",
            "crp_offset": 0,
            "crp_val": 100 + i if i % 3 == 0 else 10 + i,
        }
        for i in range(64)
    ]
    return test_hannover_cxr.write_source(folder, rows)


def test_hannover_has_every_seed_on_every_fold(tmp_path: Path) -> None:
    page = page_of("hannover-cxr")
    source = _hannover(tmp_path / "in")
    path = make_results(
        page, source=source, out=tmp_path / "out", num_seeds=2, jobs=2, published=source, rounds=1
    )
    text = path.read_text(encoding="utf-8")
    assert "8 runs of each arm (2 seeds, 4 of 4 test folds)" in text
    assert "19 of the 25 patients" in text
    runs = {r["run"] for r in _rows(tmp_path / "out")}
    assert {"fold 3, seed 1", "out of fold, repeat 1"} <= runs
    assert "all held-out patients (64)" in text


def _raise(_: object) -> dict[str, object]:
    raise DataError("expected")


def _not_a_number(opened) -> dict[str, object]:
    shapes = {s.name: (len(s.cohort.test), 2) for s in opened.hospitals}
    return {"nan": {n: {"intensive_care": np.full(s, np.nan)} for n, s in shapes.items()}}


def test_a_method_that_fails_is_told_and_spares_the_others(tmp_path: Path) -> None:
    whole = page_of("hannover-cxr")
    broken = (Method(name="broken", run=_raise), Method(name="nan", run=_not_a_number))
    page = Page(
        study=whole.study,
        importer=whole.importer,
        methods=(*broken, whole.methods[-1]),
        comparisons=(),
    )
    split = Split(fold=0, seed=0, repeat=0)
    parts = make_parts(
        page,
        load_study(page.study),
        source=_hannover(tmp_path / "in"),
        out=tmp_path / "out",
        splits=[split],
        jobs=1,
        on_progress=lambda *_: None,
    )
    assert [(f.method, f.reason) for f in parts.failures] == [
        ("broken", "error data"),
        ("nan", "predictions are not finite"),
    ]
    assert [list(held.predictions) for held in parts.held[split]] == [["linear model, pooled"]]


def test_an_unknown_page_ends_the_command_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _type(monkeypatch, "nonsense", "--source", tmp_path, "--out", tmp_path) == 1
    assert StudyError.code in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tcga-brca-clinical", "tcga_brca"),
        ("tcga-brca-subtype", "tcga_brca"),
        ("heart-disease-5class", "heart_disease"),
    ],
)
def test_real_data_become_a_page_in_one_round(name: str, data: str, tmp_path: Path) -> None:
    path = make_results(
        page_of(name),
        source=real_data(data),
        out=tmp_path,
        num_seeds=1,
        jobs=2,
        published=real_data("flamby_reference_results"),
        rounds=1,
    )
    text = path.read_text(encoding="utf-8")
    assert "## Failures" not in text
    if name == "tcga-brca-clinical":
        assert "| Cox model with ridge, clinical features, pooled | 0.847 |" in text
        assert "| FLamby, published: FedYogi100 | 0.842 ±" in text
        # 866 and 222 patients, 32 deaths among the latter.
        assert "| **all** | 866 | 222 | 32 | 222 |" in text
