"""The relay as a Flower ClientApp: bytes in, bytes out; it never sees a patient.

Used by Flower's simulation runtime, where the site lives in the same process. Importing this module
must not import torch: what needs it is imported when the first task arrives.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from common import wire
from common.errors import MessageError, SiteConfigError
from common.run_folder import run_folder, site_folders
from common.study_file import study_of_run

if TYPE_CHECKING:
    from client.site import Site

app = ClientApp()

Scalar = bool | float | int | str


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
        reply = site.refuse_malformed(wire.TaskKind(message.metadata.message_type))
    return Message(wire.reply_to_records(reply), reply_to=message)


@app.query()
def enrol(message: Message, context: Context) -> Message:
    """Answers an enrolment."""
    return relay(_site_of(context), message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answers a round of training."""
    return relay(_site_of(context), message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answers an evaluation."""
    return relay(_site_of(context), message)


def _site_of(context: Context) -> "Site":
    """The simulated site that this node stands for: the n-th folder of the run's sites."""
    partition = context.node_config.get("partition-id")
    if partition is None:
        raise SiteConfigError(
            "Expected a node of Flower's simulation runtime, found none: this relay does not yet "
            "serve a deployed SuperNode."
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
    return Site.simulated(folders[index], study_of_run(run_config), state_dir=state_dir)
