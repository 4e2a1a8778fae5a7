"""The patient model as flat arrays: what is in its state, and whose it is."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.arrays import Arrays
from common.models.patient_model import (
    SHARED,
    PatientModel,
    block_owner,
    load_state,
    parameters_of,
    state_of,
    trainable_manifest,
)
from common.study import Study
from tests.unit.builders import study_of
from tests.unit.model_cases import FUSIONS, GRANULARITIES, names_of, study_with


@pytest.fixture(params=FUSIONS)
def study(request: pytest.FixtureRequest) -> Study:
    return study_with(request.param)


def test_normalisation_is_in_the_state_and_is_not_trained(study: Study) -> None:
    model = PatientModel(study)
    trained = {block.name for block in trainable_manifest(model)}
    buffers = {f"encoders.{g}.{b}" for g in GRANULARITIES for b in ("location", "scale")}
    assert set(names_of(state_of(model))) == trained | buffers
    assert not trained & buffers
    assert parameters_of(model).manifest == trainable_manifest(model)
    assert state_of(model).flat.dtype == np.float32


def test_a_new_model_normalises_by_the_public_ranges() -> None:
    state = state_of(PatientModel(study_of())).unpack()
    np.testing.assert_allclose(state["encoders.labs.location"], [50, 16])
    np.testing.assert_allclose(state["encoders.labs.scale"], [50, 15])


@given(st.integers(0, 2**32))
def test_a_state_survives_the_model(seed: int) -> None:
    model = PatientModel(study_of())
    state = state_of(model)
    flat = np.random.default_rng(seed).normal(size=state.flat.size).astype(np.float32)
    other = replace(state, flat=flat)
    load_state(model, other)
    assert state_of(model) == other


def test_loading_copies_and_keeps_no_hold_of_the_arrays() -> None:
    model = PatientModel(study_of())
    state = state_of(model)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert state_of(model) != state
    load_state(model, state)
    assert state_of(model) == state


def _spoilt(state: Arrays) -> Iterator[Arrays]:
    first, *others = state.manifest
    yield replace(state, manifest=(replace(first, name="heads.event.more"), *others))
    yield replace(state, manifest=(replace(first, shape=(1, *first.shape)), *others))
    yield replace(state, manifest=(*others, first))
    yield replace(state, manifest=tuple(others), flat=state.flat[first.size :])


def test_a_state_of_another_model_is_refused_and_changes_nothing() -> None:
    model = PatientModel(study_of())
    state = state_of(model)
    for other in _spoilt(state):
        with pytest.raises(ValueError, match="arrays of this model, found others"):
            load_state(model, other)
    assert state_of(model) == state


def test_every_parameter_has_an_owner() -> None:
    owners = {block_owner(name) for name in names_of(state_of(PatientModel(study_of())))}
    assert owners == {SHARED, "event", *GRANULARITIES}
