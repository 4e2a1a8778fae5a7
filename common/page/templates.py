"""The templates of the HTML pages: a frame, and how each kind of block is shown.

They stand in a Python file because a Flower App Bundle holds no HTML. Everything is escaped; what
comes as markup is the charts alone, whose texts are escaped where they are drawn.
"""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="Wardround">
<title>{{ page.title }}</title>
<link rel="icon" href="data:,">
<style>{{ style }}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<p class="brand">Wardround</p>
<h1>{{ page.title }}</h1>
{% for line in page.subtitle %}
<p>{{ line }}</p>
{% endfor %}
</header>
<div class="body{{ ' has-nav' if page.sections|length > 2 }}">
{% if page.sections|length > 2 %}
<nav aria-label="Contents"><ul>
{% for section in page.sections %}
<li><a href="#{{ section.key }}">{{ section.title }}</a></li>
{% endfor %}
</ul></nav>
{% endif %}
<main id="content">
{% for section in page.sections %}
<section id="{{ section.key }}" aria-labelledby="{{ section.key }}-title">
<h2 id="{{ section.key }}-title">{{ section.title }}</h2>
{% for block in section.blocks %}
{% include block.template %}
{% endfor %}
</section>
{% endfor %}
</main>
</div>
<footer><p>{{ page.footer }}</p></footer>
</body>
</html>
"""

HEADING = "<h3>{{ block.text }}</h3>\n"

PARAGRAPH = '<p{% if block.look %} class="{{ block.look }}"{% endif %}>{{ block.text }}</p>\n'

ITEMS = """\
<ul{% if block.is_todo %} class="todo"{% endif %}>
{% for item in block.items %}
<li>{{ item }}</li>
{% endfor %}
</ul>
"""

FIGURES = """\
<dl class="figures">
{% for figure in block.figures %}
<div><dt>{{ figure.name }}</dt><dd>{{ figure.value }}
{%- if figure.more %}<small>{{ figure.more }}</small>{% endif %}</dd></div>
{% endfor %}
</dl>
"""

TABLE = """\
{% if block.summary %}
<details><summary>{{ block.summary }}</summary>
{% endif %}
{% with table = block %}{% include "rows" %}{% endwith %}
{% if block.summary %}
</details>
{% endif %}
{% if block.note %}
<p class="note">{{ block.note }}</p>
{% endif %}
"""

ROWS = """\
<div class="scroll" role="region" tabindex="0" aria-label="{{ table.caption }}">
<table{% if table.is_words %} class="words"{% endif %}>
<caption>{{ table.caption }}</caption>
<thead><tr>{% for name in table.head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
{% if table.total %}
<tfoot><tr><th scope="row">{{ table.total[0] }}</th>
{%- for cell in table.total[1:] %}<td>{{ cell }}</td>{% endfor %}</tr></tfoot>
{% endif %}
</table>
</div>
"""

CHARTS = """\
<div class="charts">
{% for chart in block.charts %}
<figure>
<figcaption>{{ chart.title }}</figcaption>
{{ chart.svg }}
<details><summary>Numbers of this chart<span class="hidden">: {{ chart.title }}</span></summary>
{% with table = chart.table %}{% include "rows" %}{% endwith %}
</details>
</figure>
{% endfor %}
</div>
"""

PICTURES = """\
<figure class="pictures">
<figcaption>{{ block.caption }}</figcaption>
<div>
{% for picture in block.pictures %}
<figure>
<img src="{{ picture.source }}" alt="{{ picture.alt }}" width="{{ picture.size[0] }}"
 height="{{ picture.size[1] }}">
<figcaption>{{ picture.title }}</figcaption>
</figure>
{% endfor %}
</div>
</figure>
"""

DETAILS = """\
<details><summary>{{ block.summary }}</summary>
<pre tabindex="0">{{ block.text }}</pre>
</details>
"""

TEMPLATES = {
    "page": PAGE,
    "heading": HEADING,
    "paragraph": PARAGRAPH,
    "items": ITEMS,
    "figures": FIGURES,
    "table": TABLE,
    "rows": ROWS,
    "charts": CHARTS,
    "pictures": PICTURES,
    "details": DETAILS,
}
