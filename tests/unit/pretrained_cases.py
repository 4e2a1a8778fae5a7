"""A tiny BERT with random weights, as a folder such as hospitals get. Needs the extra `text`."""

from pathlib import Path
from typing import Any

import torch

from client.sources.pretrained_folder import read_folder

WORDS = ("pain", "fever", "no", "deceased", "chest", "stable", "cough", "john")
WIDTH = 8
LONGEST = 16


def write_weights(folder: Path, *, seed: int = 0, vocabulary: int = 5 + len(WORDS)) -> Path:
    """Writes config.json, model.safetensors and tokenizer.json to `folder`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=WIDTH,
        max_position_embeddings=LONGEST,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    codes = {word: code for code, word in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(codes, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # As many published ones come: they would cut every text.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def section_of(folder: Path, **fields: Any) -> dict[str, Any]:
    """A notes granularity that is read by the weights in `folder`."""
    pretrained = {"digest": read_folder(folder)[0], "width": WIDTH, "window_tokens": 8}
    return {
        "kind": "notes",
        "encoder": "pretrained",
        "max_tokens": 32,
        "hidden": 4,
        "masked_words": ["deceased"],
        "pretrained": pretrained | fields,
    }
