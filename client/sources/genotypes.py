"""What VCF and PLINK files are both read into: the dosages of a study's markers.

Letters of shapes: S samples of the file, P those of them who are patients, W wanted places (one for
each marker of the study).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(kw_only=True)
class Genotypes:
    """The dosages of a study's markers in one file.

    Attributes:
        samples: the names of all S samples, in the order of the file.
        is_patient_S: whether the sample is one of the patients.
        dosage_PW: copies of the marker's allele, NaN where unknown; float32.
        found_W: whether the file holds the marker.
        ambiguous_W: whether it holds it more than once, or with several alleles.
        num_malformed_records: of another number of columns than the header.
        num_malformed_cells: genotypes or dosages of patients that are none.
    """

    samples: Sequence[str]
    is_patient_S: NDArray[np.bool_]
    dosage_PW: NDArray[np.float32]
    found_W: NDArray[np.bool_] = field(init=False)
    ambiguous_W: NDArray[np.bool_] = field(init=False)
    num_malformed_records: int = 0
    num_malformed_cells: int = 0

    def __post_init__(self) -> None:
        num_markers = self.dosage_PW.shape[1]
        self.found_W = np.zeros(num_markers, dtype=np.bool_)
        self.ambiguous_W = np.zeros(num_markers, dtype=np.bool_)

    def find(self, place: int) -> None:
        """Notes that the file holds this marker, once more."""
        self.ambiguous_W[place] |= self.found_W[place]
        self.found_W[place] = True


def no_genotypes(
    samples: Sequence[str], patients: Collection[str], markers: Sequence[str]
) -> Genotypes:
    """Nothing known yet of any marker."""
    is_patient_S = np.array([name in patients for name in samples], dtype=np.bool_)
    shape = (int(is_patient_S.sum()), len(markers))
    dosage_PW = np.full(shape, np.nan, dtype=np.float32)
    return Genotypes(samples=samples, is_patient_S=is_patient_S, dosage_PW=dosage_PW)
