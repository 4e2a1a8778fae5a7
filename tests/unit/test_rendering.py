"""Files of simulated patients: each carries its summaries, and each hospital has its own habits."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from common.granularities import MarkersGranularity, NotesGranularity, SequencesGranularity
from common.study_file import load_study
from simulations.cohort import SiteEffects, simulate_site
from simulations.rendering.images import render_images, smooth
from simulations.rendering.markers import causal_markers, render_markers
from simulations.rendering.notes import render_notes
from simulations.rendering.phrases import FILLERS, THEMES
from simulations.rendering.scene import Rendering, Scene
from simulations.rendering.sequences import motifs_of, render_sequences
from simulations.rendering.series import render_series
from simulations.rendering.tables import render_table

DEMO = load_study("demo")
PLAIN = SiteEffects(name="plain", num_patients=0, cell_missing=0.0)
NUM = 600


def scene(granularity: str = "x", *, num: int = NUM, seed: int = 1, **effects: object) -> Scene:
    shown_BK = np.random.default_rng(7).normal(size=(num, 3))
    return Scene(
        study="demo",
        name=granularity,
        seed=seed,
        effects=replace(PLAIN, **effects),
        ids=[f"p{i:04d}" for i in range(num)],
        shown_BK=shown_BK,
    )


def explained(features: object, target_B: np.ndarray) -> float:
    """The part of the variance of a summary that a linear model of these features explains."""
    X = np.column_stack([np.ones(len(target_B)), np.asarray(features, dtype=float)])
    left_B = target_B - X @ np.linalg.lstsq(X, target_B, rcond=None)[0]
    return float(1 - left_B.var() / target_B.var())


def pixels(rendering: Rendering) -> np.ndarray:
    return np.stack(list(rendering.images.values())) / 255


def test_features_of_a_table_carry_every_summary() -> None:
    at = scene("labs")
    table = render_table(DEMO.granularities["labs"], at).columns
    coded = pd.get_dummies(table)
    for shown_B in at.shown_BK.T:
        assert explained(coded, shown_B) > 0.5


def test_images_carry_brightness_height_and_texture() -> None:
    at = scene("imaging")
    picture_BHW = pixels(render_images(DEMO.granularities["imaging"], at))
    soft_BHW = smooth(smooth(picture_BHW.astype(np.float32)))
    assert (
        explained(soft_BHW.max(axis=(1, 2)) - soft_BHW.mean(axis=(1, 2)), at.shown_BK[:, 0]) > 0.5
    )
    # Against the tissue to the sides, which brightens downwards.
    spot_BH = soft_BHW[:, :, 12:20].mean(axis=2) - soft_BHW[:, :, [0, 1, -2, -1]].mean(axis=2)
    assert explained(spot_BH.argmax(axis=1), at.shown_BK[:, 1]) > 0.4
    fine_B = np.log((picture_BHW - smooth(picture_BHW.astype(np.float32))).std(axis=(1, 2)))
    assert explained(fine_B, at.shown_BK[:, 2]) > 0.5
    # Shown in no other way: the mean alone says nothing of the texture.
    assert explained(picture_BHW.mean(axis=(1, 2)), at.shown_BK[:, 2]) < 0.05


def test_series_carry_trend_variability_and_level() -> None:
    at = scene("vitals")
    table = render_series(DEMO.granularities["vitals"], at).table
    first = table[table["signal"] == "heart_rate_bpm"]
    lines = {}
    for patient, rows in first.groupby("patient_id"):
        slope, level = np.polyfit(rows["minutes"] - 720, rows["value"], 1)
        left = rows["value"] - level - slope * (rows["minutes"] - 720)
        lines[patient] = (slope, np.log(left.std() + 1), level)
    features = pd.DataFrame(lines).T.reindex(at.ids)
    features = features.fillna(features.mean())
    for k, least in enumerate([0.3, 0.3, 0.3]):
        assert explained(features[k], at.shown_BK[:, k]) > least
        others = [features[j] for j in range(3) if j != k]
        assert explained(np.column_stack(others), at.shown_BK[:, k]) < 0.1


def test_some_patients_are_measured_often_and_some_rarely() -> None:
    table = render_series(DEMO.granularities["vitals"], scene("vitals")).table
    num_readings = table.groupby("patient_id").size()
    assert num_readings.quantile(0.9) > 3 * num_readings.quantile(0.1)
    granularity = DEMO.granularities["vitals"]
    assert table["minutes"].between(0, granularity.end_minutes, inclusive="left").all()
    for signal, feature in granularity.signals.items():
        values = table.loc[table["signal"] == signal, "value"]
        assert values.between(*feature.range).all()
        assert values.nunique() > 20


def test_a_hospital_that_measures_twice_as_often_has_twice_the_readings() -> None:
    sizes = [
        len(render_series(DEMO.granularities["vitals"], scene(measurement_rate=rate)).table)
        for rate in (1.0, 2.0)
    ]
    assert sizes[1] / sizes[0] == pytest.approx(2, rel=0.2)


def test_unmeasured_readings_are_left_out() -> None:
    whole = render_series(DEMO.granularities["vitals"], scene())
    half = render_series(DEMO.granularities["vitals"], scene(cell_missing=0.5))
    assert len(half.table) / len(whole.table) == pytest.approx(0.5, abs=0.02)
    nobody = render_series(DEMO.granularities["vitals"], scene(num=30, cell_missing=0.97))
    with_readings = set(nobody.table["patient_id"])
    assert 0 < len(with_readings) < 30
    assert nobody.observed_B.sum() == len(with_readings)


def grades(texts: "pd.Series[str]", theme: int) -> "pd.Series[float]":
    """The mean grade of a theme's phrases in each text; missing where it is not mentioned."""
    found = pd.DataFrame(
        {
            grade: sum(texts.str.lower().str.count(phrase) for phrase in phrases)
            for grade, phrases in enumerate(THEMES[theme])
        }
    )
    return (found * np.arange(4)).sum(axis=1) / found.sum(axis=1)


def test_notes_carry_a_summary_in_the_phrases_of_each_theme() -> None:
    at = scene("notes")
    table = render_notes(DEMO.granularities["notes"], at).table
    texts = table.groupby("patient_id")["text"].agg(" ".join).reindex(at.ids)
    for theme in range(3):
        grade_B = grades(texts, theme)
        mentioned_B = grade_B.notna().to_numpy()
        assert mentioned_B.mean() > 0.8
        shown_B = at.shown_BK[mentioned_B, theme]
        assert explained(grade_B[mentioned_B], shown_B) > 0.5
    assert 1 < table.groupby("patient_id").size().mean() < 4
    assert (table.groupby("patient_id")["minutes"].diff().dropna() >= 0).all()


def test_a_hospital_has_its_own_synonyms_and_verbosity() -> None:
    def shares(**effects: object) -> np.ndarray:
        text = " ".join(render_notes(DEMO.granularities["notes"], scene(**effects)).table["text"])
        counts = np.array([[text.lower().count(p) for p in grade] for grade in THEMES[0]])
        return counts / counts.sum(axis=1, keepdims=True)

    assert abs(shares(name="a") - shares(name="b")).max() < 0.15
    strong = abs(shares(name="a", note_style=1.0) - shares(name="b", note_style=1.0))
    assert strong.max() > 0.4
    lengths = [
        render_notes(DEMO.granularities["notes"], scene(name=name, note_style=2.0))
        .table["text"]
        .str.len()
        .mean()
        for name in "abcd"
    ]
    assert max(lengths) > 1.2 * min(lengths)


def test_phrases_name_nobody_and_hold_no_number() -> None:
    phrases = [p for theme in THEMES for grade in theme for p in grade] + list(FILLERS)
    assert len(set(phrases)) == len(phrases)
    assert all(phrase == phrase.lower() and phrase.replace(" ", "").isalpha() for phrase in phrases)


def test_notes_of_a_study_with_a_vocabulary_are_of_its_words() -> None:
    words = tuple(f"word{i}" for i in range(40))
    granularity = NotesGranularity(
        kind="notes", vocabulary=words, start_minutes=-60.0, end_minutes=0.0
    )
    at = scene("notes")
    table = render_notes(granularity, at).table
    assert set(" ".join(table["text"]).split()) <= set(words)
    assert table["minutes"].between(-60, 0, inclusive="left").all()
    texts = table.groupby("patient_id")["text"].agg(" ".join).reindex(at.ids).str.split()
    counts = np.array([[text.count(word) for word in words] for text in texts])
    assert explained(counts, at.shown_BK[:, 0]) > 0.4


@pytest.mark.parametrize(("unit", "bounds"), [("dosage", (0.0, 2.0)), ("log2", (0.0, 16.0))])
def test_a_few_markers_among_many_carry_the_summaries(unit: str, bounds: tuple) -> None:
    granularity = MarkersGranularity(
        kind="markers", markers=tuple(f"m{i}" for i in range(60)), unit=unit, range=bounds
    )
    at = scene("genomics")
    table = render_markers(granularity, at).table.drop(columns="patient_id").astype(float)
    causal = causal_markers(at, 60)
    assert len(causal) == 6
    for turn, shown_B in enumerate(at.shown_BK.T):
        assert explained(table.iloc[:, causal[turn::3]], shown_B) > 0.4
    # Markers of blocks without a causal one say no more than 40 columns of noise would.
    silent = [m for m in range(60) if m // 5 not in set(causal // 5)]
    assert len(silent) >= 30
    assert explained(table.iloc[:, silent], at.shown_BK[:, 0]) < 0.15
    correlation = table.corr().to_numpy()
    assert np.mean([correlation[m, m + 1] for m in range(60) if m % 5 != 4]) > 0.2
    assert abs(np.mean([correlation[m, m + 1] for m in range(4, 59, 5)])) < 0.1
    assert table.min().min() >= bounds[0]
    assert table.max().max() <= bounds[1]
    if unit == "dosage":
        assert set(np.unique(table)) == {0.0, 1.0, 2.0}


def test_an_assay_batch_shifts_each_marker_for_all_patients_of_a_hospital() -> None:
    granularity = DEMO.granularities["genomics"]

    def means(**effects: object) -> np.ndarray:
        table = render_markers(granularity, scene(**effects)).table
        return table[list(granularity.markers)].astype(float).mean().to_numpy()

    # Standard error of the difference of two means: about .04.
    assert abs(means(name="a") - means(name="b")).max() < 0.16
    assert abs(means(name="a") - means(name="b", batch_shift=0.5)).max() > 0.3


def test_as_many_markers_are_unmeasured_as_was_asked() -> None:
    table = render_markers(DEMO.granularities["genomics"], scene(cell_missing=0.2)).table
    assert table.isna().mean().mean() == pytest.approx(0.2, abs=0.02)


def test_how_often_motifs_occur_carries_the_summaries() -> None:
    granularity = SequencesGranularity(kind="sequences", k=4, max_tokens=400)
    at = scene("genome")
    lines = render_sequences(granularity, at).text.splitlines()
    assert lines[0::2] == [f">{i}" for i in at.ids]
    assert set("".join(lines[1::2])) == set("ACGT")
    motifs = [bytes(motif).decode() for motif in motifs_of(granularity, at)]
    counts = np.array([[line.count(motif) for motif in motifs] for line in lines[1::2]])
    for shown_B in at.shown_BK.T:
        assert explained(np.log1p(counts), shown_B) > 0.25
    unread = render_sequences(granularity, scene("genome", measurement_shift=1.0)).text
    assert 0 < unread.count("N") / len(unread) < 0.03


def test_scanners_differ_between_hospitals_and_not_between_patients() -> None:
    def means(**effects: object) -> np.ndarray:
        shown = pixels(render_images(DEMO.granularities["imaging"], scene(num=100, **effects)))
        return shown.mean(axis=(1, 2))

    assert abs(means(name="a").mean() - means(name="b").mean()) < 0.01
    shifted = [means(name=name, scanner_shift=0.3) for name in "abcdef"]
    assert np.std([m.mean() for m in shifted]) > 2 * np.mean([m.std() for m in shifted]) / 10


def test_a_patient_has_up_to_as_many_images_as_the_study_uses() -> None:
    granularity = DEMO.granularities["imaging"].model_copy(
        update={"max_images": 3, "size": (8, 16)}
    )
    rendering = render_images(granularity, scene("imaging", num=200))
    num_images = rendering.table.groupby("patient_id").size()
    assert set(num_images) == {1, 2, 3}
    assert set(rendering.table["file"]) == {f"imaging/{file}" for file in rendering.images}
    assert {image.shape for image in rendering.images.values()} == {(8, 16)}
    assert {image.dtype for image in rendering.images.values()} == {np.dtype(np.uint8)}


def test_large_images_are_rendered_a_few_at_a_time_and_differ() -> None:
    granularity = DEMO.granularities["imaging"].model_copy(update={"size": (1024, 1024)})
    images = list(render_images(granularity, scene(num=6)).images.values())
    assert len(images) == 6
    assert all(not np.array_equal(images[0], image) for image in images[1:])


def test_fractures_show_in_the_files_of_both_granularities_together_only() -> None:
    effects = SiteEffects(name="a", num_patients=1500, granularity_missing=0.0, cell_missing=0.0)
    site = simulate_site(load_study("demo-fracture"), effects, seed=1)
    broken_B = (site.patients["fracture"] == "yes").to_numpy()
    soft_BHW = smooth(pixels(site.renderings["xray"]).astype(np.float32))
    bright_B = soft_BHW.max(axis=(1, 2)) - soft_BHW.mean(axis=(1, 2))
    table = site.renderings["movement"].table
    stride = table[table["signal"] == "stride_m"]
    slope_B = np.array(
        [
            np.polyfit(rows["minutes"], rows["value"], 1)[0]
            for _, rows in stride.groupby("patient_id")
        ]
    )
    for alone_B in (bright_B, slope_B):
        assert roc_auc_score(broken_B, alone_B) == pytest.approx(0.5, abs=0.06)
    together_B = (bright_B - np.median(bright_B)) * (slope_B - np.median(slope_B))
    auroc = roc_auc_score(broken_B, together_B)
    assert max(auroc, 1 - auroc) > 0.7
