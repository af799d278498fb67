"""Owns the nodes that tests share; does not own what they are asked."""

import os

import pytest

from node import Node, binary


@pytest.fixture(scope="session", autouse=True)
def program():
    """The program, or one clear message instead of a failure per test."""
    if not os.access(binary(), os.X_OK):
        pytest.exit(f"no program at {binary()}: run `cargo build`, or name it with TIDEWELL_BIN", returncode=2)
    return binary()


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """One node for the tests of a file; it remembers what it was asked, so that the last test can ask again."""
    node = Node(tmp_path_factory.mktemp("node")).start()
    node.asked = {}
    yield node
    if node.process is not None:
        assert node.stop() == 0, node.log_text()


@pytest.fixture
def new_node(tmp_path):
    """A node of a test's own, not yet started."""
    node = Node(tmp_path)
    yield node
    if node.process is not None:
        node.kill()
