"""The reader of notes for pretrained weights: a tiny BERT with random weights."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from client.findings import Finding
from client.frozen_encoder import embed_windows
from client.sources.notes import NOTES
from client.sources.pretrained_folder import FolderError, read_folder
from client.sources.pretrained_tokens import codes_by, frame_of, tokenizer_in
from client.sources.source import Source, Weights
from client.sources.vocabulary import MASKED
from common.granularities import NotesGranularity
from common.pretrained import Pretrained
from tests.unit.pretrained_cases import LONGEST, WIDTH, section_of, write_weights

pytest.importorskip("transformers", reason="needs the extra text")
pytest.importorskip("tokenizers", reason="needs the extra text")

IDS = ["a", "b", "c", "d"]
# [UNK], pain, fever, no, chest: by hand from the vocabulary of the tiny tokenizer.
UNKNOWN, PAIN, FEVER, NO, CHEST = 1, 5, 6, 7, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


def _copied(folder: Path, place: Path) -> Path:
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    return place


def _read(
    place: Path, folder: Path, rows: list[tuple[str, str]], **fields: Any
) -> tuple[dict[str, Any], list[Finding]]:
    table = pd.DataFrame(rows, columns=["patient_id", "text"])
    place.mkdir(exist_ok=True)
    table.to_csv(place / "notes.csv", index=False)
    source = Source(
        granularity="notes",
        path=place / "notes.csv",
        ids=pd.Index(IDS),
        weights=Weights(folder=folder, embeddings_dir=place / "embeddings"),
    )
    return NOTES.read(source, NotesGranularity.model_validate(section_of(folder) | fields))


def _embeddings(place: Path, folder: Path, rows: list[tuple[str, str]], **fields: Any) -> Any:
    arrays, findings = _read(place, folder, rows, **fields)
    assert findings == []
    return arrays["embedding_BE"]


def test_the_embedding_is_the_mean_over_the_last_layer(folder: Path, tmp_path: Path) -> None:
    from transformers import BertModel

    found = _embeddings(tmp_path, folder, [("b", "No chest PAIN")])
    model = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(input_ids=torch.tensor([[2, NO, CHEST, PAIN, 3]])).last_hidden_state
    np.testing.assert_allclose(found[1], states[0].mean(dim=0), rtol=1e-5, atol=1e-6)
    assert found.shape == (4, WIDTH)
    assert found.dtype == np.float32


def test_windows_are_weighted_by_their_tokens(folder: Path, tmp_path: Path) -> None:
    # 10 words in windows of 8 tokens: 6 and 4, with [CLS] and [SEP] 8 and 6.
    words = ["pain", "fever", "no", "chest", "stable", "cough", "no", "fever", "chest", "pain"]
    whole, first, last = (
        _embeddings(tmp_path / str(n), folder, [("a", " ".join(part))])[0]
        for n, part in enumerate((words, words[:6], words[6:]))
    )
    np.testing.assert_allclose(whole, (8 * first + 6 * last) / 14, rtol=1e-5, atol=1e-6)


def test_the_first_token_can_be_the_embedding_of_a_window(folder: Path, tmp_path: Path) -> None:
    from transformers import BertModel

    pretrained = section_of(folder, pooling="first")["pretrained"]
    found = _embeddings(tmp_path, folder, [("a", "pain")], pretrained=pretrained)
    with torch.no_grad():
        states = BertModel.from_pretrained(folder).eval()(torch.tensor([[2, PAIN, 3]]))
    np.testing.assert_allclose(found[0], states.last_hidden_state[0, 0], rtol=1e-5, atol=1e-6)


def test_an_embedding_depends_on_the_patients_own_notes_alone(folder: Path, tmp_path: Path) -> None:
    rows = [("a", "chest pain"), ("b", "fever"), ("a", "no cough")]
    both = _embeddings(tmp_path / "both", folder, rows)
    alone = _embeddings(tmp_path / "alone", folder, [row for row in rows if row[0] == "a"])
    assert both[0].tobytes() == alone[0].tobytes()
    assert not np.array_equal(both[0], both[1])


def test_a_patient_is_present_whose_notes_have_a_token(folder: Path, tmp_path: Path) -> None:
    arrays, findings = _read(tmp_path, folder, [("a", "pain"), ("c", "  "), ("d", "")])
    assert findings == []
    assert arrays["present_B"].tolist() == [True, False, False, False]
    assert not arrays["embedding_BE"][1:].any()


def test_masked_words_and_identifiers_never_reach_the_weights(folder: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_in(folder)
    codes_of = codes_by(tokenizer, ["deceased"])
    assert codes_of(f"Deceased, DECEASED_no {MASKED} pain").tolist() == (
        # The comma and the underscore are tokens that nobody knows, too.
        [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, NO, UNKNOWN, PAIN]
    )
    assert codes_of("fever [CLS] [SEP]").tolist()[0] == FEVER
    assert not {2, 3} & set(codes_of("[CLS] fever [SEP]").tolist())
    assert frame_of(tokenizer, 8).before.tolist() == [2]
    _, findings = _read(tmp_path, folder, [("a", "pain 555-123-4567"), ("b", "pain 555-1")])
    assert [f.severity for f in findings] == ["warning"]
    assert "masked" in findings[0].action


def test_a_second_reading_needs_no_weights(folder: Path, tmp_path: Path) -> None:
    rows = [("a", "chest pain"), ("b", "fever")]
    first = _embeddings(tmp_path, folder, rows)
    broken = _copied(folder, tmp_path / "weights")
    (broken / "model.safetensors").write_bytes(b"no weights")
    # The same place for embeddings, as if the digest were that of the study.
    section = section_of(folder)
    source = Source(
        granularity="notes",
        path=tmp_path / "notes.csv",
        ids=pd.Index(IDS),
        weights=Weights(folder=broken, embeddings_dir=tmp_path / "embeddings"),
    )
    (_, [finding]) = NOTES.read(source, NotesGranularity.model_validate(section))
    assert "other weights" in finding.action
    again = _embeddings(tmp_path, folder, rows)
    assert again.tobytes() == first.tobytes()


def test_more_tokens_than_the_study_takes_are_left_out(folder: Path, tmp_path: Path) -> None:
    long, findings = _read(tmp_path / "long", folder, [("a", "pain fever no")], max_tokens=2)
    short = _embeddings(tmp_path / "short", folder, [("a", "pain fever")], max_tokens=2)
    assert long["embedding_BE"].tobytes() == short.tobytes()
    assert [f.found for f in findings] == ["1 of 1 patients with more"]
    assert findings[0].expected == "notes of at most 2 tokens"


def test_torch_draws_the_same_afterwards(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pretrained = Pretrained.model_validate(section_of(folder)["pretrained"])
    embed_windows([[np.array([2, PAIN, 3])]], folder, pretrained, device="cpu")
    assert torch.equal(torch.rand(2), expected)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("fields", "code", "expected"),
    [
        ({"window_tokens": LONGEST + 1}, PAIN, f"weights that read {LONGEST + 1} tokens at once"),
        ({"width": WIDTH + 1}, PAIN, f"embeddings of width {WIDTH + 1}"),
        ({}, 13, "tokens of the weights, 0 to 12"),
    ],
)
def test_weights_that_do_not_fit_the_study_are_refused(
    folder: Path, fields: dict[str, Any], code: int, expected: str
) -> None:
    pretrained = Pretrained.model_validate(section_of(folder)["pretrained"] | fields)
    with pytest.raises(FolderError) as caught:
        embed_windows([[np.array([2, code, 3])]], folder, pretrained, device="cpu")
    assert caught.value.expected == expected


@pytest.mark.parametrize("damage", ["layer missing", "no architecture", "cut", "nan", "tokenizer"])
def test_damaged_weights_are_an_error_and_no_exception(
    folder: Path, tmp_path: Path, damage: str
) -> None:
    spoilt = _copied(folder, tmp_path / "spoilt")
    weights = load_file(folder / "model.safetensors")
    match damage:
        case "layer missing":
            weights.pop("encoder.layer.0.output.dense.weight")
            save_file(weights, spoilt / "model.safetensors", metadata={"format": "pt"})
        case "nan":
            weights["embeddings.LayerNorm.weight"][:] = np.nan
            save_file(weights, spoilt / "model.safetensors", metadata={"format": "pt"})
        case "no architecture":
            config = json.loads((spoilt / "config.json").read_text(encoding="utf-8"))
            config["model_type"] = "unheard-of"
            (spoilt / "config.json").write_text(json.dumps(config), encoding="utf-8")
        case "cut":
            (spoilt / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-8]
            )
        case "tokenizer":
            (spoilt / "tokenizer.json").write_text("{}", encoding="utf-8")
    arrays, findings = _read(tmp_path / "site", spoilt, [("a", "pain")])
    assert [f.severity for f in findings] == ["error"]
    assert "pain" not in findings[0].sentence()
    assert not arrays["present_B"].any()


def test_weights_in_parts_give_the_embeddings_of_those_in_one_file(
    folder: Path, tmp_path: Path
) -> None:
    from transformers import BertModel

    parts = _copied(folder, tmp_path / "parts")
    (parts / "model.safetensors").unlink()
    BertModel.from_pretrained(folder).save_pretrained(parts, max_shard_size="1KB")
    assert (parts / "model.safetensors.index.json").exists()
    one, other = (_embeddings(tmp_path, path, [("a", "pain")]) for path in (folder, parts))
    assert one.tobytes() == other.tobytes()


def test_pickled_code_in_the_place_of_weights_is_an_error_and_not_run(
    folder: Path, tmp_path: Path
) -> None:
    # As if nobody had looked at the folder before: the library's own guard stays the second one.
    class Code:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return Path.touch, (tmp_path / "was_run",)

    spoilt = _copied(folder, tmp_path / "spoilt")
    names = list(load_file(folder / "model.safetensors"))
    (spoilt / "model.safetensors").unlink()
    torch.save({"a": Code()}, tmp_path / "w.bin")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "../w.bin")}
    (spoilt / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    pretrained = Pretrained.model_validate(section_of(folder)["pretrained"])
    with pytest.raises(FolderError) as caught:
        embed_windows([[np.array([2, PAIN, 3])]], spoilt, pretrained, device="cpu")
    assert caught.value.found == "UnpicklingError"
    assert not (tmp_path / "was_run").exists()


def test_a_device_that_fails_over_a_text_is_an_error_and_no_exception(folder: Path) -> None:
    # Too long for the weights, as a stand-in for too long for a GPU's memory: torch has one error.
    pretrained = Pretrained.model_validate(section_of(folder)["pretrained"])
    long = np.full(LONGEST + 1, PAIN)
    with pytest.raises(FolderError) as caught:
        embed_windows([[long]], folder, pretrained, device="cpu")
    assert caught.value.expected == "a device that embeds windows of 8 tokens"


@pytest.mark.parametrize("text", ["pain", "pain zebra"])
def test_a_tokenizer_that_cannot_read_a_text_is_an_error_and_no_exception(
    folder: Path, tmp_path: Path, text: str
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    spoilt = _copied(folder, tmp_path / "spoilt")
    # Its own unknown token is not in the vocabulary; the letter of the frame is, for one text.
    known = {"pain": 0} | ({"a": 1} if text == "pain zebra" else {})
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(spoilt / "tokenizer.json"))
    arrays, [finding] = _read(tmp_path / "site", spoilt, [("a", text)])
    assert finding.expected == "a tokenizer.json that reads any text"
    assert "zebra" not in finding.sentence()
    assert not arrays["present_B"].any()


def test_studies_that_read_texts_otherwise_do_not_undo_each_others_embeddings(
    folder: Path, tmp_path: Path
) -> None:
    rows = [("a", "pain fever no"), ("b", "chest pain")]
    ways: list[dict[str, Any]] = [{}, {"max_tokens": 2}, {"masked_words": ["pain"]}]
    for fields in ways:
        _read(tmp_path, folder, rows, **fields)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "embeddings").iterdir()}
    assert len(before) == len(ways)
    for fields in (*ways, {"hidden": 8}):
        _read(tmp_path, folder, rows, **fields)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "embeddings").iterdir()} == before


def test_other_weights_have_another_digest_and_other_embeddings(
    folder: Path, tmp_path: Path
) -> None:
    other = write_weights(tmp_path / "other", seed=1)
    assert read_folder(other)[0] != read_folder(folder)[0]
    # One place for what is kept: its file is named by the weights.
    one, two = (_embeddings(tmp_path, weights, [("a", "pain")]) for weights in (folder, other))
    assert not np.allclose(one[0], two[0])
    assert len(list((tmp_path / "embeddings").iterdir())) == 2
