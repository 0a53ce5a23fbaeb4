"""Random weights are a seed's, whatever the number of threads."""

import pytest
import torch

from carrara.encoders._hub.load import load


@pytest.mark.parametrize("name", ["cqt-mel-tiny:random", "mel-conformer-tiny:random"])
def test_random_weights_do_not_depend_on_the_number_of_threads(name):
    threads, hashes = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            hashes.append(load(name).hash_weights())
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert hashes[0] == hashes[1]
