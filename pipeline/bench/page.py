"""One report as a page: figures, plots and pictures of the first cases; self-contained."""

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from pipeline.bench.plots import Plots
from pipeline.bench.spec import Report
from pipeline.decode import encode_png

if TYPE_CHECKING:
    from eim_ops.bench.cases import Case


def page(
    report: Report,
    cases: "Sequence[Case]",
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    drawn: Plots,
) -> bytes:
    """The HTML. cases: those that are pictured; rows: of the whole report."""
    from eim_ops.bench.cases import sources, truths
    from eim_ops.bench.summary import FIGURES

    pictures = {(row["method"], row["case"]): row["image"] for row in rows if row["image"]}
    methods = list(dict.fromkeys(method for method, _ in pictures))
    lines = [
        {
            "request": case.request,
            "prompt": case.source_prompt,
            "tiles": [
                ("source", _uri(encode_png(source))),
                ("true edit", _uri(encode_png(truth))),
                *((m, _uri(pictures[m, case.number])) for m in methods if (m, case.number) in pictures),
            ],
        }
        for case, source, truth in zip(cases, sources(cases), truths(cases), strict=True)
    ]
    return (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            report=report,
            summary=summary,
            figures=FIGURES,
            plots=[(name, _uri(data)) for name, data in drawn.items() if name.endswith(".png")],
            lines=lines,
        )
        .encode()
    )


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Benchmark: {{ report.name }}</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #eee; }
td:first-child, th:first-child { text-align: left; }
img.plot { max-width: 100%; display: block; margin: 1rem 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 6px; }
figure { margin: 0; width: 104px; font-size: 10px; }
figure img { width: 104px; height: 104px; display: block; image-rendering: pixelated; }
p { max-width: 60rem; }
</style>
<h1>Benchmark: {{ report.world }} faces,
prompts from {{ 'mini-vlm' if report.captions == 'vlm' else 'ground truth' }}</h1>
<p>{{ summary.cases }} test cases. Peers at {{ 'the settings that were best on %d other cases' % summary.tuning_cases
if summary.tuning_cases else 'settings that were not tuned' }}.</p>
<table><tr><th>ours against the others</th><th></th></tr>
{% for name, value in summary.eim.items() %}
<tr><td>{{ name }}</td><td>{{ 'not measured' if value is none else '%.3f' % value }}</td></tr>
{% endfor %}</table>
<table><tr><th>peer at equal effect</th><th>off_target at our on_target</th><th>psnr_true at our success</th></tr>
{% for name, its in summary.peers.items() %}
<tr><td>{{ name }}</td>{% for value in (its.off_target, its.psnr_true) %}
<td>{{ 'never gets there' if value is none else '%.3f' % value }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p>Text conditions changed, in the first cases with true prompts:
effectiveness {{ '%.3f' % summary.text_conditions.effectiveness }},
decomposability {{ '%.3f' % summary.text_conditions.decomposability }}.</p>
<table><tr><th>method, strength 1</th>{% for name in figures %}<th>{{ name }}</th>{% endfor %}
<th>evaluations</th><th>seconds</th></tr>
{% for name, its in summary.methods.items() %}
<tr><td>{{ name }}</td>{% for figure in figures %}<td>{{ '%.3f' % its[figure] }}</td>{% endfor %}
<td>{{ '%.0f' % its.nfe_per_edit }}</td><td>{{ '%.2f' % its.seconds_per_edit }}</td></tr>
{% endfor %}</table>
{% for name, uri in plots %}<img class="plot" src="{{ uri }}" alt="{{ name }}">{% endfor %}
{% for line in lines %}
<p><b>{{ line.request }}</b> {{ line.prompt }}</p>
<div class="tiles">{% for name, uri in line.tiles %}
<figure><img src="{{ uri }}" alt="{{ name }}"><figcaption>{{ name }}</figcaption></figure>{% endfor %}
</div>
{% endfor %}
</html>
"""
