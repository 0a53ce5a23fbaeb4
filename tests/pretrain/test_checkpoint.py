"""Checkpoints are whole or not there; a damaged one gives way to the one before it; nothing in them can run."""

import pytest
import torch
from torch import nn

from carrara.core.errors import StoreError
from carrara.pretrain import checkpoint


def trained(seed=0, steps=3):
    model = nn.Linear(4, 3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1, generator=generator)
    for _ in range(steps):
        step(model, optimiser)
    return model, optimiser


def step(model, optimiser):
    model(torch.ones(2, 4)).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def save(folder, model, optimiser, number):
    checkpoint.write_checkpoint(folder, checkpoint.collect_tensors(model, optimiser), {"step": number})


def test_a_restored_optimiser_goes_on_as_the_one_that_was_saved(tmp_path):
    model, optimiser = trained()
    save(tmp_path, model, optimiser, 3)
    other, second = trained(seed=9, steps=1)
    checkpoint.restore_checkpoint(checkpoint.load_checkpoint(tmp_path), other, second)
    for _ in range(2):
        step(model, optimiser)
        step(other, second)
    for restored, saved in zip(model.parameters(), other.parameters()):
        assert torch.equal(restored, saved)


def test_a_checkpoint_cut_short_gives_way_to_the_one_before(tmp_path):
    model, optimiser = trained()
    assert checkpoint.load_checkpoint(tmp_path) is None
    for number in (1, 2, 3):
        save(tmp_path, model, optimiser, number)
    last = tmp_path / checkpoint.LAST
    assert checkpoint.load_checkpoint(tmp_path).state == {"step": 3}
    last.write_bytes(last.read_bytes()[:-10])
    previous = checkpoint.load_checkpoint(tmp_path)
    assert previous.state == {"step": 2}
    assert "last.safetensors" in previous.warning
    last.unlink()
    assert checkpoint.load_checkpoint(tmp_path).state == {"step": 2}
    (tmp_path / checkpoint.PREVIOUS).write_bytes(b"")
    with pytest.raises(StoreError, match="no whole checkpoint"):
        checkpoint.load_checkpoint(tmp_path)


def test_a_pickle_is_not_opened(tmp_path):
    torch.save({"step": 1}, tmp_path / checkpoint.LAST)
    with pytest.raises(StoreError, match="no whole checkpoint"):
        checkpoint.load_checkpoint(tmp_path)


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), checkpoint.SafetensorError("I/O error")])
def test_a_full_disk_is_named_and_costs_nothing(tmp_path, monkeypatch, problem):
    model, optimiser = trained()
    save(tmp_path, model, optimiser, 1)

    def full(tensors, path, metadata):
        path.write_bytes(b"a part")
        raise problem

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StoreError, match="last.safetensors: cannot write here"):
        save(tmp_path, model, optimiser, 2)
    assert checkpoint.load_checkpoint(tmp_path).state == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.LAST]


def test_another_networks_checkpoint_is_refused(tmp_path):
    model, optimiser = trained()
    save(tmp_path, model, optimiser, 1)
    wide = nn.Linear(5, 3)
    with pytest.raises(StoreError, match="of another network"):
        checkpoint.restore_checkpoint(checkpoint.load_checkpoint(tmp_path), wide, torch.optim.AdamW(wide.parameters()))
