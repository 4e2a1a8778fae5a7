"""What has come of a run in which something was killed, and what must be true of it."""

from collections.abc import Mapping
from pathlib import Path

from client.config import load_site_config
from client.ledger.books import Books
from client.ledger.entries import ledger_path, read_chain
from client.ledger.verification import readable_books, verify
from simulations.simulate import Simulation, simulate
from tests.federation.consortium import ConsortiumOnDisk, journal


def newest(run: Path) -> int:
    """The newest round that is committed; -1 for none."""
    names = (run / "checkpoints").glob("round-*.json")
    return max((int(path.stem.removeprefix("round-")) for path in names), default=-1)


def come_of(run: Path) -> Mapping[str, int]:
    """Numbers of a run, for the record of campaigns.

    A round is asked again where too few hospitals have answered, and where the coordinator goes on
    in the middle of one.
    """
    asked = [event["round"] for event in journal(run, "asked") if event["kind"] == "train"]
    return {
        "rounds committed": newest(run),
        "rounds asked again": len(asked) - len(set(asked)),
        "absences": len(journal(run, "absent")),
        "resumed": len(journal(run, "run_resumed")),
    }


def check_run(run: Path, consortium: ConsortiumOnDisk) -> None:
    """One run has ended with the model of an uninterrupted one, every round committed once."""
    committed = [event["round"] for event in journal(run, "round_finished")]
    assert committed == list(range(1, consortium.study.training.rounds + 1))
    check_model(run, consortium)


def check_model(run: Path, consortium: ConsortiumOnDisk) -> None:
    """The model is the one of an uninterrupted run, and every ledger is whole.

    Of a coordinator that was killed: between a checkpoint and its event, it has told of that round
    nowhere.
    """
    assert newest(run) == consortium.study.training.rounds
    assert (run / "model.safetensors").read_bytes() == uninterrupted(consortium)
    for folder in consortium.sites.values():
        check_ledger(folder)


def uninterrupted(consortium: ConsortiumOnDisk) -> bytes:
    """The model of the same study over the same hospitals, in one process."""
    out = consortium.folder / "in-process"
    simulate(Simulation(study=consortium.study, sites=consortium.folder / "sites", out=out))
    return (out / "model.safetensors").read_bytes()


def check_ledger(site_dir: Path) -> Books:
    """The books of a hospital, which are whole and have a charge."""
    config = load_site_config(site_dir)
    assert verify(config.state_dir, dataset_id=config.dataset_id) == ()
    books = books_of(site_dir)
    assert books.charges()
    return books


def books_of(site_dir: Path) -> Books:
    """What a hospital's ledger says, right or wrong."""
    config = load_site_config(site_dir)
    content = ledger_path(config.state_dir, config.dataset_id).read_bytes()
    books, _ = readable_books(read_chain(content))
    return books
