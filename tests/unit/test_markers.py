"""The reader of markers: tables, VCF and PLINK by hand and against each other, and their faults."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.findings import Finding
from client.sources.markers import MARKERS
from client.sources.source import GranularityArrays, Source
from common.granularities import MarkersGranularity
from tests.unit.marker_builders import Record, plink_files, vcf_text

IDS = ("a", "b", "c")


def _granularity(markers: tuple[str, ...], **keys: object) -> MarkersGranularity:
    base = {"kind": "markers", "markers": markers, "max_unusable_fraction": 0.5}
    return MarkersGranularity.model_validate(base | keys)


def _read(
    path: Path, markers: tuple[str, ...], ids: tuple[str, ...] = IDS, **keys: object
) -> tuple[GranularityArrays, list[Finding]]:
    source = Source(granularity="genomics", path=path, ids=pd.Index(ids))
    return MARKERS.read(source, _granularity(markers, **keys))


def _values(arrays: GranularityArrays) -> NDArray[np.float64]:
    return np.where(arrays["observed_BF"], arrays["numeric_BF"], np.nan).astype(np.float64)


def _found(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.severity, f.found) for f in findings]


def _table(folder: Path, text: str) -> Path:
    path = folder / "genomics.csv"
    path.write_text(text, encoding="utf-8")
    return path


class TestTables:
    def test_rows_and_columns_stand_in_the_order_of_the_study(self, tmp_path: Path) -> None:
        path = _table(tmp_path, "m2,patient_id,other,m1\n1,c,x,0\n2,a,y,0.5\n")
        arrays, findings = _read(path, ("m1", "m2"))
        assert findings == []
        nan = np.nan
        np.testing.assert_array_equal(_values(arrays), [[0.5, 2], [nan, nan], [0, 1]])
        assert arrays["numeric_BF"].dtype == np.float32
        assert arrays["present_B"].tolist() == [True, False, True]

    def test_a_missing_value_is_not_observed_and_holds_zero(self, tmp_path: Path) -> None:
        path = _table(tmp_path, "patient_id,m1,m2\na,,2\nb,NA,nan\n")
        arrays, _ = _read(path, ("m1", "m2"))
        assert arrays["observed_BF"].tolist() == [[False, True], [False, False], [False, False]]
        assert arrays["numeric_BF"][~arrays["observed_BF"]].tolist() == [0] * 5
        assert arrays["present_B"].tolist() == [True, False, False]

    def test_values_outside_are_clipped_and_counted_over_all_markers(self, tmp_path: Path) -> None:
        path = _table(tmp_path, "patient_id,m1,m2\na,-1,3\nb,1,1\nc,1,1\n")
        arrays, findings = _read(path, ("m1", "m2"))
        assert arrays["numeric_BF"][0].tolist() == [0, 2]
        assert _found(findings) == [("warning", "2 of 6 values outside")]
        _, findings = _read(path, ("m1", "m2"), max_unusable_fraction=0.3)
        assert _found(findings) == [("error", "2 of 6 values outside")]

    @pytest.mark.parametrize(
        ("text", "severity", "found"),
        [
            ("patient_id,m1,m2\na,x,1\nb,1,high\n", "error", "2 cells of text"),
            ("patient_id,m1,m2\na,inf,1\nb,1,-inf\n", "error", "2 infinite values"),
            ("patient_id,m1,m2\na,1,1\na,1,1\n", "error", "1 rows that repeat one"),
            ("id,m1,m2\na,1,1\n", "error", "none"),
            ("patient_id,m1\na,1\n", "warning", "1 missing"),
            ("patient_id,x\na,1\n", "warning", "none"),
            ("patient_id,m1,m2\nz,x,1\nb,1,1\n", "warning", "1 of 2 rows of nobody in the "),
        ],
    )
    def test_what_is_wrong_is_counted(
        self, tmp_path: Path, text: str, severity: str, found: str
    ) -> None:
        _, findings = _read(_table(tmp_path, text), ("m1", "m2"))
        assert [f.severity for f in findings] == [severity]
        assert findings[0].found.startswith(found)

    def test_a_gzipped_table_is_read_and_a_damaged_one_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "genomics.csv.gz"
        whole = gzip.compress(b"patient_id,m1\na,1\n", mtime=0)
        path.write_bytes(whole)
        arrays, findings = _read(path, ("m1",))
        assert (arrays["numeric_BF"][0, 0], findings) == (1, [])
        path.write_bytes(whole[:-9])
        _, findings = _read(path, ("m1",))
        assert [f.severity for f in findings] == ["error"]

    def test_columns_that_say_who_a_patient_is_are_told(self, tmp_path: Path) -> None:
        path = _table(tmp_path, "patient_id,m1,surname,address\na,1,x,y\n")
        _, findings = _read(path, ("m1", "address"))  # what the study asks for is agreed to
        assert [f.found for f in findings if "who a patient is" in f.expected] == [
            "column 3 (name)"
        ]

    def test_a_parquet_table_is_read(self, tmp_path: Path) -> None:
        duckdb = pytest.importorskip("duckdb")
        path = tmp_path / "genomics.parquet"
        table = "(SELECT 'b' AS patient_id, 1.5 AS m1, 2 AS m2)"
        duckdb.sql(f"COPY {table} TO '{path}' (FORMAT parquet)")
        arrays, findings = _read(path, ("m1", "m2"))
        assert findings == []
        assert arrays["numeric_BF"][1].tolist() == [1.5, 2]

    def test_no_file_is_an_error(self, tmp_path: Path) -> None:
        for name in ("x.csv", "x.vcf", "x.bed"):
            _, findings = _read(tmp_path / name, ("m1",))
            assert {f.severity for f in findings} == {"error"}


def _vcf(folder: Path, records: list[Record], samples: tuple[str, ...] = IDS) -> Path:
    path = folder / "genomics.vcf"
    path.write_text(vcf_text(samples, records))
    return path


def _column(folder: Path, form: str, cells: list[str], alts: str = "G", ref: str = "A") -> object:
    """The dosages of 1:5:A:G in the cells of as many patients."""
    ids = tuple(f"p{i}" for i in range(len(cells)))
    record: Record = ("1", "5", "rs1", ref, alts, form, cells)
    path = folder / "genomics.vcf"
    path.write_text(vcf_text(ids, [record]))
    arrays, findings = _read(path, ("1:5:A:G",), ids)
    assert findings == []
    return [None if np.isnan(v) else float(v) for v in _values(arrays)[:, 0]]


class TestVcf:
    def test_the_dosage_is_the_count_of_the_alt_allele(self, tmp_path: Path) -> None:
        cells = ["0/0", "0/1", "1/0", "1/1", "0|1", "1|1", "|0|1", "/1/1"]
        assert _column(tmp_path, "GT", cells) == [0, 1, 1, 2, 1, 2, 1, 2]

    def test_missing_genotypes_are_missing_also_in_part(self, tmp_path: Path) -> None:
        assert _column(tmp_path, "GT", ["./.", ".", "./1", ".|.", "0/1"]) == [None] * 4 + [1]

    def test_a_haploid_genotype_has_one_copy(self, tmp_path: Path) -> None:
        assert _column(tmp_path, "GT", ["0", "1"]) == [0, 1]

    def test_one_alt_of_several_is_counted(self, tmp_path: Path) -> None:
        cells = ["0/1", "1/2", "2/2", "0/0", "3/2"]
        assert _column(tmp_path, "GT", cells, alts="T,G,C") == [0, 1, 2, 0, 1]

    def test_an_estimate_stands_in_for_a_missing_genotype(self, tmp_path: Path) -> None:
        cells = ["./.:9:1.5", "0/1:9:1.9", "./.:9:.", "./.", "./.:9"]
        assert _column(tmp_path, "GT:DP:DS", cells) == [1.5, 1, None, None, None]
        assert _column(tmp_path, "DS", ["0.25", "."]) == [0.25, None]
        assert _column(tmp_path, "GT:DS", ["./.:0.5,1.25", "./.:1,."], alts="T,G") == [1.25, None]

    def test_a_record_without_gt_and_ds_is_missing(self, tmp_path: Path) -> None:
        assert _column(tmp_path, "DP", ["12", "9"]) == [None, None]

    def test_markers_are_named_by_id_or_by_alleles(self, tmp_path: Path) -> None:
        records: list[Record] = [
            ("1", "5", "rs1;rs7", "A", "G", "GT", ["0/1", "1/1", "0/0"]),
            ("1", "6", ".", "C", "T", "GT", ["1/1", "0/0", "0/1"]),
            ("2", "9", "rs3", "C", "T", "GT", ["1/1", "1/1", "1/1"]),
        ]
        arrays, findings = _read(_vcf(tmp_path, records), ("1:6:C:T", "rs7", "rs1"))
        assert findings == []
        assert arrays["numeric_BF"].tolist() == [[2, 1, 1], [0, 2, 2], [1, 0, 0]]

    def test_an_id_that_reads_like_the_alleles_is_the_same_marker(self, tmp_path: Path) -> None:
        records: list[Record] = [("1", "5", "1:5:A:G", "A", "G", "GT", ["0/1", "1/1", "0/0"])]
        arrays, findings = _read(_vcf(tmp_path, records), ("1:5:A:G",))
        assert (arrays["numeric_BF"][:, 0].tolist(), findings) == ([1, 2, 0], [])

    def test_an_id_of_several_alleles_or_records_is_missing_and_counted(
        self, tmp_path: Path
    ) -> None:
        cells = ["0/1"] * 3
        records: list[Record] = [
            ("1", "5", "rs1", "A", "G,T", "GT", cells),
            ("1", "6", "rs2", "A", "G", "GT", cells),
            ("1", "6", "rs2", "A", "T", "GT", cells),
            ("1", "7", "rs3", "A", "T", "GT", cells),
        ]
        arrays, findings = _read(_vcf(tmp_path, records), ("rs1", "rs2", "rs3", "1:6:A:T"))
        assert arrays["observed_BF"].tolist() == [[False, False, True, True]] * 3
        assert _found(findings) == [
            ("warning", "2 that stand in several records, or with several alleles")
        ]

    def test_samples_are_put_in_the_order_of_the_patients(self, tmp_path: Path) -> None:
        records: list[Record] = [("1", "5", "rs1", "A", "G", "GT", ["0/1", "1/1", "0/0"])]
        arrays, findings = _read(_vcf(tmp_path, records, ("c", "x", "a")), ("rs1",))
        nan = np.nan
        np.testing.assert_array_equal(_values(arrays)[:, 0], [0, nan, 1])
        assert _found(findings) == [("warning", "1 of 3 samples of nobody in the patients' table")]

    @pytest.mark.parametrize(
        ("record", "found"),
        [
            (("1", "5", "rs1", "A", "G", "GT", ["0/1", "0/1"]), "1 other records"),
            (("1", "5", "rs1", "A", "G", "GT", []), "1 other records"),
            (("1", "5", "rs1", "A", "G", "GT", ["0/x", "0/2", "0/0"]), "2 other values"),
            (("1", "5", "rs1", "A", "G", "GT", ["", "/", "0/0/"]), "3 other values"),
            (("1", "5", "rs1", "A", "G", "DS", ["x", "1,1", "inf"]), "3 other values"),
        ],
    )
    def test_what_is_malformed_is_counted(self, tmp_path: Path, record: Record, found: str) -> None:
        _, findings = _read(_vcf(tmp_path, [record]), ("rs1",))
        assert ("error", found) in _found(findings)

    def test_a_repeated_sample_is_an_error(self, tmp_path: Path) -> None:
        records: list[Record] = [("1", "5", "rs1", "A", "G", "GT", ["0/1", "1/1", "0/0"])]
        _, findings = _read(_vcf(tmp_path, records, ("a", "a", "b")), ("rs1",))
        assert _found(findings) == [("error", "1 samples that repeat one")]

    @pytest.mark.parametrize(
        "content", [b"", b"patient_id,m1\na,1\n", b"##fileformat=VCFv4.2\n", b"\x1f\x8b\x08"]
    )
    def test_what_is_no_vcf_is_an_error(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "genomics.vcf"
        path.write_bytes(content)
        _, findings = _read(path, ("rs1",))
        assert _found(findings) == [("error", "one that ends early or is damaged")]

    def test_a_gzipped_file_gives_the_same_and_a_cut_one_an_error(self, tmp_path: Path) -> None:
        record: Record = ("1", "5", "rs1", "A", "G", "GT", ["0/1", "1/1", "0/0"])
        text = vcf_text(IDS, [record])
        path = tmp_path / "genomics.vcf.gz"
        # Blocks, as bgzip writes them, are members of one gzip file.
        path.write_bytes(gzip.compress(text[:50].encode()) + gzip.compress(text[50:].encode()))
        arrays, findings = _read(path, ("rs1",))
        assert (arrays["numeric_BF"][:, 0].tolist(), findings) == ([1, 2, 0], [])
        path.write_bytes(gzip.compress(text.encode())[:-5])
        _, findings = _read(path, ("rs1",))
        assert [f.severity for f in findings] == ["error"]

    def test_a_line_without_an_end_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("client.sources.line_files.lines_of.__defaults__", (1000,))
        record: Record = ("1", "5", "rs1", "A" * 2000, "G", "GT", ["0/1", "1/1", "0/0"])
        _, findings = _read(_vcf(tmp_path, [record]), ("rs1",))
        assert _found(findings) == [("error", "one that ends early or is damaged")]


dosages = st.sampled_from([0.0, 1.0, 2.0, float("nan")])


class TestPlink:
    @given(data=st.data(), num_samples=st.integers(1, 9), num_variants=st.integers(1, 5))
    def test_bed_table_and_vcf_say_the_same(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        data: st.DataObject,
        num_samples: int,
        num_variants: int,
    ) -> None:
        folder = tmp_path_factory.mktemp("m")
        ids = tuple(f"p{i}" for i in range(num_samples))
        markers = tuple(f"1:{i}:A:G" for i in range(num_variants))
        row = st.lists(dosages, min_size=num_variants, max_size=num_variants)
        count_SV = np.array(data.draw(st.lists(row, min_size=num_samples, max_size=num_samples)))
        variants = [f"1 rs{i} 0 {i} G A" for i in range(num_variants)]
        plink_files(folder / "g.bed", ids, variants, count_SV)
        genotype = {0.0: "0/0", 1.0: "0/1", 2.0: "1/1"}
        records: list[Record] = [
            (
                "1",
                str(i),
                f"rs{i}",
                "A",
                "G",
                "GT",
                [genotype.get(c, "./.") for c in count_SV[:, i]],
            )
            for i in range(num_variants)
        ]
        (folder / "g.vcf").write_text(vcf_text(ids, records))
        table = pd.DataFrame(count_SV, columns=list(markers))
        table.insert(0, "patient_id", list(ids))
        table.to_csv(folder / "g.csv", index=False)
        for name in ("g.bed", "g.vcf", "g.csv"):
            arrays, findings = _read(folder / name, markers, ids)
            assert findings == []
            np.testing.assert_array_equal(_values(arrays), count_SV)

    def test_the_named_alt_is_counted_whether_it_is_a1_or_a2(self, tmp_path: Path) -> None:
        count_SV = np.array([[2.0, 2.0, 2.0], [0.0, 0.0, np.nan]])
        variants = ["1 rs1 0 5 G A", "1 rs2 0 6 A G", "1 rs3 0 7 A G"]
        path = tmp_path / "g.bed"
        plink_files(path, ("a", "b"), variants, count_SV)
        arrays, findings = _read(path, ("1:5:A:G", "1:6:A:G", "rs2", "1:7:A:G"), ("a", "b"))
        assert findings == []
        nan = np.nan
        np.testing.assert_array_equal(_values(arrays), [[2, 0, 2, 0], [0, 2, 0, nan]])

    def test_the_alleles_come_before_an_id_that_reads_alike(self, tmp_path: Path) -> None:
        path = tmp_path / "g.bed"
        plink_files(path, ("a",), ["1 1:5:A:G 0 5 A G"], np.array([[2.0]]))
        arrays, _ = _read(path, ("1:5:A:G",), ("a",))
        assert arrays["numeric_BF"].tolist() == [[0]]

    def test_samples_are_individual_ids_and_strangers_are_counted(self, tmp_path: Path) -> None:
        path = tmp_path / "g.bed"
        plink_files(path, ("z", "c", "a"), ["1 rs1 0 5 G A"], np.array([[0.0], [1.0], [2.0]]))
        arrays, findings = _read(path, ("rs1", "rs9"))
        np.testing.assert_array_equal(_values(arrays)[:, 0], [2, np.nan, 1])
        assert [f.severity for f in findings] == ["warning", "warning"]
        assert "1 missing" in [f.found for f in findings]

    def test_no_patient_and_no_marker_among_them_is_no_crash(self, tmp_path: Path) -> None:
        path = tmp_path / "g.bed"
        plink_files(path, ("z",), ["1 rs1 0 5 G A"], np.array([[0.0]]))
        for marker in ("rs1", "rs9"):
            arrays, findings = _read(path, (marker,))
            assert not arrays["present_B"].any()
            assert "none: all 1 samples are of others" in [
                f.found for f in findings if f.severity == "error"
            ]

    def test_files_that_do_not_fit_one_another_are_an_error(self, tmp_path: Path) -> None:
        def write() -> Path:
            path = tmp_path / "g.bed"
            plink_files(path, IDS, ["1 rs1 0 5 G A"], np.array([[0.0], [1.0], [2.0]]))
            return path

        damages = (
            lambda p: p.write_bytes(p.read_bytes() + b"\0"),
            lambda p: p.write_bytes(b"\x6c\x1b\x00\0"),
            lambda p: p.with_suffix(".bim").write_text(""),
            lambda p: p.with_suffix(".fam").write_text("F a 0 0 0 -9\n" * 5),
            lambda p: p.with_suffix(".fam").write_text("F a 0 0\n"),
        )
        for damage in damages:
            path = write()
            damage(path)
            _, findings = _read(path, ("rs1",))
            assert _found(findings) == [("error", "one that ends early or is damaged")]

    def test_a_missing_companion_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "g.bed"
        plink_files(path, IDS, ["1 rs1 0 5 G A"], np.array([[0.0], [1.0], [2.0]]))
        path.with_suffix(".fam").unlink()
        _, findings = _read(path, ("rs1",))
        assert [(f.severity, f.where, f.found) for f in findings] == [("error", "g.fam", "none")]

    def test_without_bed_reader_the_extra_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "g.bed"
        plink_files(path, IDS, ["1 rs1 0 5 G A"], np.array([[0.0], [1.0], [2.0]]))
        monkeypatch.setitem(sys.modules, "bed_reader", None)
        _, findings = _read(path, ("rs1",))
        assert [f.severity for f in findings] == ["error"]
        assert "wardround[genomics]" in findings[0].action


def test_absent_has_the_shape_of_read(tmp_path: Path) -> None:
    arrays, _ = _read(_table(tmp_path, "patient_id,m1,m2\na,1,1\n"), ("m1", "m2"))
    absent = MARKERS.absent(_granularity(("m1", "m2")), 3)
    assert {k: (v.shape, v.dtype) for k, v in absent.items()} == {
        k: (v.shape, v.dtype) for k, v in arrays.items()
    }
    assert not any(v.any() for v in absent.values())
