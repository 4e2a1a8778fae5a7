"""The registry of encoders: which one a granularity gets, by its kind and its `encoder` option."""

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
from common.models.contract import Encoder
from common.models.images import ImagesEncoder
from common.models.markers import MarkersEncoder
from common.models.pretrained import PretrainedEncoder
from common.models.series import SeriesEncoder, SummaryEncoder
from common.models.tabular import TabularEncoder
from common.models.tokens import BagEncoder, LSTMEncoder, TransformerEncoder


def build_encoder(granularity: AnyGranularity, width: int, dropout: float) -> Encoder:
    """The encoder of a granularity, with weights drawn from torch's global generator.

    Args:
        width: D of the tokens, the same for all granularities of a study.
        dropout: in [0, 1), between the encoder's layers.
    """
    match granularity:
        case TabularGranularity():
            return TabularEncoder(granularity, width, dropout)
        case SeriesGranularity():
            kind = SummaryEncoder if granularity.encoder == "summary" else SeriesEncoder
            return kind(granularity, width, dropout)
        case ImagesGranularity():
            return ImagesEncoder(granularity, width, dropout)
        case MarkersGranularity():
            return MarkersEncoder(granularity, width, dropout)
        case NotesGranularity(encoder="pretrained"):
            return PretrainedEncoder(granularity, width, dropout)
        case NotesGranularity() | SequencesGranularity():
            return _token_encoder(granularity, width, dropout)


def _token_encoder(granularity: TokenGranularity, width: int, dropout: float) -> Encoder:
    match granularity.encoder:
        case "bag":
            return BagEncoder(granularity, width, dropout)
        case "lstm":
            return LSTMEncoder(granularity, width, dropout)
        case "transformer":
            return TransformerEncoder(granularity, width, dropout)
        case "pretrained":
            raise ValueError("expected an encoder of token codes, found one of embeddings")
