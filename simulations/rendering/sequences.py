"""Nucleotide sequences of simulated patients: how often three motifs occur carries the summaries.

Letters of shapes: B patients, K summaries, S letters.
"""

import numpy as np
from numpy.typing import NDArray

from common.granularities import SequencesGranularity
from simulations.rendering.scene import Rendering, Scene

_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)
_LONGEST = 600


def render_sequences(granularity: SequencesGranularity, scene: Scene) -> Rendering:
    """A FASTA file with one sequence per patient; the hospital's sequencer misses some letters."""
    random, instrument = scene.patients(), scene.instrument()
    num_patients = len(scene.ids)
    length = min(_LONGEST, granularity.k + granularity.stride * (granularity.max_tokens - 1))
    gc = 0.5 + 0.05 * np.tanh(scene.effects.measurement_shift * instrument.normal())
    background = random.choice(4, size=(num_patients, length), p=[(1 - gc) / 2, gc / 2] * 2)
    letters_BS = _LETTERS[background]
    motifs = motifs_of(granularity, scene)
    # A quarter of the sequence is motifs, where a patient has as many as usual.
    usual = length / (4 * len(motifs) * len(motifs[0]))
    count_BK = random.poisson(usual * np.exp(0.6 * scene.shown_BK))
    for b in range(num_patients):
        which = np.repeat(np.arange(len(motifs)), count_BK[b])
        starts = random.integers(0, max(1, length - len(motifs[0]) + 1), size=len(which))
        for motif, start in zip(which, starts, strict=True):
            end = min(length, start + len(motifs[motif]))
            letters_BS[b, start:end] = motifs[motif][: end - start]
    unread = 0.02 * scene.effects.measurement_shift * instrument.uniform()
    letters_BS[random.uniform(size=letters_BS.shape) < unread] = ord("N")
    rows = zip(scene.ids, letters_BS, strict=True)
    text = "".join(f">{i}\n{letters_S.tobytes().decode()}\n" for i, letters_S in rows)
    return Rendering(text=text, observed_B=np.ones(num_patients, dtype=np.bool_))


def motifs_of(granularity: SequencesGranularity, scene: Scene) -> NDArray[np.uint8]:
    """Three different motifs of four letters, or of k where that is more."""
    process, width = scene.process("motifs"), max(4, granularity.k)
    while True:
        motifs = process.integers(4, size=(3, width))
        if len(np.unique(motifs, axis=0)) == 3:
            return _LETTERS[motifs]
