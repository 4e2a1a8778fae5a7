"""The live page: a frame around its sections, and the script that takes in what changes.

The page asks its own server for changes, and nobody else for anything. Without scripts it is a
picture of the run at one moment, which loads itself again.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from common.page.document import Section
from common.page.style import STYLE
from common.page.templates import TEMPLATES

RELOAD_S = 5

_STYLE = (
    STYLE
    + """
.status{font-size:1.12rem;color:var(--ink)}
.status::before{content:"";display:inline-block;width:.7rem;height:.7rem;margin-right:.55rem;
 border-radius:50%;background:var(--faint)}
.is-live .status::before{background:var(--accent)}
main li>a{display:inline-block;padding:.25rem 0;overflow-wrap:anywhere}
@media print{.link{display:none}}
"""
)

# What has the focus, what is unfolded and what was scrolled stays so when its section is replaced.
_SCRIPT = """\
"use strict";
const link = document.getElementById("link");
const places = "summary,[tabindex],a";
function replace(at, html) {
  const marks = [...at.querySelectorAll(places)];
  const focus = marks.indexOf(document.activeElement);
  const open = [...at.querySelectorAll("details")].map((d) => d.open);
  const left = [...at.querySelectorAll(".scroll")].map((s) => s.scrollLeft);
  at.innerHTML = html;
  at.querySelectorAll("details").forEach((d, n) => { d.open = open[n] ?? false; });
  at.querySelectorAll(".scroll").forEach((s, n) => { s.scrollLeft = left[n] ?? 0; });
  if (focus >= 0) at.querySelectorAll(places)[focus]?.focus({ preventScroll: true });
}
function show(text, live) {
  if (link.textContent !== text) link.textContent = text;
  document.body.classList.toggle("is-live", live);
}
const source = new EventSource(document.body.dataset.events);
source.addEventListener("change", (message) => {
  const told = JSON.parse(message.data);
  const status = document.getElementById("status");
  if (status.textContent !== told.status) status.textContent = told.status;
  document.title = told.title;
  document.getElementById("heading").textContent = told.heading;
  document.getElementById("subtitle").textContent = told.subtitle;
  for (const [key, html] of Object.entries(told.sections)) {
    const at = document.getElementById(key);
    if (at) replace(at, html);
  }
});
source.onopen = () => show("Live: the page follows the run.", true);
source.onerror = () => show("The connection is lost. The page tries again by itself.", false);
"""

_FRAME = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="Wardround">
<title>{{ shown.title }}</title>
<link rel="icon" href="data:,">
<noscript><meta http-equiv="refresh" content="{{ reload_s }}"></noscript>
<style>{{ style }}</style>
</head>
<body data-events="{{ events }}">
<a class="skip" href="#content">Skip to the content</a>
<header>
<p class="brand">Wardround, live</p>
<h1 id="heading">{{ shown.heading }}</h1>
<p id="subtitle">{{ shown.subtitle }}</p>
<p class="status" id="status" role="status" aria-live="polite">{{ shown.status }}</p>
<p class="link" id="link">A picture of the run at one moment.</p>
<noscript><p>Without scripts, the page loads itself again every {{ reload_s }} s.</p></noscript>
</header>
<div class="body has-nav">
<nav aria-label="Contents"><ul>
{% for key, title in titles %}
<li><a href="#{{ key }}">{{ title }}</a></li>
{% endfor %}
{% if others %}
<li><a href="#others">Other runs</a></li>
{% endif %}
</ul></nav>
<main id="content">
{% for key, title in titles %}
<section id="{{ key }}" aria-labelledby="{{ key }}-title">
{{ shown.sections[key] }}
</section>
{% endfor %}
{% if others %}
<section id="others" aria-labelledby="others-title">
<h2 id="others-title">Other runs</h2>
<ul>
{% for name, path in others %}
<li><a href="{{ path }}">{{ name }}</a></li>
{% endfor %}
</ul>
</section>
{% endif %}
</main>
</div>
<footer><p>Made from the run's journal alone. Not a medical device; not for decisions about \
patients.</p></footer>
<script>{{ script }}</script>
</body>
</html>
"""

_SECTION = """\
<h2 id="{{ section.key }}-title">{{ section.title }}</h2>
{% for block in section.blocks %}
{% include block.template %}
{% endfor %}
"""

# A page that is being looked at must not gain or lose sections.
TITLES = (
    ("now", "Now"),
    ("hospitals", "Hospitals"),
    ("curves", "Learning curves"),
    ("privacy", "Privacy"),
    ("part", "Who took part"),
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page says at one moment.

    Attributes:
        status: where the run stands, in one sentence.
        sections: the markup within each section, by its key; there is one for each of `TITLES`.
    """

    title: str
    heading: str
    subtitle: str
    status: str
    sections: Mapping[str, Markup]


def inner_html(section: Section) -> Markup:
    """What stands within a section. Every text is escaped."""
    # The template escapes: what it gives is markup.
    return Markup(_environment().get_template("section").render(section=section))  # noqa: S704


def empty_sections(text: str) -> dict[str, Markup]:
    """The sections of a run of which nothing is known; the first says why."""
    told = Markup('<h2 id="{0}-title">{1}</h2>\n<p>{2}</p>\n')
    return {
        key: told.format(key, title, text if n == 0 else "Nothing yet.")
        for n, (key, title) in enumerate(TITLES)
    }


def page_of(shown: Shown, *, events: str, others: Sequence[tuple[str, str]]) -> str:
    """The whole page.

    Guarantees:
        - Every text is escaped: none can become an element, a link or a script.
        - Its only script and its only style are those whose digests `content_policy` names.

    Args:
        events: the path at which changes are told.
        others: names and paths of other runs.
    """
    return (
        _environment()
        .get_template("frame")
        .render(
            shown=shown,
            events=events,
            others=others,
            titles=TITLES,
            reload_s=RELOAD_S,
            # Both are ours, and must stay as they are: the policy names their digests.
            style=Markup(_STYLE),  # noqa: S704
            script=Markup(_SCRIPT),  # noqa: S704
        )
    )


def content_policy() -> str:
    """What the page may do: its own style and script, and asking its own server for changes."""
    return (
        f"default-src 'none'; style-src '{_digest(_STYLE)}'; script-src '{_digest(_SCRIPT)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    return Environment(
        loader=DictLoader({**TEMPLATES, "frame": _FRAME, "section": _SECTION}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
