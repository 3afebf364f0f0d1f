"""The documentation page at /docs: Swagger UI, served from here, so that it needs no network."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, Response

from wordbrush.serving.errors import not_found

_KINDS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

_START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#docs", deepLinking: true, defaultModelsExpandDepth: 0, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""


def router(app: FastAPI) -> APIRouter:
    """The page and its files; none of them is in the OpenAPI document."""
    routes = APIRouter(include_in_schema=False)
    folder = files("fastapi_offline") / "static"

    @routes.get("/docs")
    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE.format(title=f"{app.title} API"))

    @routes.get("/docs/{name}")
    def file(name: str) -> Response:
        if name == "start.js":
            return Response(_START, media_type="text/javascript")
        if name not in _KINDS:
            raise not_found(f"file {name[:80]!r} of the documentation")
        headers = {"Cache-Control": "public, max-age=86400"}
        return Response((folder / name).read_bytes(), media_type=_KINDS[name], headers=headers)

    return routes
