"""HTTP in front of the engines of `serving`: the interfaces of OpenAI, Cohere and Jina, and vLLM's for the rest.

`transformer-fast serve` calls `run`; programs mount `create_app`, an ASGI application. Extra `serve`.

    socket -> protocol      slow clients are cut off                            (run.py: uvicorn, stop)
                 guard      host, origin, key, request id, log, counts, stopping
                 endpoint   body -> pydantic model -> engine -> bytes           (calls.py, endpoints/)
                 engine     batches of many requests                            (serving)

A new endpoint is a function and an `Endpoint` in a file of `endpoints/`, and a line in `endpoints/__init__.py`: routes,
/openapi.json and /docs follow from it. An option of the server goes into `Settings` and `commands/serve.py`.
"""

from transformer_fast.server.app import create_app
from transformer_fast.server.run import run
from transformer_fast.server.served import Served, load_served
from transformer_fast.server.settings import Settings

__all__ = ["Served", "Settings", "create_app", "load_served", "run"]
