"""`wardround site self-test`: what a hospital's own people see, and what it leaves behind."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import client.work
import simulations.cli
import simulations.rehearsal
from client.config import load_site_config
from client.data import read_cohort
from common.study import Study
from common.study_file import load_study, study_to_toml
from simulations.canaries import Canaries, Search
from simulations.cohort import SiteEffects, write_cohort
from simulations.planting import plant
from simulations.planting_files import plant_image, plant_lines
from tests.unit.image_builders import dicom_bytes, jpeg_bytes, nifti_bytes, png_bytes
from tests.unit.lost_signals import lose_a_signal


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def study_file(tiny_study: Study, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(study_to_toml(tiny_study))
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def type_self_test(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["wardround", "site", "self-test", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        simulations.cli.main()
    return stop.value.code if isinstance(stop.value.code, int) else 0


def test_it_tells_every_field_that_is_sent_and_leaves_nothing(
    new_site: Any,
    study_file: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = new_site()
    before = digests(folder.parent)
    assert type_self_test(monkeypatch, folder, "--study", study_file, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)["self_tests"]
    assert told["hits"] == []
    assert told["num_canaries"] > 200
    assert told["num_patients"] == 60
    assert told["answers"]["ok"] >= 4
    fields = {(f["message"], f["record"], f["name"]): f for f in told["fields"]}
    update = fields["train", "arrays", "flat"]
    assert update["dtype"] == "float32"
    assert update["shape"] == f"({update['size_bytes'] // 4},)"
    assert {key[1:] for key in fields if key[0] == "refusal"} == {
        *(("header", n) for n in ("kind", "run_id", "round", "nonce", "site", "status")),
        ("signature", "signature"),
    }
    assert digests(folder.parent) == before
    assert list(temporary.iterdir()) == []


def test_a_leak_is_told_without_the_value_and_ends_in_1(
    new_site: Any,
    study_file: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = client.work.train

    def leaking(model: Any, patients: Any, *rest: Any, **options: Any) -> Any:
        path = next(temporary.glob("*/hospitals/alpha/patients.csv"))
        client.site.logger.info("training on %s", path.read_text().splitlines()[1])
        return real(model, patients, *rest, **options)

    monkeypatch.setattr(client.work, "train", leaking)
    assert type_self_test(monkeypatch, new_site(), "--study", study_file) == 1
    told = capsys.readouterr().out
    assert "FOUND in logs/rehearsal.log: a value of patients.csv, column patient_id" in told
    assert list(temporary.iterdir()) == []


def test_the_copy_is_deleted_when_it_is_interrupted(
    new_site: Any,
    study_file: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        assert list(temporary.glob("*/hospitals/alpha/patients.csv"))
        raise KeyboardInterrupt

    monkeypatch.setattr(simulations.rehearsal, "write_cohort", interrupted)
    assert type_self_test(monkeypatch, new_site(), "--study", study_file) == 130
    assert list(temporary.iterdir()) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", ["write_cohort", "Signed"])
def test_it_ends_after_a_signal_that_python_has_lost(
    step: str,
    new_site: Any,
    study_file: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    does = getattr(simulations.rehearsal, step)

    def interrupted(*args: Any, **options: Any) -> Any:
        lose_a_signal()
        return does(*args, **options)

    monkeypatch.setattr(simulations.rehearsal, step, interrupted)
    assert type_self_test(monkeypatch, new_site(), "--study", study_file) == 130
    assert list(temporary.iterdir()) == []


def test_without_an_accepted_study_one_must_be_named(
    new_site: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert type_self_test(monkeypatch, new_site()) == 1
    assert "--study" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet"])
def test_a_planted_copy_keeps_its_format_and_can_be_used(
    suffix: str, new_site: Any, tiny_study: Study, tmp_path: Path
) -> None:
    import duckdb

    folder = new_site()
    table = pd.read_csv(folder / "patients.csv", dtype=str)
    (folder / "patients.csv").unlink()
    if suffix == ".parquet":
        with duckdb.connect(":memory:") as connection:
            connection.register("source", table)
            target = folder / "patients.parquet"
            connection.execute(f"COPY source TO '{target}' (FORMAT parquet)")
    else:
        table.to_csv(folder / "patients.csv.gz", index=False)
    text = (folder / "site.toml").read_text().replace("patients.csv", f"patients{suffix}")
    (folder / "site.toml").write_text(text)
    canaries = Canaries(seed=1)
    assert plant(folder, tmp_path / "a", tiny_study, canaries, most_patients=40) == 40
    cohort, findings = read_cohort(load_site_config(tmp_path / "a"), tiny_study)
    assert [f for f in findings if f.severity == "error"] == []
    assert cohort is not None
    assert len(cohort) == 40


def test_copies_of_every_granularity_are_read_as_the_originals(tmp_path: Path) -> None:
    study = load_study("demo")
    write_cohort(study, [SiteEffects(name="ada", num_patients=60)], tmp_path, seed=0)
    plant(tmp_path / "ada", tmp_path / "copy", study, Canaries(seed=1), most_patients=60)
    real, _ = read_cohort(load_site_config(tmp_path / "ada"), study)
    copy, findings = read_cohort(load_site_config(tmp_path / "copy"), study)
    assert [f for f in findings if f.severity == "error"] == []
    assert real is not None
    assert copy is not None
    assert copy.counts() == real.counts()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", png_bytes()),
        ("a.jpg", jpeg_bytes()),
        ("a.dcm", dicom_bytes()),
        ("a.nii", nifti_bytes()),
    ],
)
def test_a_planted_image_has_a_word_in_its_header(
    name: str, content: bytes, tmp_path: Path
) -> None:
    source, target = tmp_path / name, tmp_path / f"planted-{name}"
    source.write_bytes(content)
    canaries = Canaries(seed=1)
    plant_image(source, target, canaries)
    found = {hit.planted for hit in Search(canaries).in_bytes(target.read_bytes(), "the image")}
    assert found == set(canaries.words.values()) != set()


def test_ids_in_genotypes_and_sequences_are_exchanged_for_words(tmp_path: Path) -> None:
    canaries = Canaries(seed=1)
    (tmp_path / "g.vcf").write_bytes(b"#CHROM\tPOS\tp1\tp2\n1\t5\t0/1\t0/0\n")
    (tmp_path / "s.fa").write_bytes(b">p1 first\nACGT\n>p2\nAC\n")
    for name in ("g.vcf", "s.fa"):
        target = tmp_path / f"planted-{name}"
        plant_lines(tmp_path / name, target, {"p1": "w1", "p2": "w2"}, canaries)
    assert (tmp_path / "planted-g.vcf").read_bytes().startswith(b"#CHROM\tPOS\tw1\tw2\n")
    first, second = canaries.words
    planted = (tmp_path / "planted-s.fa").read_text()
    assert planted == f">w1 first {first}\nACGT\n>w2 {second}\nAC\n"
