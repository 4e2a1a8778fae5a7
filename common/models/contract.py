"""The encoder contract: what a granularity's encoder takes, and what it returns.

A new granularity is one file beside this one with an `Encoder`, registered in `ENCODERS` of
`common.models.patient_model`, and one reader in `client/sources`.

Letters of shapes: B patients, T tokens, D width.
"""

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

# One granularity of a batch of patients, by array name. "present_B" (bool) is always there and says
# for whom the granularity was observed; the other names are the encoder's own, first axis B.
GranularityBatch = Mapping[str, Tensor]
Batch = Mapping[str, GranularityBatch]


class Encoder(nn.Module):
    """Turns one granularity into tokens.

    Guarantees of every encoder (each is tested for every registered encoder):
        - Row b of the result depends on row b of the batch alone.
        - The result is finite for absent patients too; the fusion masks it away.
    """

    @abstractmethod
    def forward(self, batch: GranularityBatch) -> Tensor:
        """The tokens of the granularity, shape (B, T, D)."""
