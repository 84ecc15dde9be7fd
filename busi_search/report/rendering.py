"""From templates to pages: one environment, in which everything is escaped."""

import base64
import io
import re
from functools import cache
from importlib.resources import files

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image
from plotly.offline import get_plotlyjs

_PLOT = {"responsive": True, "displaylogo": False, "displayModeBar": False}
_CLEAR = "rgba(0,0,0,0)"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("busi_search.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    environment.globals["verbatim"] = _verbatim
    return environment


def render(template: str, **values: object) -> Markup:
    """Return a template of ``report/templates`` filled with values, each of them escaped."""
    return Markup(_environment().get_template(template).render(**values))  # noqa: S704 (is escaped)


def _verbatim(name: str) -> Markup:
    """Return a style sheet or script of the templates' folder, to be put into a page as it is."""
    text = (files("busi_search.report") / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 (our own file)


def _code(text: str) -> Markup:
    """Escape a sentence; text in backticks becomes code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


def plotly_library() -> Markup:
    """Return Plotly's script, which a page holds once, before its first chart."""
    return Markup(f"<script>{get_plotlyjs()}</script>")  # noqa: S704 (Plotly's own)


def plot_html(chart: go.Figure, *, with_library: bool = False) -> Markup:
    """Return a chart as HTML that needs no network, on the page's own background.

    Args:
        chart: as Plotly has it.
        with_library: whether Plotly itself comes with it; a page needs it once, before its first
            chart, see :func:`plotly_library`.
    """
    chart = go.Figure(chart).update_layout(paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR)
    html = chart.to_html(full_html=False, include_plotlyjs=with_library, config=_PLOT)
    return Markup(html)  # noqa: S704 (Plotly's own)


def jpeg_address(image: Image.Image) -> str:
    """Return an image as a data address, compressed."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
