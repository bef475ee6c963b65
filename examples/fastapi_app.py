"""A FastAPI service that fetches five upstream pages for each caller, through one shared client.

    pip install 'parallel-requests[curl]' fastapi uvicorn
    uvicorn examples.fastapi_app:app

    curl -H 'X-Correlation-ID: me-1' http://127.0.0.1:8000/awaited/7
    curl -N http://127.0.0.1:8000/events/7

UPSTREAM_URL is the URL of a page, with ``{page}`` in place of its number.
"""

from __future__ import annotations

import json
import os
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import anyio.to_thread
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import StreamingResponse

from parallel_requests import ParallelRequests, ParallelSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UPSTREAM_URL = os.environ.get("UPSTREAM_URL", "https://httpbin.org/delay/0.2?page={page}")
CORRELATION_ID = "X-Correlation-ID"

USERS_AT_ONCE = 50
PAGES_PER_USER = 5


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open the client with the service and close it with the service.

    All callers share one client: its connections stay open, and its limits hold for the whole service.
    Its concurrency is chosen for the peak load, or callers would queue for slots; and so is the number
    of threads for ``def`` endpoints, which is 40 by default.
    """
    anyio.to_thread.current_default_thread_limiter().total_tokens = USERS_AT_ONCE
    client = ParallelRequests(concurrency=USERS_AT_ONCE * PAGES_PER_USER, timeout=5, max_retries=1)
    with client as session:  # the same client, for those who cannot await
        yield {"client": client, "session": session}


app = FastAPI(lifespan=lifespan)


def correlation_id(
    response: Response, given: Annotated[str | None, Header(alias=CORRELATION_ID)] = None
) -> str:
    """Take the caller's correlation id, or make one, and send it back."""
    chosen = given or str(uuid4())
    response.headers[CORRELATION_ID] = chosen
    return chosen


def async_client(request: Request) -> ParallelRequests:
    """Return the client that the service has opened."""
    client: ParallelRequests = request.state.client
    return client


def sync_client(request: Request) -> ParallelSession:
    """Return the synchronous side of the same client."""
    session: ParallelSession = request.state.session
    return session


def pages_of(user: int) -> list[str]:
    """Return the URLs of a user's pages."""
    first = user * PAGES_PER_USER
    return [UPSTREAM_URL.format(page=page) for page in range(first, first + PAGES_PER_USER)]


@app.get("/awaited/{user}")
async def awaited(
    user: int,
    caller: Annotated[str, Depends(correlation_id)],
    client: Annotated[ParallelRequests, Depends(async_client)],
) -> list[str]:
    """Fan out from the event loop, which serves others meanwhile."""
    return await client.request(pages_of(user), headers={CORRELATION_ID: caller}, parse_func=page_number)


@app.get("/blocking/{user}")
def blocking(
    user: int,
    caller: Annotated[str, Depends(correlation_id)],
    session: Annotated[ParallelSession, Depends(sync_client)],
) -> list[str]:
    """Fan out from a thread of FastAPI's pool, as synchronous code does."""
    return session.get(pages_of(user), headers={CORRELATION_ID: caller}, parse_func=page_number)


@app.get("/events/{user}")
async def events(
    user: int,
    caller: Annotated[str, Depends(correlation_id)],
    client: Annotated[ParallelRequests, Depends(async_client)],
) -> StreamingResponse:
    """Pass each page on as soon as it is there, as a server-sent event.

    If the caller leaves, this generator is closed, and its calls are stopped.
    """

    async def lines() -> AsyncIterator[str]:
        results = client.iter_results(
            pages_of(user), headers={CORRELATION_ID: caller}, parse_func=page_number
        )
        async with aclosing(results):
            async for result in results:
                event = {"page": result.value, "error": str(result.error) if result.error else None}
                yield f"id: {result.index}\ndata: {json.dumps(event)}\n\n"

    return StreamingResponse(
        lines(), media_type="text/event-stream", headers={CORRELATION_ID: caller, "Cache-Control": "no-store"}
    )


def page_number(page: dict[str, Any]) -> str:
    """Return the part of an upstream response that the endpoints return."""
    number: str = page["args"]["page"]
    return number


@app.get("/health")
async def health() -> dict[str, str]:
    """Respond at once, whatever else is going on."""
    return {"status": "ok"}
