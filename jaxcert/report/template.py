"""The HTML of the report, as a jinja2 template; the styles are inline, no scripts."""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f5f7f9; --ink: #1b1f24; --soft: #57606a;
  --line: #d5d9de; --proved: #0072b2; --refuted: #b34700; --unknown: #7a5a10;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #1a1e24; --panel: #232830; --ink: #e7eaee; --soft: #a5aeb9;
    --line: #3b424c; --proved: #56b4e9; --refuted: #ff9447; --unknown: #e0b75c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 1100px;
  background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans",
    sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h1, h2, h3, code, dd, td { overflow-wrap: anywhere; }
p { max-width: 72ch; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.lead { font-size: 1.08rem; }
.note { color: var(--soft); font-size: .92rem; }
.warning {
  border-left: 4px solid var(--refuted); background: var(--panel);
  padding: .6rem .9rem;
}
.figures {
  display: grid; gap: .75rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr));
}
.figures div {
  border: 1px solid var(--line); border-radius: 8px; padding: .6rem .9rem;
}
.figures b { display: block; font-size: 1.5rem; line-height: 1.3; }
.figures span { color: var(--soft); font-size: .88rem; }
dl {
  display: grid; gap: .5rem 1.25rem; margin: 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 235px), 1fr));
}
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; }
.charts {
  display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr));
}
figure { margin: 0; }
.charts img, .bars img, .plane img { width: 100%; height: auto; display: block; }
.charts img { border: 1px solid var(--line); border-radius: 6px; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .35rem; }
.strip { border-top: 1px solid var(--line); padding: 1rem 0 1.25rem; }
.strip h3 { font-size: 1rem; margin: 0; }
.strip > p { margin: .15rem 0 .7rem; max-width: none; }
.tiles {
  display: grid; gap: .8rem .7rem;
  grid-template-columns: repeat(7, minmax(0, 1fr));
}
.tiles.grown { grid-template-columns: repeat(5, minmax(0, 1fr)); }
.vector { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.vector .bars { flex: 1 1 420px; }
.vector .plane { flex: 1 1 340px; max-width: 520px; }
.tiles img {
  width: 100%; height: auto; display: block; border: 1px solid var(--line);
  image-rendering: pixelated;
}
.tiles figcaption { font-size: .8rem; line-height: 1.3; }
.bars { max-width: 800px; }
.scale {
  display: block; height: 9px; margin: .3rem 0 .05rem; border: 1px solid var(--line);
  -webkit-print-color-adjust: exact; print-color-adjust: exact;
}
.ends { display: flex; justify-content: space-between; }
.hatch {
  display: inline-block; width: 1.1em; height: 1.1em; vertical-align: -.2em;
  border: 1px solid var(--line);
  background: repeating-linear-gradient(135deg, #969696 0 2px, #dedede 2px 5px);
  -webkit-print-color-adjust: exact; print-color-adjust: exact;
}
.status { font-weight: 600; }
.certified { color: var(--proved); }
.misclassified { color: var(--refuted); }
.unknown { color: var(--unknown); }
.wide { overflow-x: auto; }
.radii { margin-top: 1.25rem; }
table { border-collapse: collapse; font-size: .86rem; width: 100%; }
th { color: var(--soft); font-weight: 600; }
th, td {
  padding: .28rem .55rem; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap;
}
th:first-child, td:first-child, .left { text-align: left; }
td:first-child { white-space: normal; min-width: 6.5rem; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
details dl { display: block; max-width: 72ch; }
details dt { color: var(--ink); font-weight: 600; margin-top: .6rem; }
@media screen and (max-width: 760px) {
  body { padding: 1rem .8rem 3rem; }
  .tiles, .tiles.grown { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  dl { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  .strip, .charts figure, .radii, tr { break-inside: avoid; }
  .tiles figcaption { font-size: .7rem; }
  h2, h3 { break-after: avoid; }
  .wide { overflow: visible; }
  .charts { grid-template-columns: 1fr 1fr; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; }
}
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p class="lead">{{ sentence }}</p>
{% if scope %}<p class="note">{{ scope }}</p>{% endif %}
{% if rates %}<p class="note">Distances are in rates ({{ rates }}): 1 moves every
feature by its own rate.</p>{% endif %}
{% if not complete %}
<p class="warning">This run is not finished: it was interrupted or is still going on.
What is below holds for the {{ summary.n }} inputs answered so far.</p>
{% endif %}
{% for notice in notices %}<p class="warning">{{ notice }}</p>{% endfor %}
</header>

{% macro chart(name, alt) %}
<picture><source media="screen and (prefers-color-scheme: dark)"
srcset="pictures/{{ name }}-dark.png"><img src="pictures/{{ name }}.png"
alt="{{ alt }}" loading="lazy"></picture>
{% endmacro %}

{% if summary.n %}
<section class="figures" aria-label="Summary; means over the correctly classified">
<div><b class="certified">{{ summary.certified }} of {{ summary.n }}</b>
<span>inputs certified</span></div>
<div><b>{{ summary.misclassified }}</b><span>misclassified (apothem 0, no box)</span>
</div>
<div><b>{{ summary.unknown }}</b><span>unknown (nothing is claimed)</span></div>
<div><b>{{ down(summary.mean_apothem_lower) }}</b>
<span>mean lower end (proved)</span></div>
<div><b>{{ up(summary.mean_finite_apothem_upper) }}</b>
<span>mean upper end (refuted){% if summary.no_counterexample %}, without
{{ summary.no_counterexample }} infinite ones{% endif %}</span></div>
</section>
{% endif %}

<section>
<h2>What was certified</h2>
<dl>
{% for name, value in facts %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
<details>
<summary>How to read this report</summary>
<dl>
<dt>box</dt><dd>For every feature an interval that contains the input. Every point of
the box keeps the predicted class: this is proved, not sampled.</dd>
<dt>slack of a face</dt><dd>How far the box lets one feature move in one direction.
</dd>
<dt>apothem</dt><dd>The least slack over the faces that do not lie on the domain's
boundary: how far every feature may move at once. All faces on the boundary: infinite.
</dd>
{% if grown %}
<dt>grown box</dt><dd>The cube's faces moved on, also proved. A face stops at the
domain's boundary, or where a stored counterexample lies at most delta beyond it; of an
open face neither is known.</dd>
{% endif %}
<dt>bracket</dt><dd>The lower end of the apothem is proved, the upper end is refuted by
a stored counterexample. The best possible apothem lies between the two. An infinite
upper end: no counterexample was found. Lower ends are printed rounded down, upper ends
rounded up.</dd>
<dt>witness</dt><dd>A counterexample: a legal input near by that the network gives
another class.</dd>
<dt>certified, misclassified, unknown</dt><dd>Certified: a box is proved.
Misclassified: the network errs on the input itself, so there is nothing to certify.
Unknown: neither proved nor refuted; nothing is claimed.</dd>
</dl>
</details>
</section>

{% if not summary.n %}
<section><h2>Results</h2><p>The run holds no input yet.</p></section>
{% else %}
<section>
<h2>Results</h2>
<div class="charts">
<figure>
{{ chart("certified-accuracy", "Certified accuracy as a function of the radius") }}
<figcaption>Certified accuracy: the share of all inputs that keep their class when every
feature moves by up to the radius. Below the solid line it is proved, above the dashed
line a counterexample is stored, between them it is unknown.</figcaption>
</figure>
{% if summary.correct %}
<figure>{{ chart("apothems", "Histogram of the apothem brackets") }}
<figcaption>Apothems of the {{ summary.correct }} correctly classified inputs: lower
ends (proved) and upper ends (refuted). Close curves mean tight brackets.</figcaption>
</figure>
{% endif %}
</div>
<div class="wide radii"><table>
<thead><tr><th>radius</th>
{% for row in summary.certified_accuracy %}<th>{{ "%g"|format(row.radius) }}</th>
{% endfor %}
</tr></thead>
<tbody>
<tr><td>proved</td>
{% for row in summary.certified_accuracy %}<td>{{ share(row.proved, "down") }}</td>
{% endfor %}</tr>
<tr><td>not refuted</td>
{% for row in summary.certified_accuracy %}<td>{{ share(row.not_refuted, "up") }}</td>
{% endfor %}</tr>
</tbody></table></div>
</section>

<section>
<h2>Examples</h2>
<p class="note">{{ strips|length }} of {{ summary.n }} inputs, from the smallest apothem
to the largest{% if others %}, then {{ others }}{% endif %}.
{% if images %}Lower and upper face are the two extreme corners of the box: every image
between them, pixel by pixel, keeps the class. Slack is how far a pixel may move;
<span class="hatch"></span> marks faces on the domain's boundary, where the pixel cannot
move further and which do not count.{% if grown %} The grown faces are those of the box
that the cube grew to; an edge length is how far a pixel may move in it, down and up
together.{% endif %}{% else %}A bar is the interval that a feature may
move in, all features at once.{% endif %}</p>
{% for strip in strips %}
<article class="strip">
<h3>Input <code>{{ strip.record.input }}</code>
<span class="status {{ strip.record.status }}">{{ strip.record.status }}</span></h3>
<p>{{ strip.caption }}</p>
{% if images %}
<div class="tiles{{ " grown" if strip.record.get("grown") }}">
{% for tile in strip.tiles %}
<figure><img src="pictures/{{ tile.file }}" alt="{{ tile.alt }}" loading="lazy">
<figcaption>{% if tile.scale %}<span class="scale"
style="background: {{ tile.scale.gradient }}"></span><span class="ends"><span>
{{- tile.scale.low }}</span><span>{{ tile.scale.high }}</span></span>{% endif -%}
{{ tile.caption }}</figcaption></figure>
{% endfor %}
</div>
{% else %}
<div class="vector">
{% if strip.plane %}
<figure class="plane">{{ chart(strip.plane, "Plane of input " ~ strip.record.input) }}
<figcaption>Coloured areas: which class wins, sampled. Boxes: proved.</figcaption>
</figure>
{% endif %}
<figure class="bars">{{ chart(strip.bars, "Features of input " ~ strip.record.input) }}
{% if strip.hidden %}<figcaption>{{ strip.hidden }}</figcaption>{% endif %}</figure>
</div>
{% endif %}
</article>
{% endfor %}
</section>

<section>
<h2>All inputs</h2>
{% if records|length > 100 %}<details><summary>Table of {{ records|length }} inputs
</summary>{% endif %}
<div class="wide"><table>
<thead><tr><th>input</th><th>label</th><th>pred.</th><th class="left">status</th>
<th>apothem lower</th><th>upper</th><th>min edge</th><th>mean edge</th><th>max edge</th>
<th>log volume</th>{% if grown %}<th>grown mean edge</th><th>stopped</th>
<th>open</th>{% endif %}<th>oracle calls</th><th>subproblems</th><th>seconds</th>
</tr></thead>
<tbody>
{% for r in records %}
<tr><td>{{ r.input }}</td><td>{{ text(r.label) }}</td><td>{{ text(r.predicted) }}</td>
<td class="left {{ r.status }}">{{ r.status }}</td><td>{{ down(r.apothem_lower) }}</td>
<td>{{ up(r.apothem_upper) }}</td><td>{{ down(r.min_edge) }}</td>
<td>{{ down(r.mean_edge) }}</td><td>{{ down(r.max_edge) }}</td>
<td>{{ down(r.log_volume) }}</td>
{% if grown %}{% set g = r.get("grown") %}<td>{{ down(g.mean_edge) if g else "-" }}</td>
<td>{{ g.faces_stopped if g else "-" }}</td><td>{{ g.faces_open if g else "-" }}</td>
{% endif %}<td>{{ text(r.oracle_calls) }}</td>
<td>{{ text(r.subproblems) }}</td><td>{{ near(r.seconds) }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if records|length > 100 %}</details>{% endif %}
</section>
{% endif %}
</body>
</html>
"""
