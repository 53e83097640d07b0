"""A store that stops in the middle of a save, so that a test can do something meanwhile."""

import asyncio


class Gate:
    """Lets a store's operation wait until another task has done something."""

    def __init__(self, store, name):
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        inner = getattr(store, name)

        async def wait(*args, **options):
            self.reached.set()
            await self.opened.wait()
            return await inner(*args, **options)

        setattr(store, name, wait)


async def during(saving_task, gate, deed):
    """Do something while a save waits for the store, and let it go on."""
    await gate.reached.wait()
    deed()
    gate.opened.set()
    await saving_task


async def while_it_saves(world, visit, deed):
    """Do something while `save` waits for the store to update."""
    gate = Gate(world.store, "update")
    await during(asyncio.create_task(visit.session.save()), gate, deed)
