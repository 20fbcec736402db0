"""A run goes on elsewhere: on other numbers of devices, with the data where it was."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.training.test_loop import config_for, last_state, losses
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")
STEPS = 20  # more than an epoch, of packed rows
# Where a run stops on the way, and the devices on which it gets there.
WAY = [
    (4, 8, MeshConfig(fsdp=2, model=2)),
    (9, 1, MeshConfig()),
    (14, 4, MeshConfig()),
    (STEPS, 8, MeshConfig(data=2, fsdp=4)),
]


@pytest.fixture
def seen(monkeypatch):
    """What runs train on, and the parameters that each start begins with."""
    found = {"batches": [], "params": None}
    numbered, resume = loop._numbered, loop.resume

    def numbered_batches(*args):
        for step, batch, position in numbered(*args):
            found["batches"].append((step, batch, position))
            yield step, batch, position

    def resumed(*args):
        state, *rest = resume(*args)
        found["params"] = jax.tree.map(np.array, state.params)
        return state, *rest

    monkeypatch.setattr(loop, "_numbered", numbered_batches)
    monkeypatch.setattr(loop, "resume", resumed)
    return found


def test_a_run_that_moves_between_devices_is_that_which_never_did(
    tmp_path, pairs_folder, seen, monkeypatch
):
    def train_on(workdir, stop_at, devices, mesh):
        monkeypatch.setattr(loop, "make_mesh", lambda _: make_mesh(mesh, jax.devices()[:devices]))
        loop.train(config_for(pairs_folder, checkpoint_every=100, stop_at=stop_at), workdir)

    once, moved = tmp_path / "once", tmp_path / "moved"
    train_on(once, STEPS, *WAY[0][1:])
    whole, seen["batches"] = seen["batches"], []
    for step, devices, mesh in WAY:
        before = last_state(moved)[0] if step > WAY[0][0] else None
        train_on(moved, step, devices, mesh)
        if before is not None:  # restored bitwise on the other devices
            saved = {name: array for name, array in before if name.startswith("params/")}
            found = flatten_dict({"params": seen["params"]}, sep="/")
            assert saved.keys() == found.keys()
            for name, array in saved.items():
                np.testing.assert_array_equal(array, found[name])
    assert losses(moved).keys() == losses(once).keys() == set(range(1, STEPS + 1))
    for step, loss in losses(once).items():
        assert losses(moved)[step] == pytest.approx(loss, rel=1e-6), step
    assert len(whole) == STEPS and whole[-1][2].epoch >= 1  # an epoch's end was crossed
    assert any(batch["source_segments"].max() > 1 for _, batch, _ in whole)  # rows are packed
    for mine, theirs in zip(seen["batches"], whole, strict=True):  # none twice, none left out
        np.testing.assert_equal(mine, theirs)
