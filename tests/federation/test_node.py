"""The connector against a real SuperLink: rounds, kills, absences, and what it never asks for."""

import json
import signal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.superlink.grid import HttpGrid

from client.node_faults import Rejected
from client.node_fleet import Fleet
from server.grid import exchange, wait_for_nodes
from tests.federation.deployment import Link, until
from tests.federation.fake_site import FakeSite
from tests.federation.nodes import ask, content, in_process, in_thread, new_key, only_node

pytestmark = pytest.mark.flower


def test_two_sites_answer_queries_training_and_evaluation_unchanged(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    other = FakeSite().start()
    with in_thread(link, site, tmp_path / "a"), in_thread(link, other, tmp_path / "b"):
        nodes = wait_for_nodes(grid, 2, timeout_s=30)
        assert len(nodes) == 2
        for kind, size in (("query", 1), ("train", 3_000_000), ("evaluate", 10)):
            messages = [Message(content(size), node, kind) for node in nodes]
            replies = list(exchange(grid, messages, timeout_s=30))
            assert [reply.content for reply in replies] == [content(size)] * 2
            assert {reply.metadata.src_node_id for reply in replies} == set(nodes)
        assert site.asked == other.asked == ["query", "train", "evaluate"]
    other.stop()


@pytest.mark.threat("S1-4")
def test_other_types_of_messages_get_an_error_and_do_not_reach_the_site(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    with in_thread(link, site, tmp_path / "a"):
        node = only_node(grid)
        for kind in ("train.backdoor", "query.files"):
            reply = ask(grid, node, kind)
            assert reply.has_error()
            assert not reply.error.reason
        assert site.asked == []
        assert ask(grid, node).has_content()


def test_a_restarted_superlink_gets_the_reply_that_was_being_made(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    with in_thread(link, site, tmp_path / "a"):
        node = only_node(grid)
        site.gate.clear()
        replies = exchange(grid, [Message(content(), node, "train")], timeout_s=60)
        until(lambda: site.asked)
        link.stop(signal.SIGKILL)
        site.gate.set()
        link.start()
        (reply,) = replies
        assert reply.content == content()
        assert site.asked == ["train"]
        assert ask(grid, node).has_content()


def test_the_next_connector_answers_what_a_killed_one_had_in_hand(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    key = new_key(tmp_path / "node.pem")
    site.gate.clear()
    with in_process(link, site, tmp_path / "a", key) as first:
        node = only_node(grid)
        replies = exchange(grid, [Message(content(), node, "train")], timeout_s=40)
        until(lambda: site.asked)
        first.kill()
        first.wait()
    assert b"flat" not in (tmp_path / "a" / "session.json").read_bytes()
    site.gate.set()
    with in_process(link, site, tmp_path / "a", key) as second:
        (reply,) = replies
        assert reply.content == content()
        assert only_node(grid) == node
        assert ask(grid, node).has_content()
        second.send_signal(signal.SIGTERM)
        assert second.wait(20) == 0
    assert list(grid.get_node_ids()) == []


def test_a_connector_that_is_stopped_in_the_middle_leaves_the_message_to_the_next(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    key = new_key(tmp_path / "node.pem")
    site.gate.clear()
    with in_process(link, site, tmp_path / "a", key) as first:
        replies = exchange(grid, [Message(content(), only_node(grid), "train")], timeout_s=40)
        until(lambda: site.asked)
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
    site.gate.set()
    with in_process(link, site, tmp_path / "a", key) as second:
        (reply,) = replies
        assert reply.content == content()
        second.send_signal(signal.SIGTERM)
        assert second.wait(20) == 0


def test_a_site_that_is_down_costs_one_error_and_its_node_leaves_until_it_is_back(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    with in_thread(link, site, tmp_path / "a", patience_s=0.5):
        node = only_node(grid)
        site.stop()
        assert ask(grid, node).has_error()
        until(lambda: list(grid.get_node_ids()) == [])
        site.start()
        assert only_node(grid) == node
        assert ask(grid, node).has_content()


def test_a_site_that_restarts_within_patience_is_asked_again(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    with in_thread(link, site, tmp_path / "a", patience_s=20):
        node = only_node(grid)
        site.stop()
        replies = exchange(grid, [Message(content(), node, "train")], timeout_s=40)
        until(lambda: '"in_hand": "' in (tmp_path / "a" / "session.json").read_text())
        site.start()
        (reply,) = replies
        assert reply.content == content()


def test_a_message_of_which_connectors_have_died_is_answered_by_an_error(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    site.gate.clear()
    with in_thread(link, site, tmp_path / "a", lasting_key=key):
        node = only_node(grid)
        replies = exchange(grid, [Message(content(), node, "train")], timeout_s=40)
        until(lambda: site.asked)
    session = tmp_path / "a" / "session.json"
    held = json.loads(session.read_text())
    assert held["in_hand"]
    session.write_text(json.dumps(held | {"lives": 3}))
    with in_thread(link, site, tmp_path / "a", lasting_key=key):
        (reply,) = replies
        assert reply.has_error()
        assert site.asked == ["train"]
        assert ask(grid, node).has_content()


def test_connectors_that_died_without_a_message_are_not_held_against_the_next_one(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    for _ in range(2):
        with in_thread(link, site, tmp_path / "a", lasting_key=key):
            assert ask(grid, only_node(grid)).has_content()
        session = tmp_path / "a" / "session.json"
        held = json.loads(session.read_text())
        assert held["in_hand"] is None
        session.write_text(json.dumps(held | {"lives": 9}))


@pytest.mark.threat("K-1")
def test_a_second_node_with_the_same_key_is_refused(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    path = new_key(tmp_path / "node.pem")
    key = load_ssh_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    with in_process(link, site, tmp_path / "a", path) as first:
        node = only_node(grid)
        thief = Fleet(superlink=link.address, tls=None, key=key)
        with pytest.raises(Rejected, match="PUBLIC_KEY_ALREADY_IN_USE"):
            thief.join(None)
        thief.close()
        assert ask(grid, node).has_content()
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0


@pytest.mark.threat("S1-3")
def test_no_connector_has_asked_for_a_bundle_or_a_run(link: Link) -> None:
    # The last test of this module: the log holds the requests of all of them.
    log = (link.folder / "superlink.log").read_text()
    assert "Fleet.PushMessages" in log
    assert "Fleet.GetFab" not in log
    assert "Fleet.GetRun" not in log
