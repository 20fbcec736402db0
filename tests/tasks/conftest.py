"""A folder of text that encoders are pretrained on."""

import pytest

from tests.tasks.small_texts import write_texts


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """A folder with train.txt, valid.txt and test.txt: documents of short sentences."""
    return write_texts(tmp_path_factory.mktemp("texts"))
