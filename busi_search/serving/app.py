"""A page on this machine where one image gets an answer, and the same as JSON."""

import asyncio
import io
import socket
import sys
import webbrowser
from collections.abc import Awaitable, Callable
from functools import lru_cache
from importlib.resources import files
from urllib.parse import urlsplit

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from busi_search.data.geometry import PixelBox
from busi_search.data.phantom import simulate_phantom
from busi_search.errors import BusiSearchError, InputError
from busi_search.models.predict import Classifier
from busi_search.serving.uploads import Upload, read_upload
from busi_search.serving.verdict import describe_model, judge_image

ADDRESS = "127.0.0.1"
MAX_BODY_BYTES = 20_000_000
BODY_SECONDS = 20.0
# Answers are computed one at a time; who waits longer than this is told to come again.
WAIT_SECONDS = 60.0
EXAMPLES_PER_CLASS = 2
EXAMPLE_SEED = 2026
_HOSTS = frozenset({"127.0.0.1", "localhost"})
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Refused(Exception):
    """A request that is not served: HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def make_app(
    classifier: Classifier,
    *,
    keep_sealed: bool = False,
    max_body_bytes: int = MAX_BODY_BYTES,
    body_seconds: float = BODY_SECONDS,
    wait_seconds: float = WAIT_SECONDS,
) -> Starlette:
    """Return the page and its ``POST /predict`` as an ASGI application.

    Requests must name this machine as their Host; a request that a page of another origin sends is
    refused. Uploads are decoded as images and never stored or unpickled.

    Args:
        classifier: the model that answers.
        keep_sealed: refuse sealed images rather than count the opening.
        max_body_bytes: largest file.
        body_seconds: within which it must have arrived.
        wait_seconds: for the answers of others.
    """
    turn = asyncio.Lock()

    async def predict(request: Request) -> Response:
        body = await _read_body(request, max_body_bytes, body_seconds)
        try:
            upload = read_upload(body, request.headers.get("content-type", ""))
        except InputError as error:
            raise _Refused(422, str(error)) from None
        explain = _said(request, upload, "explain") in ("1", "true")
        box = _box_of(_said(request, upload, "box"))
        try:
            await asyncio.wait_for(turn.acquire(), wait_seconds)
        except TimeoutError:
            raise _Refused(503, "Others are being answered; try again in a minute.") from None
        try:
            answer = await run_in_threadpool(
                judge_image,
                classifier,
                upload.content,
                name=upload.name,
                explain=explain,
                keep_sealed=keep_sealed,
                box=box,
            )
        except InputError as error:
            raise _Refused(422, str(error)) from None
        except BusiSearchError as error:
            raise _Refused(500, str(error)) from None
        finally:
            turn.release()
        return JSONResponse(answer)

    async def model(_request: Request) -> Response:
        _, names = _examples()
        return JSONResponse(describe_model(classifier) | {"examples": list(names)})

    async def example(request: Request) -> Response:
        contents, _ = await run_in_threadpool(_examples)
        index = request.path_params["index"]
        if index >= len(contents):
            raise _Refused(404, f"There are {len(contents)} examples, counted from 0.")
        return Response(contents[index], media_type="image/png")

    routes = [
        *(Route(path, _page_file(name, kind)) for path, (name, kind) in _PAGE.items()),
        Route("/model", _checked(model)),
        Route("/examples/{index:int}.png", _checked(example)),
        Route("/predict", _checked(predict), methods=["POST"]),
    ]
    handlers = {404: _not_found, 405: _not_allowed}
    return Starlette(routes=routes, exception_handlers=handlers)


_Endpoint = Callable[[Request], Awaitable[Response]]


def _checked(endpoint: _Endpoint) -> _Endpoint:
    """Refuse what does not come from this machine's own page; add the security headers."""

    async def serve(request: Request) -> Response:
        try:
            _check_origin(request)
            response = await endpoint(request)
        except _Refused as refused:
            response = JSONResponse({"error": str(refused)}, status_code=refused.status)
        response.headers.update(_HEADERS)
        return response

    return serve


async def _not_found(request: Request, _error: Exception) -> Response:
    async def refuse(_request: Request) -> Response:
        raise _Refused(
            404, "There is nothing here; the page is at /, and POST /predict answers an image file."
        )

    return await _checked(refuse)(request)


async def _not_allowed(request: Request, error: Exception) -> Response:
    async def refuse(_request: Request) -> Response:
        raise _Refused(405, f"{request.method} is not possible here; use {allowed}.")

    found = error.headers if isinstance(error, HTTPException) else None
    # Starlette names methods in no order; GET brings HEAD.
    allowed = ", ".join(sorted((found or {}).get("Allow", "").split(", ")))
    response = await _checked(refuse)(request)
    response.headers["Allow"] = allowed
    return response


def _said(request: Request, upload: Upload, name: str) -> str | None:
    """What the address says of a name, or else a field of the form."""
    return request.query_params.get(name, upload.fields.get(name))


def _box_of(written: str | None) -> PixelBox | None:
    if written is None:
        return None
    try:
        x, y, width, height = (float(part) for part in written.split(","))
    except ValueError:
        sentence = f"box = {written[:80]}: expected x,y,width,height, in pixels of the image."
        raise _Refused(422, sentence) from None
    return x, y, width, height


def _check_origin(request: Request) -> None:
    host = request.headers.get("host", "")
    if host.rpartition(":")[0] not in _HOSTS and host not in _HOSTS:
        raise _Refused(403, "This page answers to 127.0.0.1 and localhost only.")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin)[:2] != ("http", host):
        raise _Refused(403, "Requests from other pages are refused.")


async def _read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    too_large = _Refused(413, f"The file is larger than the {max_bytes / 1e6:g} MB allowed.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                content += chunk
                if len(content) > max_bytes:
                    raise too_large
    except (TimeoutError, ClientDisconnect):
        raise _Refused(408, f"The file did not arrive within {seconds:g} s.") from None
    if not content:
        raise _Refused(422, "No file was sent; POST the bytes of an image file.")
    return bytes(content)


def _page_file(name: str, kind: str) -> _Endpoint:
    content = (files("busi_search.serving") / "page" / name).read_bytes()

    async def serve(_request: Request) -> Response:
        return Response(content, headers={"content-type": kind})

    return _checked(serve)


@lru_cache(maxsize=1)
def _examples() -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """Simulated images of every class as PNG files, and the class of each."""
    phantom = simulate_phantom(30, size_pixels=128, seed=EXAMPLE_SEED)
    contents, names = [], []
    for label, name in enumerate(phantom.class_names):
        for index in np.flatnonzero(phantom.labels == label)[:EXAMPLES_PER_CLASS]:
            buffer = io.BytesIO()
            Image.fromarray(phantom.images[index]).save(buffer, "PNG")
            contents.append(buffer.getvalue())
            names.append(name)
    return tuple(contents), tuple(names)


def serve_page(
    classifier: Classifier, *, port: int, open_browser: bool, keep_sealed: bool = False
) -> None:
    """Serve the page on 127.0.0.1 until interrupted.

    Args:
        classifier: the model that answers.
        port: TCP port.
        open_browser: open the page, rather than only print its address.
        keep_sealed: refuse sealed images rather than count the opening.

    Raises:
        InputError: the port is taken.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((ADDRESS, port))
        except OSError:
            raise InputError(f"Port {port} is taken; choose another with --port.") from None
        listening.listen()
        url = f"http://{ADDRESS}:{port}/"
        print(url, flush=True)
        print(f"{classifier.uri}, research use only; Ctrl-C ends it.", file=sys.stderr, flush=True)
        if open_browser:
            webbrowser.open(url)
        config = uvicorn.Config(
            make_app(classifier, keep_sealed=keep_sealed),
            log_level="warning",
            access_log=False,
            limit_concurrency=32,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[listening])
