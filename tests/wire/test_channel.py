"""Channels: what is sent comes out the same, whatever its size, order or type; ends, errors and strangers are told."""

import errno
import socket
import threading
import time
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
            source.send(sent, turn / 7)
            found = target.receive()
            assert found.dtype == sent.dtype and found.shape == sent.shape and target.seconds == turn / 7
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


@pytest.fixture
def taking():
    """A function: takes the next caller of a listener, greets it, and hands it on when asked."""
    taken = []

    def take(listener):
        def work():
            taken.append(listener.accept())
            taken[-1].greet()

        thread = threading.Thread(target=work)
        thread.start()

        def taken_one():
            thread.join(10)
            return taken[-1]

        return taken_one

    yield take
    for each in taken:
        each.close()


def test_who_listens_is_found_by_the_models_name_until_it_ends(taking):
    name = uuid.uuid4().hex
    with pytest.raises(Gone, match="nobody listens"):
        connect(name)
    listener = Listener(name)
    with pytest.raises(Gone, match="nobody listens"):
        connect(name[:-1])
    answering = taking(listener)
    caller = connect(name)
    caller.send(np.arange(4))
    np.testing.assert_array_equal(answering().receive(), np.arange(4))
    caller.close()
    listener.close()
    with pytest.raises(Gone, match="nobody listens"):
        connect(name)
    with pytest.raises(Gone, match="closed"):
        listener.accept()


@pytest.mark.parametrize("whose", ["another user's", "another server's"])
def test_a_strangers_process_is_not_talked_to(monkeypatch, whose):
    name = uuid.uuid4().hex
    listener = Listener(name)
    if whose == "another user's":
        monkeypatch.setattr(channel.os, "getuid", lambda: 12345)
    else:
        monkeypatch.setattr(channel, "_parent", lambda process: 12345)
    with pytest.raises(Gone, match="nobody listens"):
        connect(name)
    listener.close()


def test_one_that_takes_no_callers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(channel, "GREETING_S", 0.05)
    name = uuid.uuid4().hex
    listener, callers = Listener(name), []
    listener._socket.listen(0)
    started = time.monotonic()
    for _ in range(5):  # two wait for a greeting, the queue is full for the others
        with pytest.raises(Gone, match="nobody listens"):
            callers.append(connect(name))
    assert time.monotonic() - started < 5 and not callers
    listener.close()


def test_a_caller_who_was_not_taken_when_the_listener_ends_is_told(monkeypatch):
    monkeypatch.setattr(channel, "GREETING_S", 30.0)
    name = uuid.uuid4().hex
    listener = Listener(name)
    threading.Timer(0.1, listener.close).start()
    started = time.monotonic()
    with pytest.raises(Gone, match="nobody listens"):
        connect(name)
    assert time.monotonic() - started < 20


def test_a_shortage_of_handles_passes(monkeypatch, taking):
    name = uuid.uuid4().hex
    listener, accept, short = Listener(name), socket.socket.accept, [True, True]

    def refused(self):
        if short:
            short.pop()
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(self)

    monkeypatch.setattr(channel.socket.socket, "accept", refused)
    taking(listener)
    connect(name).close()
    assert not short
    listener.close()


def test_memory_whose_handle_was_not_sent_is_not_taken_as_known(pair, monkeypatch):
    here, there = pair
    first, second, third = (arrays(seed, 3 * INLINE_BYTES * (1 + seed), "u1") for seed in range(3))
    here.send(first)
    np.testing.assert_array_equal(there.receive(), first)
    with monkeypatch.context() as patch:
        patch.setattr(channel.socket, "send_fds", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOBUFS, "full")))
        with pytest.raises(Gone, match="full"):
            here.send(third)
    for sent in (second, third, first):
        here.send(sent)
        np.testing.assert_array_equal(there.receive(), sent)


@pytest.mark.parametrize("axes", range(6))
def test_numbers_are_aligned_where_they_arrive(pair, axes):
    here, there = pair
    here.send(np.ones([2] * axes, np.float64))
    assert there.receive().flags.aligned


def test_a_process_of_another_version_is_not_talked_to(monkeypatch):
    """After an upgrade a server may still run the backends of before: its models are asked through Triton."""
    model = uuid.uuid4().hex
    listener = Listener(model)
    monkeypatch.setattr(Channel, "greet", lambda self: self._send(bytes([channel._HELLO - 1])))
    taken = []

    def take():
        taken.append(listener.accept())
        taken[0].greet()

    thread = threading.Thread(target=take)
    thread.start()
    with pytest.raises(Gone, match="nobody listens for"):
        connect(model)
    thread.join(10)
    assert not thread.is_alive()
    taken[0].close()
    listener.close()
