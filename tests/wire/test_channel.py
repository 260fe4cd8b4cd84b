"""Channels: what is sent comes out the same, whatever its size, order or type; ends, errors and strangers are told."""

import socket
import threading
import uuid

import numpy as np
import pytest

from dl_pipelines.wire import channel
from dl_pipelines.wire.channel import INLINE_BYTES, Channel, Died, Failed, Gone, Listener, connect


@pytest.fixture
def pair():
    ends = [Channel(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    yield ends
    for end in ends:
        end.close()


def arrays(seed, shape, dtype):
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_sent_comes_out_the_same_in_any_sequence(pair, seed):
    draw = np.random.default_rng(seed)
    for turn in range(8):
        shape = draw.integers(0, 70, draw.integers(0, 4)).tolist()
        sent = arrays([seed, turn], shape, draw.choice(["u1", "i1", "<i8", "<f2", "<f4", ">f4", "<f8"]))
        for source, target in (pair, pair[::-1]):
            source.send(sent)
            found = target.receive()
            assert found.dtype == sent.dtype and found.shape == sent.shape
            np.testing.assert_array_equal(found, sent)


@pytest.mark.parametrize(
    "size", [INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 5 * INLINE_BYTES, 40 * INLINE_BYTES]
)
def test_around_the_size_that_goes_through_memory(pair, size):
    here, there = pair
    for seed in range(3):  # the memory is used again
        sent = arrays(seed, size, "u1")
        here.send(sent)
        np.testing.assert_array_equal(there.receive(), sent)
    turned = np.asfortranarray(arrays(9, (300, 400), "f4"))
    here.send(turned)
    np.testing.assert_array_equal(there.receive(), turned)


def test_an_error_comes_instead_and_the_next_array_after_it(pair):
    here, there = pair
    here.fail("no such luck \udcff" + "x" * 2**17)
    with pytest.raises(Failed, match="no such luck"):
        there.receive()
    here.send(np.arange(3))
    np.testing.assert_array_equal(there.receive(), [0, 1, 2])


def test_text_and_objects_are_not_sent(pair):
    with pytest.raises(TypeError, match="expected numbers"):
        pair[0].send(np.array(["a"], object))


def test_who_waits_is_told_of_an_end_by_either_side(pair):
    here, there = pair
    waiting = []

    def wait():
        with pytest.raises(Died):
            here.receive()
        waiting.append("told")

    thread = threading.Thread(target=wait)
    thread.start()
    there.close()
    thread.join(10)
    assert waiting == ["told"]
    with pytest.raises(Gone):
        here.send(np.zeros(3))


def test_who_is_ending_says_so_of_what_has_come_and_takes_no_more(pair):
    here, there = pair
    here.send(np.arange(3))
    there.hang_up()
    np.testing.assert_array_equal(there.receive(), [0, 1, 2])
    there.end()
    with pytest.raises(Gone, match="ending"):
        here.receive()
    with pytest.raises(Gone):
        here.send(np.arange(3))
    with pytest.raises(Died):
        there.receive()


def test_who_listens_is_found_by_the_models_name_until_it_ends():
    name = uuid.uuid4().hex
    with pytest.raises(Gone, match="nobody listens"):
        connect(name)
    listener = Listener(name)
    with pytest.raises(Gone, match="nobody listens"):
        connect(name[:-1])
    caller = connect(name)
    answering = listener.accept()
    caller.send(np.arange(4))
    np.testing.assert_array_equal(answering.receive(), np.arange(4))
    for each in (caller, answering, listener):
        each.close()
    with pytest.raises(Gone, match="nobody listens"):
        connect(name)


def test_another_users_process_is_not_talked_to(monkeypatch):
    name = uuid.uuid4().hex
    listener = Listener(name)
    monkeypatch.setattr(channel.os, "getuid", lambda: 12345)
    with pytest.raises(Gone, match="nobody listens"):
        connect(name)
    listener.close()
