"""The models that are served: one, by each of its names."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sgen.server.errors import APIError
from sgen.server.http import check_model, json_response, model_names, server_of


async def models(request: Request) -> Response:
    """The names that the model is served by."""
    names = model_names(server_of(request))
    return json_response({"object": "list", "data": [_model(request, n) for n in names]})


async def model(request: Request) -> Response:
    """One of the names."""
    name = request.path_params["name"]
    if not name:
        raise HTTPException(404)
    return json_response(_model(request, check_model(request, name)))


async def embeddings(request: Request) -> Response:
    """Not done here; says so.  No 501: clients send what got a 5xx again."""
    raise APIError(404, "this server makes no embeddings", code="not_implemented")


def _model(request: Request, name: str) -> dict[str, Any]:
    server = server_of(request)
    return {
        "id": name,
        "object": "model",
        "created": int(server.started),
        "owned_by": "sgen",
        "root": server.backend.info.name,
        "max_model_len": server.backend.info.context_length,
    }


routes = [
    Route("/v1/models", models),
    Route("/v1/models/{name:path}", model),
    Route("/v1/embeddings", embeddings, methods=["POST"]),
]
