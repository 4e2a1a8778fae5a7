"""The hospital's half of the plain app: every message reads the data, builds the model, works.

The bench copies this folder into an app bundle, and stock SuperNodes run it: it stands for itself,
and imports nothing of the bench. Data, model, training and evaluation are Wardround's own functions
so that the local work is the same; the door, its checks and its books are not there.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.config import load_site_config
from client.data import read_cohort, usable_cohort
from client.evaluation import evaluate as sums_of
from client.evaluation import outcomes_of, predict_at_site
from client.training import Patients, to_device
from client.training import train as train_locally
from common.models.patient_model import PatientModel
from common.seeds import seed_of
from common.study import Study
from common.study_file import load_study

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """The model after this hospital's local steps, and how long they took."""
    study, model, patients = _loaded(message, context)
    site, round_number = str(context.node_config["site"]), _round(message)
    started = time.perf_counter()
    train_locally(
        model, patients["train"], study, seed=seed_of(study.training.seed, site, round_number)
    )
    seconds = time.perf_counter() - started
    arrays = ArrayRecord(model.state_dict())
    metrics = _metrics(len(patients["train"]), seconds)
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """How long the statistics of the model take; their values are of no interest here."""
    study, model, patients = _loaded(message, context)
    started = time.perf_counter()
    predictions = predict_at_site(model, patients["test"], study, trained_on=patients["train"])
    sums_of(predictions, outcomes_of(patients["test"]), study)
    seconds = time.perf_counter() - started
    metrics = _metrics(len(patients["test"]), seconds)
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _loaded(
    message: Message, context: Context
) -> tuple[Study, PatientModel, Mapping[str, Patients]]:
    """Study, model and patients: read anew, since the process lives for one message."""
    study = load_study(str(context.run_config["study"]))
    config = load_site_config(Path(str(context.node_config["site"])))
    cohort = usable_cohort(*read_cohort(config, study))
    model = PatientModel(study)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    cpu = torch.device("cpu")
    return (
        study,
        model,
        {"train": to_device(cohort.train, cpu), "test": to_device(cohort.test, cpu)},
    )


def _round(message: Message) -> int:
    return int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]


def _metrics(num_examples: int, seconds: float) -> MetricRecord:
    return MetricRecord({"num-examples": num_examples, "seconds": seconds})
