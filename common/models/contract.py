"""The encoder contract: what a granularity's encoder takes, and what it returns.

A new kind of granularity is one section in `common.granularities`, one file beside this one with an
`Encoder`, one line in `common.models.encoders`, and one reader in `client/sources`.

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
        - Nothing that stands in the arrays of an absent patient can influence the result or the
          gradients, not even NaN or a code of no word; the token is finite, and the fusion masks
          it away.
        - Every parameter belongs to a layer with per-sample gradients, and the forward pass can be
          mapped by `torch.func.vmap` over patients one by one.
        - What is random (dropout, augmentation) is so in training mode alone.

    Attributes:
        num_tokens: T, how many tokens it makes of a patient.
    """

    num_tokens: int = 1

    @abstractmethod
    def forward(self, batch: GranularityBatch) -> Tensor:
        """The tokens of the granularity, shape (B, T, D)."""
