"""How Trivium is called from Python: a client that goes on where it was when an orchestrator dies.

    from services.client import Client, Options, chat_request

    with Client("127.0.0.1:50050") as client:
        answer = client.complete(chat_request("What is 17 + 25?", Options(target_llm_usage=0.1)))
        print(answer.text, answer.usage.llm_usage_rate)
        for part in client.generate(chat_request("And twice that?")):
            print(part.text, end="", flush=True)

The same in asyncio, before several orchestrators:

    async with AsyncClient(["10.0.0.1:8000", "10.0.0.2:8000"]) as client:
        async with contextlib.aclosing(client.generate(request)) as parts:
            async for part in parts:
                print(part.text, end="", flush=True)

What comes out of `generate` has no gap and no token twice, whatever happens to the orchestrators meanwhile. A stream
that can't be gone on with raises `GenerationFailed`, and never just ends.
"""

from services.client.client import AsyncClient
from services.client.completion import Completion, Token
from services.client.errors import CallFailed, GenerationFailed
from services.client.requests import LossPolicy, Options, Sampling, chat_request, text_request, tokens_request
from services.client.sync import Client

__all__ = [
    "AsyncClient",
    "CallFailed",
    "Client",
    "Completion",
    "GenerationFailed",
    "LossPolicy",
    "Options",
    "Sampling",
    "Token",
    "chat_request",
    "text_request",
    "tokens_request",
]
