"""Round trips that operations share: who goes alone, who goes together, and what becomes of a cancelled one."""

from __future__ import annotations

import asyncio

import pytest

from roomkey.errors import StoreUnavailable
from roomkey.stores.sharing import RoundTrips


class Server:
    """What is asked. It answers when the test says so, and doubles each number."""

    def __init__(self, **options):
        self.trips = RoundTrips(self.exchange, lambda error: StoreUnavailable(f"because of {error}"), **options)
        self.batches = []  # what was sent, a list for each round trip
        self.cancelled = 0
        self.error = None  # what an exchange raises
        self._gates = []

    async def exchange(self, items):
        self.batches.append(items)
        gate = asyncio.get_running_loop().create_future()
        self._gates.append(gate)
        try:
            await gate
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return [ValueError(item) if item < 0 else 2 * item for item in items]

    def answer(self, number=0):
        self._gates.pop(number).set_result(None)


async def settle():
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario):
    def test():
        asyncio.run(scenario())

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


@run
async def test_a_lone_one_goes_at_once_in_its_callers_task():
    """It is sent before its caller waits for the first time, and no task is made for it."""
    server = Server()
    operation = server.trips.ask(3)
    assert operation.send(None) is not None
    assert server.batches == [[3]]
    assert len(asyncio.all_tasks()) == 1
    server.answer()
    with pytest.raises(StopIteration) as stop:
        operation.send(None)
    assert stop.value.value == 6


@run
async def test_those_that_come_meanwhile_go_together():
    """While every lane is taken they wait, and a free lane takes all of them."""
    server = Server(lanes=2, alone=2)
    tasks = [asyncio.create_task(server.trips.ask(number)) for number in range(10)]
    await settle()
    assert server.batches == [[0], [1]]
    server.answer()
    await settle()
    assert server.batches == [[0], [1], [2, 3, 4, 5, 6, 7, 8, 9]]
    server.answer()
    server.answer()
    assert await asyncio.gather(*tasks) == [2 * number for number in range(10)]


@run
async def test_the_second_one_waits_for_others():
    """With fewer lone ones than lanes, all that come in one iteration of the event loop share the second lane."""
    server = Server(lanes=2, alone=1)
    tasks = [asyncio.create_task(server.trips.ask(number)) for number in range(5)]
    await settle()
    assert server.batches == [[0], [1, 2, 3, 4]]
    tasks.append(asyncio.create_task(server.trips.ask(5)))
    await settle()
    assert server.batches == [[0], [1, 2, 3, 4]]  # no lane is free
    server.answer()
    await settle()
    assert server.batches[2:] == [[5]]
    server.answer()
    server.answer()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]


@run
async def test_a_lone_one_after_the_crowd():
    """When all is quiet again, the next one goes at once."""
    server = Server(lanes=2, alone=1)
    tasks = [asyncio.create_task(server.trips.ask(number)) for number in range(3)]
    await settle()
    server.answer()
    server.answer()
    await asyncio.gather(*tasks)
    await settle()
    operation = server.trips.ask(9)
    operation.send(None)
    assert server.batches[-1] == [9]
    operation.close()


@run
async def test_a_round_trip_is_bounded():
    """At most 64 operations share one."""
    server = Server(lanes=1)
    tasks = [asyncio.create_task(server.trips.ask(number)) for number in range(1 + 64 + 36)]
    for _ in range(3):
        await settle()
        server.answer()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in server.batches] == [1, 64, 36]


@run
async def test_an_error_in_place_of_an_answer():
    """It is one operation's own, alone and in company; the others have their answers."""
    server = Server(lanes=1)
    tasks = [asyncio.create_task(server.trips.ask(number)) for number in (-1, 1, -2, 2)]
    await settle()
    server.answer()
    await settle()
    server.answer()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["because of -1", "2", "because of -2", "4"]
    assert isinstance(outcomes[0], StoreUnavailable) and isinstance(outcomes[0].__cause__, ValueError)


@run
async def test_an_error_of_a_whole_round_trip():
    """Each that was sent together gets an exception of its own; a lone one gets what was raised."""
    server = Server(lanes=1)
    server.error = OSError("gone")
    tasks = [asyncio.create_task(server.trips.ask(number)) for number in range(4)]
    await settle()
    server.answer()
    await settle()
    server.answer()
    alone, *together = await asyncio.gather(*tasks, return_exceptions=True)
    assert alone is server.error
    assert {str(error) for error in together} == {"because of gone"} and len(set(together)) == 3
    assert {error.__cause__ for error in together} == {server.error}
    server.error = None
    again = asyncio.create_task(server.trips.ask(5))
    await settle()
    server.answer()
    assert await again == 10


@run
async def test_a_cancelled_one_that_waits_is_not_sent():
    """The others are, and get their own answers."""
    server = Server(lanes=1)
    tasks = [asyncio.create_task(server.trips.ask(number)) for number in range(4)]
    await settle()
    tasks[2].cancel()
    await settle()
    server.answer()
    await settle()
    assert server.batches == [[0], [1, 3]]
    server.answer()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [outcome for outcome in outcomes if not isinstance(outcome, asyncio.CancelledError)] == [0, 2, 6]
    assert tasks[2].cancelled()


@run
async def test_a_round_trip_goes_on_while_somebody_waits():
    """It is cancelled with the last one who does, and those behind it get its lane."""
    server = Server(lanes=1)
    tasks = [asyncio.create_task(server.trips.ask(number)) for number in range(4)]
    await settle()
    server.answer()
    await settle()
    assert server.batches == [[0], [1, 2, 3]]
    behind = asyncio.create_task(server.trips.ask(4))
    for task in tasks[1:3]:
        task.cancel()
    await settle()
    assert not server.cancelled and len(server.batches) == 2
    tasks[3].cancel()
    await settle()
    assert server.cancelled == 1 and server.batches[2:] == [[4]]
    server.answer(-1)
    assert await behind == 8


@run
async def test_a_cancelled_lone_one_frees_its_lane():
    """Those that waited for it are sent."""
    server = Server(lanes=1)
    first = asyncio.create_task(server.trips.ask(1))
    second = asyncio.create_task(server.trips.ask(2))
    await settle()
    first.cancel()
    await settle()
    assert server.cancelled == 1 and server.batches == [[1], [2]]
    server.answer(-1)
    assert await second == 4


@pytest.mark.parametrize("iterations", range(12))
def test_cancelled_at_any_moment(iterations):
    """Whenever operations are cancelled, nobody gets another's answer, and no lane is lost."""

    async def main():
        server = Server(lanes=2, alone=1)
        tasks = [asyncio.create_task(server.trips.ask(number)) for number in range(9)]

        async def answer_all():
            while True:
                await asyncio.sleep(0)
                if server._gates:
                    gate = server._gates.pop(0)
                    if not gate.done():
                        gate.set_result(None)

        answering = asyncio.create_task(answer_all())
        for _ in range(iterations):
            await asyncio.sleep(0)
        for task in tasks[iterations % 2 :: 2] if iterations % 3 else tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, asyncio.CancelledError) or outcome == 2 * number
        await settle()
        assert await asyncio.gather(*(server.trips.ask(number) for number in range(9))) == list(range(0, 18, 2))
        await settle()
        assert server.trips._free == 2 and not server.trips._tasks and not server.trips._waiting
        answering.cancel()

    asyncio.run(main())
