"""sentence-transformers behind FastAPI, in the usual lines: a peer of `benchmarks.serving`, which starts it.

    python -m benchmarks.serving_peer FOLDER PORT plain|threads

"plain": the endpoint is a coroutine, which encodes in the event loop, one request at a time. "threads": it is a
function, which FastAPI calls in its pool of threads, several requests at a time.
"""

# No `from __future__ import annotations`: FastAPI reads the types of the functions below.
import sys


def main() -> None:
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from sentence_transformers import SentenceTransformer

    folder, port, way = sys.argv[1:]
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"attn_implementation": "sdpa"})
    app = FastAPI()

    class Body(BaseModel):
        model: str
        input: list[str]

    def embed(body: Body) -> dict:
        with torch.inference_mode():
            vectors = model.encode(body.input, show_progress_bar=False).tolist()
        return {"data": [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]}

    async def embed_in_loop(body: Body) -> dict:
        return embed(body)

    app.post("/v1/embeddings")({"plain": embed_in_loop, "threads": embed}[way])
    uvicorn.run(app, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
