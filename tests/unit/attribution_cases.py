"""Studies whose attributions are summed, and the keys of their columns."""

from tests.unit.builders import MORE_OUTCOMES, study_of

NUMBER = {"kind": "numeric", "unit": "u", "range": [0, 10]}
SMOKER = {"kind": "categorical", "categories": ["no", "yes"]}
STUDY = study_of(
    granularities={
        "labs": {"kind": "tabular", "features": {"glucose": NUMBER, "smoker": SMOKER}},
        "vitals": {"kind": "tabular", "features": {"pulse": NUMBER}},
        "lifestyle": {"kind": "tabular", "features": {"steps": NUMBER}},
    },
    evaluation={"attributions": True},
)
LABS, GLUCOSE, SMOKES = ("labs", None), ("labs", "glucose"), ("labs", "smoker")
VITALS, PULSE, LIFESTYLE, STEPS = (
    ("vitals", None),
    ("vitals", "pulse"),
    ("lifestyle", None),
    ("lifestyle", "steps"),
)
KEYS = [LABS, GLUCOSE, SMOKES, VITALS, PULSE, LIFESTYLE, STEPS]
SMALLEST = 3
ASKED = study_of(outcomes=MORE_OUTCOMES, evaluation={"attributions": True})
