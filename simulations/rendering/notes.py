"""Notes of simulated patients: the choice of words carries the summaries.

Each summary is a theme, written about in one of four grades. Synonyms and verbosity are habits of
the hospital. Where the study has a vocabulary, notes are of its words, chosen by the summaries.

Letters of shapes: B patients, K summaries (themes), N notes, W words of a vocabulary.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.granularities import NotesGranularity
from simulations.rendering.phrases import FILLERS, THEMES
from simulations.rendering.scene import Floats, Rendering, Scene

_MAX_NOTES = 4
_GRADES = np.array([-0.8, 0.0, 0.8])  # where one grade ends and the next begins
_WORDS_OF_A_NOTE = 12
_WORDS_USED = 300  # of a vocabulary


def render_notes(granularity: NotesGranularity, scene: Scene) -> Rendering:
    """A table of notes, one to four of a patient: patient_id, minutes, text."""
    random = scene.patients()
    num_patients = len(scene.ids)
    patient_N = np.repeat(
        np.arange(num_patients), random.integers(1, _MAX_NOTES + 1, size=num_patients)
    )
    start = granularity.start_minutes if granularity.start_minutes is not None else 0.0
    end = granularity.end_minutes if granularity.end_minutes is not None else start + 1440.0
    minutes_N = np.floor(start + (end - start) * random.uniform(size=len(patient_N)))
    order_N = np.lexsort((minutes_N, patient_N))
    shown_NK = scene.shown_BK[patient_N]
    if granularity.vocabulary:
        texts = _of_vocabulary(granularity.vocabulary[:_WORDS_USED], shown_NK, scene, random)
    else:
        texts = _of_phrases(shown_NK, scene, random)
    table = pd.DataFrame(
        {
            "patient_id": np.asarray(scene.ids, dtype=object)[patient_N],
            "minutes": np.maximum(minutes_N[order_N], start),
            "text": texts,
        }
    )
    return Rendering(table=table, observed_B=np.ones(num_patients, dtype=np.bool_))


def _of_phrases(shown_NK: Floats, scene: Scene, random: np.random.Generator) -> list[str]:
    shape = shown_NK.shape
    grade_NK = np.searchsorted(_GRADES, shown_NK + 0.3 * random.normal(size=shape))
    synonym_NK = np.stack(
        [
            _habitual(habits, grade_NK[:, theme], random)
            for theme, habits in enumerate(_habits(scene))
        ],
        axis=1,
    )
    mentioned_NK = random.uniform(size=shape) < 0.8
    mentioned_NK[np.arange(len(shown_NK)), random.integers(shape[1], size=len(shown_NK))] = True
    verbosity = 1.0 + abs(scene.effects.note_style * scene.instrument("verbosity").normal())
    num_fillers_N = random.poisson(verbosity, size=len(shown_NK))
    texts = []
    for grade_K, synonym_K, mentioned_K, num_fillers in zip(
        grade_NK, synonym_NK, mentioned_NK, num_fillers_N, strict=True
    ):
        said = [THEMES[k][grade_K[k]][synonym_K[k]] for k in range(shape[1]) if mentioned_K[k]]
        said += [FILLERS[f] for f in random.integers(len(FILLERS), size=num_fillers)]
        texts.append(". ".join(said[i].capitalize() for i in random.permutation(len(said))) + ".")
    return texts


def _habits(scene: Scene) -> list[Floats]:
    """By theme: the probability of each synonym (grades, synonyms) at this hospital."""
    habits = []
    for theme, grades in enumerate(THEMES):
        random = scene.instrument("synonyms", theme)
        liking = 3 * scene.effects.note_style * random.normal(size=(len(grades), len(grades[0])))
        odds = np.exp(liking)
        habits.append(odds / odds.sum(axis=1, keepdims=True))
    return habits


def _habitual(
    habits: Floats, grade_N: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.int64]:
    reached = habits.cumsum(axis=1)[grade_N] < random.uniform(size=(len(grade_N), 1))
    chosen_N: NDArray[np.int64] = np.minimum(reached.sum(axis=1), habits.shape[1] - 1)
    return chosen_N


def _of_vocabulary(
    words: tuple[str, ...], shown_NK: Floats, scene: Scene, random: np.random.Generator
) -> list[str]:
    loading_KW = scene.process("words").normal(size=(shown_NK.shape[1], len(words)))
    habit_W = scene.effects.note_style * scene.instrument("words").normal(size=len(words))
    odds_NW = np.exp(shown_NK @ loading_KW + habit_W)
    reached_NW = (odds_NW / odds_NW.sum(axis=1, keepdims=True)).cumsum(axis=1)
    texts = []
    for reached_W in reached_NW:
        chosen = np.searchsorted(reached_W, random.uniform(size=_WORDS_OF_A_NOTE))
        texts.append(" ".join(words[min(w, len(words) - 1)] for w in chosen))
    return texts
