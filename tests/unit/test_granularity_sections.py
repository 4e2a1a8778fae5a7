"""The sections of granularities: what a study may say, and what follows from it."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from common.granularities import (
    AnyGranularity,
    ImagesGranularity,
    MarkersGranularity,
    NotesGranularity,
    SequencesGranularity,
    SeriesGranularity,
    TabularGranularity,
    TokenGranularity,
)

NUMBER = {"kind": "numeric", "unit": "bpm", "range": [20, 220]}
CATEGORY = {"kind": "categorical", "categories": ["never", "now"]}
LEAST: dict[str, dict[str, Any]] = {
    "tabular": {"kind": "tabular", "features": {"heart_rate": NUMBER}},
    "series": {"kind": "series", "signals": {"heart_rate": NUMBER}},
    "images": {"kind": "images"},
    "markers": {"kind": "markers", "markers": ["rs1", "rs2"]},
    "notes": {"kind": "notes"},
    "sequences": {"kind": "sequences"},
}
CLASS_OF = {
    "tabular": TabularGranularity,
    "series": SeriesGranularity,
    "images": ImagesGranularity,
    "markers": MarkersGranularity,
    "notes": NotesGranularity,
    "sequences": SequencesGranularity,
}
KINDS = sorted(LEAST)


def section(kind: str, **fields: object) -> Any:
    return TypeAdapter(AnyGranularity).validate_python({**LEAST[kind], **fields})


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_chooses_the_section(kind: str) -> None:
    assert type(section(kind)) is CLASS_OF[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_section_reads_back_from_its_own_dump(kind: str) -> None:
    found = section(kind)
    dumped = found.model_dump(mode="json", exclude_none=True)
    assert TypeAdapter(AnyGranularity).validate_python(dumped) == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_no_section_knows_is_an_error(kind: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        section(kind, colour="red")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_the_unusable_part_is_a_fraction_below_1(kind: str, fraction: float) -> None:
    with pytest.raises(ValidationError, match="max_unusable_fraction"):
        section(kind, max_unusable_fraction=fraction)


@pytest.mark.parametrize("kind", ["series", "images", "markers", "notes", "sequences"])
def test_only_tables_use_columns_of_the_patients_table(kind: str) -> None:
    assert section(kind).columns == ()


@pytest.mark.parametrize("kind", ["images", "notes", "sequences"])
def test_kinds_without_measured_quantities_have_nothing_to_normalise(kind: str) -> None:
    assert section(kind).numeric == {}


def test_a_table_splits_its_features_in_the_order_of_the_study() -> None:
    features = {"z": CATEGORY, "b": NUMBER, "a": CATEGORY, "c": NUMBER}
    table = section("tabular", features=features)
    assert list(table.numeric) == ["b", "c"]
    assert list(table.categorical) == ["z", "a"]
    assert table.columns == ("z", "b", "a", "c")


@pytest.mark.parametrize(
    "feature",
    [
        {**NUMBER, "range": [220, 20]},
        {**NUMBER, "range": [20, 20]},
        {**NUMBER, "range": [20, float("inf")]},
        {**NUMBER, "infinite": "ignore"},
        {**CATEGORY, "categories": ["never"]},
        {**CATEGORY, "categories": ["now", "now"]},
        {**CATEGORY, "categories": ["now", ""]},
        {**CATEGORY, "categories": ["now", "NA"]},
    ],
)
def test_a_feature_that_cannot_be_meant_is_refused(feature: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        section("tabular", features={"x": feature})


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("tabular", {"features": {}}), ("series", {"signals": {}}), ("markers", {"markers": []})],
)
def test_a_granularity_of_nothing_is_refused(kind: str, fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        section(kind, **fields)


@given(st.integers(-2000, 2000), st.integers(1, 5000), st.integers(1, 400))
def test_the_steps_cover_the_window_and_none_lies_beyond_it(
    start: int, minutes: int, step: int
) -> None:
    series = section("series", start_minutes=start, end_minutes=start + minutes, step_minutes=step)
    assert (series.num_steps - 1) * step < minutes <= series.num_steps * step


@pytest.mark.parametrize(
    "window",
    [
        {"start_minutes": 60, "end_minutes": 60},
        {"start_minutes": 60, "end_minutes": 0},
        {"step_minutes": 0.1},  # 14400 steps
        {"end_minutes": 1e308, "step_minutes": 1e-308},  # more than a float can count
        {"start_minutes": -1.7e308, "end_minutes": 1.7e308, "step_minutes": 1},
    ],
)
def test_a_window_without_steps_or_with_too_many_is_refused(window: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="1 to 10000 steps"):
        section("series", **window)


def test_ten_thousand_steps_are_accepted() -> None:
    assert section("series", end_minutes=10_000, step_minutes=1).num_steps == 10_000


def test_the_signals_of_a_series_are_what_is_normalised() -> None:
    signals = {"b": NUMBER, "a": {**NUMBER, "range": [0, 1]}}
    assert [(k, f.range) for k, f in section("series", signals=signals).numeric.items()] == [
        ("b", (20, 220)),
        ("a", (0, 1)),
    ]


@pytest.mark.parametrize(
    ("channels", "smallest"), [([8], 2), ([8, 8], 4), ([8, 8, 8], 8), ([8] * 5, 32)]
)
def test_an_image_is_as_large_as_its_halvings_need(channels: list[int], smallest: int) -> None:
    assert section("images", channels=channels, size=[smallest, 200]).size[0] == smallest
    with pytest.raises(ValidationError, match=f"at least {smallest} pixels"):
        section("images", channels=channels, size=[200, smallest - 1])


def test_markers_share_one_range_and_unit() -> None:
    markers = section("markers", markers=["rs1", "1:2:A:C"], range=[-8, 8], unit="log2")
    assert list(markers.numeric) == ["rs1", "1:2:A:C"]
    assert {(f.range, f.unit) for f in markers.numeric.values()} == {((-8, 8), "log2")}


@pytest.mark.parametrize("fields", [{"markers": ["a", "a"]}, {"markers": [""]}, {"range": [2, 0]}])
def test_markers_that_repeat_or_have_no_name_or_range_are_refused(
    fields: dict[str, object],
) -> None:
    with pytest.raises(ValidationError):
        section("markers", **fields)


@pytest.mark.parametrize("kind", ["notes", "sequences"])
def test_heads_must_divide_the_width_of_a_transformer_alone(kind: str) -> None:
    with pytest.raises(ValidationError, match="num_heads divides, found 6 and 4"):
        section(kind, encoder="transformer", hidden=6, num_heads=4)
    for encoder in ("lstm", "bag"):
        assert section(kind, encoder=encoder, hidden=6, num_heads=4).hidden == 6


@pytest.mark.parametrize("kind", ["notes", "sequences"])
@pytest.mark.parametrize("num", [0, 8193])
def test_tokens_are_bounded(kind: str, num: int) -> None:
    with pytest.raises(ValidationError, match="max_tokens"):
        section(kind, max_tokens=num)


def test_a_vocabulary_replaces_hashing() -> None:
    assert section("notes", num_buckets=100).num_codes == 102
    assert section("notes", num_buckets=100, vocabulary=["asthma", "copd", "c19"]).num_codes == 5


@pytest.mark.parametrize("word", ["Asthma", "two words", ""])
@pytest.mark.parametrize("field", ["vocabulary", "masked_words"])
def test_words_are_written_as_they_are_read(field: str, word: str) -> None:
    with pytest.raises(ValidationError, match=field):
        section("notes", **{field: [word]})


@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_k_mer_has_a_code_beside_padding_and_unknown(k: int) -> None:
    assert section("sequences", k=k).num_codes == 2 + len(set(product("ACGT", repeat=k)))


@pytest.mark.parametrize("k", [0, 9])
def test_k_mers_are_of_1_to_8_letters(k: int) -> None:
    with pytest.raises(ValidationError, match="k"):
        section("sequences", k=k)


def test_tokens_of_no_kind_have_no_codes() -> None:
    with pytest.raises(NotImplementedError):
        _ = TokenGranularity().num_codes
