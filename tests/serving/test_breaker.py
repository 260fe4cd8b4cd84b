from dl_pipelines.serving.breaker import Breaker


def test_it_opens_at_the_limit_and_waits_longer_each_time():
    breaker = Breaker(limit=7, window=60)
    waits = []
    for second in range(7):
        assert not breaker.open(second)
        breaker.failed(second)
        waits.append(breaker.wait(second))
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert breaker.open(6)
    assert not breaker.open(60.5), "the first one is longer ago than the window"
    assert breaker.wait(200) == 0.2 and not breaker.within(200)


def test_rare_failures_never_open_it():
    breaker = Breaker(limit=3, window=60)
    for minute in range(50):
        breaker.failed(31.0 * minute)
        assert not breaker.open(31.0 * minute)
