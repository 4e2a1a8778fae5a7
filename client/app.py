"""The relay as a Flower ClientApp: bytes in, bytes out; it never sees a patient.

Under a stock SuperNode it forwards to the site process (`client.agent`); in Flower's simulation
runtime the site lives in the same process. Importing this module must not import torch: what needs
it is imported when the first task arrives.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from common import wire
from common.errors import MessageError, SiteConfigError, SiteProcessError
from common.messages import TaskKind
from common.parcels import is_packed, packed, unpacked
from common.run_folder import run_folder, site_folders
from common.study_file import study_of_run

if TYPE_CHECKING:
    from client.site import Site

app = ClientApp()

Scalar = bool | float | int | str

# The key of a SuperNode's own configuration, which the server cannot override as it can a run's:
# flower-supernode --node-config 'site-address="unix:/…/site.sock"'
ADDRESS_KEY = "site-address"
_NO_ANSWER = 4  # Flower's REPLY_MESSAGE_UNAVAILABLE


def relay(site: "Site", message: Message) -> Message:
    """The site's answer to a message, as a message.

    A message that is not a task is answered by a refusal code: raising here would put the text of
    an exception on the server's screen.
    """
    try:
        task = wire.task_from_records(message.content)
        if task.kind != message.metadata.message_type:
            raise MessageError("Expected a task of the message's type, found another.")
        reply = site.answer(task)
    except MessageError:
        reply = site.refuse_malformed(TaskKind(message.metadata.message_type))
    return Message(wire.reply_to_records(reply), reply_to=message)


def forward(message: Message, address: str) -> Message:
    """The answer of the site process at `address`, or an error of Flower's without a text.

    Guarantees:
        - What the site process answers is passed on as it is.
        - No exception of its failure reaches Flower, which would send the text to the server.
    """
    from client.agent_client import connect

    try:
        with connect(address) as site:
            data = wire.records_to_bytes(unpacked(message.content))
            answer = site.answer(data, message.metadata.message_type)
        records = wire.records_from_bytes(answer)
        records = packed(records) if is_packed(message.content) else records
        return Message(records, reply_to=message)
    except (MessageError, SiteConfigError, SiteProcessError):
        return Message(Error(_NO_ANSWER), reply_to=message)


@app.query()
def enrol(message: Message, context: Context) -> Message:
    """Answers an enrolment."""
    return _answer(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answers a round of training."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answers an evaluation."""
    return _answer(message, context)


def _answer(message: Message, context: Context) -> Message:
    address = context.node_config.get(ADDRESS_KEY)
    if address is not None:
        return forward(message, str(address))
    return relay(_site_of(context), message)


def _site_of(context: Context) -> "Site":
    """The simulated site that this node stands for: the n-th folder of the run's sites."""
    partition = context.node_config.get("partition-id")
    if partition is None:
        raise SiteConfigError(
            "Expected a node of Flower's simulation runtime, or the address of a site process, "
            f"found neither. Start the SuperNode with {ADDRESS_KEY} in its --node-config."
        )
    config = tuple(sorted(context.run_config.items()))
    num_nodes = int(context.node_config["num-partitions"])
    return _open_site(int(partition), num_nodes, context.run_id, config)


@cache
def _open_site(
    index: int, num_nodes: int, run_id: int, config: tuple[tuple[str, Scalar], ...]
) -> "Site":
    """The site, opened once in each worker process: a run's messages share its data and model."""
    import torch

    from client.site import Site

    run_config = dict(config)
    folders = site_folders(Path(str(run_config["sites"])))
    if len(folders) != num_nodes:
        raise SiteConfigError(
            f"Expected as many simulated nodes as site folders, found {num_nodes} and "
            f"{len(folders)}. Say --federation-config num-supernodes={len(folders)}."
        )
    # Bit-equal results are claimed for one thread per site, on every transport.
    torch.set_num_threads(1)
    state_dir = run_folder(str(run_config["out"]), run_id) / "sites" / folders[index].name
    study = study_of_run(run_config)
    return Site.simulated(folders[index], study, state_dir=state_dir, takes_turns=True)
