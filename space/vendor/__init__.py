"""Programs of others that the browser loads from the page's own server; README.md says where they come from.

They are sent by a route of their own: Gradio would show the whole path of the file on the server.
"""

from pathlib import Path

from gradio.routes import APIRouter, FileResponse  # FastAPI's, which comes with Gradio


NIIVUE = Path(__file__).with_name("niivue-0.69.0.js")
# The version is in the name, so what a browser keeps is never old.
HEADERS = {"Cache-Control": "public, max-age=31536000, immutable"}

router = APIRouter()


@router.api_route(f"/{NIIVUE.name}", methods=["GET", "HEAD"])
def niivue() -> FileResponse:
    """NiiVue, which draws volumes."""
    return FileResponse(NIIVUE, media_type="text/javascript", headers=HEADERS)
