"""The rows of the threat model, each with where its defence is and what is missing.

A defence is named as MODULE:FUNCTION. To these come all functions of the product whose docstring
has a line `Threat: ROW`, and the tests are those that are marked with the row.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One attack of the threat model.

    Attributes:
        row: S0 a curious server, S1 a hostile one, C a hostile hospital, N the network, K a stolen
            key, I somebody inside with logs and files, R whoever holds the released model.
        defences: those that no docstring names.
        missing: what is not built, in a sentence; "" for nothing that is known.
    """

    row: str
    attack: str
    defences: tuple[str, ...] = ()
    missing: str = ""


ROWS = (
    Row(
        row="S0-1",
        attack="a patient is worked out from an update",
        defences=(
            "client.dp_training:train_privately",
            "common.privacy.plan:PrivacyPlan",
        ),
        missing=(
            "Without privacy (a hospital's own decision) an update tells what it tells; there is "
            "no secure aggregation."
        ),
    ),
    Row(
        row="S0-2",
        attack="exact counts and metrics of two rounds are compared",
        defences=("client.private_statistics:private_evaluation",),
    ),
    Row(
        row="S1-1",
        attack="a study or a task asks for less privacy, or for more work",
        defences=("common.privacy.plan:plan_of",),
    ),
    Row(
        row="S1-2",
        attack="trap weights or another layer: a model that copies patients into its update",
        defences=("client.dp_training:train_privately",),
        missing="Weights of an agreed model are not looked at; the noise is the defence.",
    ),
    Row(
        row="S1-3",
        attack="other code is sent to the hospital",
        defences=("client.node_loop:Node", "common.code_version:code_fingerprint"),
        missing="A stock SuperNode with the ClientApp runs the bundle that it is sent.",
    ),
    Row(
        row="S1-4",
        attack="arrays, names or messages that are no task of the study",
        defences=("common.wire:task_from_records", "client.node_objects:Pulled.content"),
    ),
    Row(
        row="S1-5",
        attack="one round is asked for again and again, each time under a new nonce",
        defences=("client.ledger.ledger:Ledger.reserve", "client.ledger.ledger:Ledger.sealed"),
        missing=(
            "Without privacy every answer is exact: 3 models of each round and of the evaluation, "
            "of 100 runs, may be asked about, unless the policy says fewer; the same ones also "
            "again, which tells more where blocks stay at home."
        ),
    ),
    Row(
        row="S1-6",
        attack="secure aggregation with a threshold of one, or with invented neighbours",
        missing="Not built: there is no secure aggregation.",
    ),
    Row(
        row="C-1",
        attack="an update of NaN, infinity, 1e38, zeros or noise",
        defences=(
            "server.inbox:fault_of",
            "server.aggregation:coordinate_median",
            "server.aggregation:trimmed_mean",
        ),
        missing="A study that combines by the mean can be spoilt by one hospital.",
    ),
    Row(
        row="C-2",
        attack="a hospital claims 10^12 patients, or less than none",
        missing="Within the limit of the study, a hospital without privacy is believed.",
    ),
    Row(
        row="C-3",
        attack="somebody speaks for another hospital, or for the coordinator",
        defences=(
            "common.envelope:is_task_signed",
            "common.envelope:is_reply_signed",
            "server.correspondence:Signed.is_from",
        ),
    ),
    Row(
        row="C-4",
        attack="an update that is scaled, or has a back door",
        defences=("server.aggregation:coordinate_median", "server.aggregation:trimmed_mean"),
        missing="A back door within the length of honest updates is not found.",
    ),
    Row(
        row="N-1",
        attack="somebody in between: other certificates, old TLS, none at all, replays",
        defences=("client.node:_tls_context", "server.superlink.tls:tls_of"),
    ),
    Row(
        row="N-2",
        attack="a hospital reaches the server's control",
        defences=("server.superlink.process:check_host",),
        missing="The allow-list of routes is in `deploy/`, in the proxy's configuration.",
    ),
    Row(
        row="N-3",
        attack="floods of large bodies, and what keeps a message from others",
        defences=(
            "client.node_http:Bounded",
            "common.flower_objects:check_arrays",
            "server.superlink.masks:Masks",
            "server.superlink.replies:Replies",
        ),
        missing=(
            "The server's limit is the proxy's (`deploy/`); without it there is none. Whoever "
            "holds the SuperLink can make a hospital's audit log grow, a line a message."
        ),
    ),
    Row(
        row="K-1",
        attack="a node's or a hospital's key is stolen and used elsewhere",
        defences=("server.superlink.control:Control.register",),
        missing="Direct calls with a live key are not told from its owner's.",
    ),
    Row(
        row="I-1",
        attack="something of a patient is in a log, an error, a file or a message",
        defences=("client.site:Site.answer", "client.egress:release"),
    ),
    Row(
        row="I-2",
        attack="ledger, audit log or record of acceptances are edited, cut or set back",
        defences=(
            "client.chained_file:ChainedFile",
            "client.ledger.verification:verify",
            "common.signing:countersign",
        ),
    ),
    Row(
        row="I-3",
        attack="a model or a checkpoint that runs code when it is read",
        defences=("common.model_file:read_model", "server.checkpoint:CheckpointFolder.load"),
    ),
    Row(
        row="R-1",
        attack="whoever has the released model asks who was in its training",
        defences=("client.dp_training:train_privately", "common.privacy.accounting:epsilon_of"),
        missing="Nothing makes anybody audit a run (`wardround audit-privacy`) before its release.",
    ),
)
