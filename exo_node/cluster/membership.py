class ClusterMembers:
    def __init__(self, **k):
        pass

    def states(self):
        return {}

    def links(self):
        return ()

    def addresses(self):
        return ("127.0.0.1",)

    def greet(self, *a):
        pass

    async def run(self):
        import asyncio

        await asyncio.Event().wait()

    async def close(self):
        pass
