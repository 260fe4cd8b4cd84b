import pytest
import torch
from safetensors import safe_open

from dl_pipelines.brief.sections import Training
from dl_pipelines.store import durable
from dl_pipelines.training import checkpoint as saved
from dl_pipelines.training.optimizers import Mover


def save(folder, epoch, step=0):
    tensors = {"model/network/w": torch.full((2, 3), float(epoch))}
    saved.save_checkpoint(folder, epoch, tensors, {"curves": [epoch]}, step)


def test_a_checkpoint_is_safetensors_and_json_and_two_are_kept(tmp_path):
    for epoch in (1, 2, 3, 11):
        save(tmp_path, epoch)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"epoch-{epoch:05d}.{kind}" for epoch in (3, 11) for kind in ("json", "safetensors")]
    with safe_open(tmp_path / names[-1], "pt") as file:
        assert list(file.keys()) == ["model/network/w"]
    loaded = saved.load_checkpoint(tmp_path)
    assert loaded is not None
    tensors, about = loaded
    assert (about["epoch"], about["curves"]) == (11, [11])
    assert torch.equal(tensors["model/network/w"], torch.full((2, 3), 11.0))


def test_positions_within_an_epoch_come_after_it(tmp_path):
    for epoch, step in ((0, 9), (1, 0), (1, 5), (1, 40)):
        save(tmp_path, epoch, step)
    assert {path.stem for path in tmp_path.iterdir()} == {"epoch-00001-00000005", "epoch-00001-00000040"}
    save(tmp_path, 2)
    loaded = saved.load_checkpoint(tmp_path)
    assert loaded is not None and (loaded[1]["epoch"], loaded[1]["step"]) == (2, 0)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed", "not an object"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, suffix, damage):
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / f"epoch-00002{suffix}"
    data = path.read_bytes()
    changed = {"cut": data[:-7], "changed": bytes([*data[:-2], data[-2] ^ 1, data[-1]]), "not an object": b"[1]"}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    loaded = saved.load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[1]["epoch"] == 1
    assert loaded[0]["model/network/w"][0, 0] == 1


def test_without_a_whole_checkpoint_there_is_none(tmp_path):
    assert saved.load_checkpoint(tmp_path / "nowhere") is None
    save(tmp_path, 1)
    (tmp_path / "epoch-00001.safetensors").write_bytes(b"")
    assert saved.load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("operation", range(1, 7))
def test_a_crash_at_any_write_leaves_a_whole_checkpoint(tmp_path, operation):
    save(tmp_path, 1)
    save(tmp_path, 2)
    steps = []

    def crash(name, path):
        steps.append(name)
        if len(steps) == operation:
            raise KeyboardInterrupt(name)

    with durable.inject(crash), pytest.raises(KeyboardInterrupt):
        save(tmp_path, 3)
    loaded = saved.load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[0]["model/network/w"][0, 0] == loaded[1]["epoch"] in {2, 3}


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd", "rmsprop", "muon"])
def test_an_optimizer_comes_back_bit_for_bit(kind):
    def make():
        torch.manual_seed(3)
        layers = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)
        network = torch.nn.Sequential(*layers)
        mover = Mover("loss", Training(optimizer=kind, clip=1.0), list(network.named_parameters()), [network], {})
        return network, mover

    def steps(network, mover, seeds):
        for seed in seeds:
            network.zero_grad()
            network(torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
            mover.step(0.1)

    network, mover = make()
    steps(network, mover, (1, 2))
    tensors, aliases = saved.model_tensors({"network": network})
    tensors |= saved.optimizer_tensors("loss", mover.optimizers)
    tensors = {name: value.detach().clone() for name, value in tensors.items()}
    steps(network, mover, (3, 4))
    other, again = make()
    saved.restore_model({"network": other}, tensors, aliases)
    saved.restore_optimizer("loss", again.optimizers, tensors)
    steps(other, again, (3, 4))
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
