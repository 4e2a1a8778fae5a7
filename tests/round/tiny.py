"""The study of all whole-run tests: two granularities, three features, seconds to train."""

TINY_STUDY = """
[study]
name = "tiny"
[outcomes.event]
column = "event"
kind = "binary"
classes = ["no", "yes"]
[granularities.labs]
kind = "tabular"
hidden = [4]
[granularities.labs.features]
age_years = { kind = "numeric", unit = "years", range = [18, 100] }
sex = { kind = "categorical", categories = ["female", "male"] }
[granularities.lifestyle]
kind = "tabular"
hidden = [4]
[granularities.lifestyle.features]
steps_per_day = { kind = "numeric", unit = "steps/day", range = [0, 40000] }
[normalisation]
method = "public_range"
[evaluation]
score_bins = 10
[model]
width = 4
[training]
rounds = 3
local_epochs = 1
batch_size = 32
learning_rate = 0.1
"""
