"""Studies on disk: TOML in, TOML out, overrides, and the studies that are shipped."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import tomli_w

from common.contract import read_toml, toml_table, validate
from common.errors import StudyError
from common.study import Study

_SHIPPED = Path(__file__).parent / "studies"


def shipped_studies() -> list[str]:
    """The names of the studies that come with Wardround."""
    return sorted(path.stem for path in _SHIPPED.glob("*.toml"))


def load_study(name_or_path: str | Path) -> Study:
    """The validated study of a file, or of a shipped name.

    Raises:
        StudyError: there is no such study, or the file is malformed; every fault is named.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = _shipped_path(str(name_or_path))
    return read_toml(path, Study, StudyError)


def shipped_text(name: str) -> str:
    """The TOML of a shipped study, with its comments. Raises `StudyError` for an unknown name."""
    return _shipped_path(name).read_text(encoding="utf-8")


def _shipped_path(name: str) -> Path:
    if name not in shipped_studies():
        raise StudyError(
            f"Expected a study file (.toml) or a shipped study ({', '.join(shipped_studies())}), "
            f"found '{name}'. Check the name."
        )
    return _SHIPPED / f"{name}.toml"


def study_to_toml(study: Study) -> str:
    """The study as TOML; reading it back gives an equal study with the same hash."""
    return tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))


def study_from_toml(text: str, *, where: str = "the study") -> Study:
    """The validated study of a TOML text. Raises `StudyError`."""
    try:
        table = toml_table(text)
    except tomllib.TOMLDecodeError as fault:
        raise StudyError(f"Expected TOML in {where}, found: {fault}.") from fault
    return validate(table, Study, StudyError, where=where)


def override(study: Study, **changes: object) -> Study:
    """Another study: `study` with fields replaced, given as section__field=value; None is skipped.

    >>> override(load_study("demo"), training__rounds=3).training.rounds
    3

    Raises:
        StudyError: a value is not allowed there.
    """
    table = study.model_dump(mode="json", exclude_none=True)
    for key, value in changes.items():
        if value is not None:
            section, field = key.split("__")
            table[section][field] = value
    return validate(table, Study, StudyError, where=f"study '{study.name}' with overrides")


def with_patient_privacy(study: Study, *, epsilon: float | None, delta: float) -> Study:
    """Another study: `study` with this much privacy for each patient.

    Without an epsilon, a private study keeps its own, or its noise.

    What the study's own plan says of clipping and the rest stays, where it has such a plan. What no
    private study may have, but the outcome does not depend on, is left out: a site's intercepts
    (`model.site_intercept_sd`) and resampling by class (`training.balance`).

    >>> with_patient_privacy(load_study("demo"), epsilon=3, delta=1e-4).privacy.epsilon
    3.0

    Raises:
        StudyError: a value is not allowed.
    """
    table = study.model_dump(mode="json", exclude_none=True)
    kept = table["privacy"] if study.privacy.mode == "patient" else {}
    if epsilon is not None:
        kept.pop("noise_multiplier", None)
        kept["epsilon"] = epsilon
    table["privacy"] = {**kept, "mode": "patient", "delta": delta}
    table["model"]["site_intercept_sd"] = 0.0
    table["training"]["balance"] = "none"
    return validate(table, Study, StudyError, where=f"study '{study.name}' with privacy")


def without_privacy(study: Study) -> Study:
    """Another study: `study` with the privacy plan "none", to measure what privacy costs."""
    table = study.model_dump(mode="json", exclude_none=True)
    table["privacy"] = {"mode": "none"}
    return validate(table, Study, StudyError, where=f"study '{study.name}' without privacy")


def without_granularity(study: Study, name: str) -> Study:
    """Another study that lacks the granularity `name`, to measure what it is worth.

    What the plan says of it (edges, frozen encoders, groups of patients) goes with it.

    Raises:
        StudyError: the study has no such granularity, or no other; or no edge would be left among
            several others, which a plan without edges would join all.
    """
    if name not in study.granularities or len(study.granularities) == 1:
        raise StudyError(
            f"Expected one of several granularities of '{study.name}' "
            f"({', '.join(study.granularities)}), found '{name}'."
        )
    table = study.model_dump(mode="json", exclude_none=True)
    del table["granularities"][name]
    model = table["model"]
    edges = [edge for edge in model["edges"] if name not in edge]
    if model["edges"] and not edges and len(table["granularities"]) > 1:
        raise StudyError(
            f"Expected model.edges of '{study.name}' that join others than '{name}', found none. "
            "Add one, or leave edges out: then all granularities are joined."
        )
    gone = study.granularities[name].columns
    subgroups = [s for s in table["evaluation"].get("subgroups", []) if s["feature"] not in gone]
    table["evaluation"]["subgroups"] = subgroups
    model["edges"] = edges
    model["frozen"] = [frozen for frozen in model["frozen"] if frozen != name]
    return validate(table, Study, StudyError, where=f"study '{study.name}' without {name}")


def study_of_run(config: Mapping[str, object]) -> Study:
    """The effective study of a Flower run configuration; both sides compute it alike.

    Args:
        config: "study" (a name or an absolute path), and overrides: "rounds" (0: as the study
            says), "seed" (-1: likewise), "strategy" ("": likewise), "epsilon" (0.0: likewise) with
            "delta".
    """
    study = override(
        load_study(str(config["study"])),
        training__rounds=config["rounds"] or None,
        training__seed=config["seed"] if config["seed"] != -1 else None,
        strategy__name=config["strategy"] or None,
    )
    epsilon, delta = (float(str(config.get(name, 0.0))) for name in ("epsilon", "delta"))
    return with_patient_privacy(study, epsilon=epsilon, delta=delta) if epsilon else study
