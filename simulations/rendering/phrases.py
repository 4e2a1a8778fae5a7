"""The phrases that simulated notes are made of: invented, and of nobody.

By theme, then by grade from well to ill, then synonyms. All hospitals know all of them; each has
its own habits. No name, number, place or date may stand here.
"""

THEMES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("breathing comfortably at rest", "no dyspnea", "lungs clear and unlaboured"),
        ("short of breath on stairs", "mild exertional dyspnea", "slightly winded when walking"),
        ("breathless on little effort", "marked exertional dyspnea", "rales over both bases"),
        ("gasping at rest", "severe orthopnea", "sits upright and struggles for air"),
    ),
    (
        ("denies pain", "free of complaints", "no discomfort reported"),
        ("occasional tightness", "vague pressure now and then", "rare mild aching"),
        ("recurrent chest pain", "angina with effort", "pressing pain most days"),
        ("crushing pain", "unrelenting angina", "agonising pressure despite nitrates"),
    ),
    (
        ("walks freely", "fully mobile", "independent in all activities"),
        ("tires in the afternoon", "somewhat fatigued", "needs a pause now and then"),
        ("needs help to dress", "frail and weary", "ankles swollen by evening"),
        ("bedridden", "exhausted and confused", "gross oedema to the thighs"),
    ),
)

FILLERS: tuple[str, ...] = (
    "appetite unremarkable",
    "family present at the bedside",
    "medication reviewed and continued",
    "slept through the night",
    "blood taken as planned",
    "diet explained again",
    "skin intact",
    "plan discussed on the ward round",
    "awaiting transport",
    "seen by physiotherapy",
)
