"""Buckets in one process: what is sent when, and what gradients are afterwards, against plain autograd."""

import pytest
import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.base import CommunicatorError
from dl_pipelines.training.communicators.buckets import Buckets
from dl_pipelines.training.communicators.single import SingleCommunicator

EACH = 1e-6
"""A bucket size, in MB, at which each parameter has a bucket of its own."""


class Twin(SingleCommunicator):
    """As if another worker had the same gradients; notes what is started and waited for."""

    size = 2

    def __init__(self, adds=lambda dtype: True):
        self.log, self._adds = [], adds

    def adds(self, dtype, device):
        return self._adds(dtype)

    def start_all_reduce(self, tensor, name, adasum=False):
        self.log.append(name)
        return tensor.mul_(2)

    def start_all_gather(self, tensor, name):
        assert tensor.dtype != torch.bfloat16, "which Horovod does not know"
        self.log.append(name)
        return torch.cat([tensor, tensor])


def settings(**changed):
    return Distributed(communicator="horovod", workers=2, **changed)


def network(seed=3):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))


def inputs(seed=4):
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))


def wanted(model, *losses):
    """By autograd alone."""
    return torch.autograd.grad(sum(losses), list(model.parameters()), allow_unused=True)


def of(model):
    return [value.grad for value in model.parameters()]


@pytest.mark.parametrize("megabytes", [EACH, 8])
def test_gradients_are_autograds(megabytes):
    model, other = network(), Twin()
    exchange = Buckets(list(model.named_parameters()), other, settings(bucket_mb=megabytes))
    for seed in (4, 5):  # the second step lays into the same buckets
        exchange.zero()
        exchange.backward(model(inputs(seed)).square().mean())
        exchange.finish()
        torch.testing.assert_close(of(model), list(wanted(model, model(inputs(seed)).square().mean())))
    assert len(other.log) == 2 * len(exchange.buckets)


def test_buckets_start_from_the_last_layer_under_names_of_their_own():
    model, other = network(), Twin()
    exchange = Buckets(list(model.named_parameters()), other, settings(bucket_mb=EACH))
    exchange.zero()
    exchange.backward(model(inputs()).sum())
    assert other.log == ["gradients.0.2.bias", "gradients.1.2.weight", "gradients.2.0.bias", "gradients.3.0.weight"]


def test_a_bucket_that_is_full_early_waits_for_those_before_it():
    """Only the first layer gets gradients, which lie in the last buckets."""
    model, other = network(), Twin()
    exchange = Buckets(list(model.named_parameters()), other, settings(bucket_mb=EACH))
    exchange.zero()
    exchange.backward(model[0](inputs()).sum())
    assert other.log == []
    exchange.finish()
    assert [name.split(".")[1] for name in other.log] == ["0", "1", "2", "3"]
    assert all(not value.any() for value in of(model)[2:])


def test_accumulated_batches_are_exchanged_once():
    model, other = network(), Twin()
    exchange = Buckets(list(model.named_parameters()), other, settings())
    exchange.zero()
    for seed in (4, 5):
        exchange.backward(model(inputs(seed)).square().mean(), last=False)
    assert other.log == []
    exchange.backward(model(inputs(6)).square().mean())
    exchange.finish()
    assert len(other.log) == 1
    losses = [model(inputs(seed)).square().mean() for seed in (4, 5, 6)]
    torch.testing.assert_close(of(model), list(wanted(model, *losses)))


def test_a_parameter_that_only_an_earlier_batch_reached_keeps_that_gradient():
    model = network()
    exchange = Buckets(list(model.named_parameters()), Twin(), settings())
    exchange.zero()
    exchange.backward(model(inputs()).sum(), last=False)
    exchange.backward(model[0](inputs()).sum())
    exchange.finish()
    torch.testing.assert_close(of(model), list(wanted(model, model(inputs()).sum(), model[0](inputs()).sum())))


def test_exchanges_that_share_parameters_act_on_their_own_backward_only():
    encoder, other = network(), Twin()
    heads = {name: torch.nn.Linear(2, 1) for name in ("one", "two")}
    exchanges = {
        name: Buckets([*encoder.named_parameters(name), *head.named_parameters(f"{name}.head")], other, settings())
        for name, head in heads.items()
    }
    for name in ("one", "two", "one"):
        other.log.clear()
        exchanges[name].zero()
        loss = heads[name](encoder(inputs())).square().mean()
        exchanges[name].backward(loss)
        exchanges[name].finish()
        assert other.log == [f"gradients.0.{name}.head.bias"]
        torch.testing.assert_close(of(encoder), list(wanted(encoder, heads[name](encoder(inputs())).square().mean())))


def test_frozen_parameters_are_not_exchanged_and_shared_ones_once():
    model = network()
    model[0].weight.requires_grad_(False)
    named = [*model.named_parameters("a"), *model.named_parameters("b", remove_duplicate=False)]
    exchange = Buckets(named, Twin(), settings())
    assert [len(bucket.parameters) for bucket in exchange.buckets] == [3]
    exchange.zero()
    exchange.backward(model(inputs()).sum())
    exchange.finish()
    assert model[0].weight.grad is None


@pytest.mark.parametrize("compression", ["fp16", "bf16"])
@pytest.mark.parametrize("adds", [True, False], ids=["added", "gathered"])
def test_compressed_gradients_are_rounded(compression, adds):
    model, kind = network(), {"fp16": torch.float16, "bf16": torch.bfloat16}[compression]
    other = Twin(lambda dtype: adds or dtype == torch.float32)
    exchange = Buckets(list(model.named_parameters()), other, settings(compression=compression))
    exchange.zero()
    exchange.backward(model(inputs()).square().mean())
    exchange.finish()
    rounded = [value.to(kind).float() for value in wanted(model, model(inputs()).square().mean())]
    torch.testing.assert_close(of(model), rounded, rtol=0, atol=0)


def test_the_sum_of_large_gradients_is_no_infinity_in_16_bits():
    weight = torch.nn.Parameter(torch.ones(3))
    exchange = Buckets([("weight", weight)], Twin(), settings(compression="fp16"))
    exchange.zero()
    exchange.backward((weight * 60_000).sum())
    exchange.finish()
    assert weight.grad.tolist() == [60_000] * 3


def test_gradients_can_be_clipped_unscaled_and_stepped_with():
    model = network()
    exchange = Buckets(list(model.named_parameters()), Twin(), settings())
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=1024.0), torch.optim.SGD(model.parameters(), lr=1.0)
    exchange.zero()
    exchange.backward(scaler.scale(model(inputs()).square().mean()))
    exchange.finish()
    scaler.unscale_(optimizer)
    gradients = wanted(model, model(inputs()).square().mean())
    torch.testing.assert_close(of(model), list(gradients))
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    after = [value - 0.01 * grad / norm for value, grad in zip(model.parameters(), gradients, strict=True)]
    scaler.step(optimizer)
    torch.testing.assert_close(list(model.parameters()), after)


def test_bfloat16_of_many_workers_is_an_error_where_it_is_not_added():
    many = Twin(lambda dtype: dtype == torch.float32)
    many.size, many.name = 5, "horovod"
    message = (
        "found distributed.compression bf16 of 5 workers by horovod, reduced by average; expected a type that it adds, "
        "or at most 4 workers and average; set distributed.compression to fp16 or none"
    )
    with pytest.raises(CommunicatorError, match=message):
        Buckets(list(network().named_parameters()), many, settings(compression="bf16"))


def test_a_second_gradient_in_one_backward_is_an_error():
    model = network()
    exchange = Buckets(list(model.named_parameters()), Twin(), settings())
    exchange.zero()
    exchange.backward(model(inputs()).sum())
    message = "found a second gradient of a parameter in one backward; expected one; use checkpoints of activations"
    with pytest.raises(CommunicatorError, match=message):
        exchange.backward(model(inputs()).sum())


def test_adasum_of_one_process_is_an_error():
    message = (
        "found distributed.reduction adasum with one process; expected Horovod with MPI, or with NCCL on a GPU; set "
        "distributed.reduction to average"
    )
    with pytest.raises(CommunicatorError, match=message):
        SingleCommunicator().exchange([], settings(reduction="adasum"))
