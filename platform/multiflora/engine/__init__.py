"""The engine in a process of its own, for asyncio programs; module names are those of vLLM's programs."""
