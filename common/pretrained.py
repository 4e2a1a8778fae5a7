"""Pretrained weights of a study: which they are, and how texts are read by them.

The weights lie in a folder at every hospital, are never sent and never trained. The study holds
their digest: hospitals that agree on a study agree on the weights.
"""

from typing import Annotated, Literal

from pydantic import Field

from common.contract import Section


class Pretrained(Section):
    """The frozen weights that a granularity's texts are embedded by.

    Attributes:
        digest: SHA-256 of the folder's files, as `wardround pretrained FOLDER` prints it.
        width: numbers of an embedding.
        window_tokens: the most tokens that are read at once, special ones included. What is longer
            is read window by window.
        pooling: the embedding of a window: the mean over its tokens, or its first token ([CLS]).
    """

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    width: Annotated[int, Field(strict=True, ge=2, le=16_384)]
    window_tokens: Annotated[int, Field(strict=True, ge=8, le=8192)] = 256
    pooling: Literal["mean", "first"] = "mean"
