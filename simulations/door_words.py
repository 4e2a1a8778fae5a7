"""The sentences of the page *What leaves your hospital* that follow from no function."""

from common.errors import RefusalCode
from common.messages import TaskKind

OPENING = """# What leaves your hospital

For a privacy officer. Raw patient data never leave: a hospital answers tasks, and an answer holds
model updates, counts and statistics that a person of the hospital has agreed to, and nothing else.
This page says what that is, field by field, and which rules stand at the door, in both directions.

It is made by `python -m simulations.door_page` out of the code that enforces it: each rule is one
small function, and its sentence here is that function's own. Threats are told by their row in
[the table of threats](threats.md); what protects patients in the numbers themselves, and what does
not, is in [privacy.md](privacy.md). `wardround site self-test` shows what your own site would
send."""

# By kind of task: arrays, counts, statistics of its reply.
SHAPES = {
    TaskKind.ENROL: (
        "per feature of a table: how many patients have it, the sum and the sum of squares of its "
        "values, scaled to [-1, 1]; only if the study's normalisation is federated",
        "whole numbers of 0 or more: patients, and patients by granularity and outcome; where "
        "patients are protected, a public weight instead",
        "none",
    ),
    TaskKind.TRAIN: (
        "the change of each trained parameter of the agreed model, in its shape; L2 norm at most "
        "policy.max_update_norm",
        "as at enrolment",
        "64-bit numbers, finite: declared sums over held-out patients, and seconds of work; none "
        "where patients are protected",
    ),
    TaskKind.EVALUATE: (
        "none",
        "none",
        "as after training, and where the study asks for it the same more coarsely of groups of "
        "patients, and of each granularity and feature how far predictions rest on it; where "
        "patients are protected, with noise, once a run, no seconds, no groups, no attributions",
    ),
}

REFUSALS = {
    RefusalCode.MESSAGE_MALFORMED: "the message is no task, or has an id that is no plain word",
    RefusalCode.TASK_NOT_SIGNED: "the coordinator has not signed it",
    RefusalCode.TASK_FOR_ANOTHER_SITE: "it names another hospital",
    RefusalCode.TASK_REPLAYED: "it has been here before",
    RefusalCode.CODE_MISMATCH: "it comes from another version of the software",
    RefusalCode.STUDY_NOT_ACCEPTED: "nobody here has accepted this study",
    RefusalCode.PRIVACY_REQUIRED: "the study protects no patient, and the policy wants that",
    RefusalCode.PRIVACY_TOO_WEAK: "the study asks for less privacy than the policy allows",
    RefusalCode.BUDGET_EXCEEDED: "it would cost patients more than the policy or the plan allows",
    RefusalCode.LEDGER_BEHIND: "this site's ledger is an older copy of itself",
    RefusalCode.ROUND_REPEATED: "the round was answered before: for another model, or for several",
    RefusalCode.ROUND_LIMIT: "the round, or the number of tasks, is beyond the policy",
    RefusalCode.RUN_LIMIT: "the policy allows these data no further run without privacy",
    RefusalCode.STEP_LIMIT: "a round would take more steps than the policy allows",
    RefusalCode.ARRAYS_MISMATCH: "the arrays are not those of the agreed model",
    RefusalCode.ARRAYS_NOT_FINITE: "the arrays hold NaN, infinity or another type of number",
    RefusalCode.TOO_FEW_PATIENTS: "there are fewer training patients than the policy wants",
    RefusalCode.UPDATE_NOT_FINITE: "training went wrong: the update holds NaN or infinity",
    RefusalCode.EGRESS_BLOCKED: "the reply was not as declared, so it was not sent",
    RefusalCode.OUT_OF_MEMORY: "the computer has too little memory",
    RefusalCode.DISK_FULL: "the computer has too little room on its disk",
    RefusalCode.INTERNAL_ERROR: "something else went wrong; the site's own log says where",
}

ENDING = """## What never leaves

- A row, an image, a note, a sequence or an id of a patient: no field of a reply is made for one,
  and the form of a message is checked at both ends.
- The text of an error: a word of the table above leaves, and the text stays in your own log, which
  tells counts and names of files and columns, and no value.
- Predictions of single patients, their outcomes, a model of your hospital's own and its intercept.
- Private keys, and the ledger itself: its signed head (a number and a digest) leaves.
- Which patients lack what: small groups count as nobody, and groups that few lack as everybody.

What the door cannot see: rules of form do not tell an honest update from one of the same form that
hides a message. That is why nothing is worked on but by the code and the study that your hospital
has agreed to, and why patients are protected by noise in the numbers themselves.

A model update is made of patients' data, and without privacy (`[privacy] mode = "none"`) somebody
who reads it may learn about them. A hospital decides whether it allows that:
`policy.allow_without_privacy`.

To see for yourself: `wardround audit SITE_DIR` lists each answer that left, with its names, sizes,
norm and digest; the log is hash-chained and signed. `docs/threats.md` names the test of each
attack."""
