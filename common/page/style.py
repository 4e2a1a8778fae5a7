"""How the pages look: colours of both schemes, what must contrast with what, and the style sheet.

The style sheet stands in a Python file, as the templates do, because a Flower App Bundle holds no
CSS and no HTML, and a server that runs from one writes the same report.
"""

import base64
import hashlib

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f3f6f8",
    "ink": "#17212b",
    "soft": "#4d5b69",
    "rule": "#cbd5de",
    "link": "#0b5394",
    "accent": "#0b6e69",
    "second": "#a3460b",
    "faint": "#7f8d9a",
    "warn": "#fff4dc",
    "fault": "#a8101c",
}
DARK = {
    "paper": "#12181f",
    "panel": "#1b242d",
    "ink": "#e8edf2",
    "soft": "#b1bdc9",
    "rule": "#3a4754",
    "link": "#8cc4ff",
    "accent": "#5fd0c5",
    "second": "#ffb074",
    "faint": "#76869a",
    "warn": "#3a2f12",
    "fault": "#ff9d97",
}
# What text stands on what (WCAG 2.2, 1.4.3 AA: 4.5), and what graphics do (1.4.11: 3).
TEXT_PAIRS = [
    (text, ground) for text in ("ink", "soft", "link") for ground in ("paper", "panel", "warn")
] + [("accent", "paper"), ("accent", "panel"), ("second", "paper"), ("second", "panel")]
TEXT_PAIRS += [("fault", "panel")]
GRAPHIC_PAIRS = [
    (mark, ground) for mark in ("accent", "second", "faint", "ink") for ground in ("paper", "panel")
]

# What charts are drawn with, on a page or in a file of their own.
PICTURE = """
.grid{stroke:var(--rule);stroke-width:1}
.axis{stroke:var(--soft);stroke-width:1}
.tick{fill:var(--soft);font-size:13px}
.name{fill:var(--ink);font-size:13px}
.end{text-anchor:end}.mid{text-anchor:middle}
.line{fill:none;stroke-linejoin:round;stroke-linecap:round}
.main{stroke:var(--accent);stroke-width:2.6}
.second{stroke:var(--second);stroke-width:2.2;stroke-dasharray:7 4}
.third{stroke:var(--ink);stroke-width:1.8;stroke-dasharray:2 4}
.faint{stroke:var(--faint);stroke-width:1}
.guide{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:4 4}
.dot{fill:var(--accent)}
.whisker{stroke:var(--accent);stroke-width:1.6}
.track{fill:var(--rule)}
.bar{fill:var(--accent)}
.whisker.of-second{stroke:var(--second)}
.dot.of-second{fill:var(--second)}
"""

_LAYOUT = """
*{box-sizing:border-box}
html{color-scheme:light dark;scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);overflow-wrap:break-word;
 font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:3px solid var(--link);
 outline-offset:2px}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
 white-space:nowrap}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:1rem;background:var(--paper);padding:.5rem 1rem;z-index:1}
header{background:var(--panel);border-bottom:1px solid var(--rule);padding:1.75rem 1.25rem}
header p{color:var(--soft);margin-block:.3rem 0;overflow-wrap:anywhere}
.body{max-width:78.5rem;margin-inline:auto}
.brand{font-weight:600;letter-spacing:.04em;font-size:.85rem;margin-block:0 .4rem}
h1{font-size:clamp(1.45rem,4.5vw,2.1rem);line-height:1.2;margin-block:0;overflow-wrap:anywhere}
h2{font-size:1.4rem;line-height:1.25;margin:0 0 .8rem;padding-top:1.4rem}
h3{font-size:1.1rem;margin:2rem 0 .5rem;overflow-wrap:anywhere}
section+section{border-top:1px solid var(--rule);margin-top:2rem}
.body{padding:0 1.25rem 3rem}
nav{padding-top:1.4rem}
nav ul{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.15rem 1rem}
nav li+li{margin:0}
nav a{display:inline-block;padding:.25rem 0;text-decoration:none}
nav a:hover{text-decoration:underline}
p,ul{max-width:46rem;margin-block:.6rem}
header>*,footer>*{max-width:76rem;margin-inline:auto}
ul{padding-left:1.3rem}
li+li{margin-top:.35rem}
.lead{font-size:1.12rem}
.note{color:var(--soft);font-size:.92rem}
.warn{background:var(--warn);border-left:4px solid var(--second);padding:.7rem 1rem;max-width:46rem}
.fault{background:var(--panel);color:var(--fault);border-left:4px solid var(--fault);
 padding:.7rem 1rem;font-weight:600;overflow-wrap:anywhere}
.figures{display:grid;gap:.8rem;margin:1.2rem 0;
 grid-template-columns:repeat(auto-fit,minmax(min(100%,9.5rem),1fr))}
.figures div{background:var(--panel);border-radius:.5rem;padding:.8rem 1rem}
.figures dt{color:var(--soft);font-size:.85rem}
.figures dd{margin:0;font-size:1.45rem;font-weight:600;line-height:1.3}
.figures dd small{display:block;font-size:.82rem;font-weight:400;color:var(--soft)}
.charts{display:grid;gap:1.2rem 2rem;margin:1rem 0;
 grid-template-columns:repeat(auto-fill,minmax(min(100%,23rem),1fr))}
figure{margin:0;min-width:0;max-width:36rem}
figcaption{font-weight:600;margin-bottom:.3rem;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto;font-family:inherit}
"""
_AFTER_PICTURE = """
.pictures{max-width:none;margin:1rem 0}
.pictures div{display:flex;flex-wrap:wrap;gap:1rem}
.pictures div figure{width:9rem}
.pictures img{display:block;width:9rem;height:9rem;image-rendering:pixelated;
 border:1px solid var(--rule)}
.pictures div figcaption{font-weight:400;font-size:.88rem;margin-top:.3rem}
details{margin:.6rem 0}
summary{cursor:pointer;color:var(--link);padding:.2rem 0;font-size:.92rem}
.scroll{overflow-x:auto;margin:1.1rem 0;background:
 linear-gradient(90deg,var(--paper) 40%,transparent) 0/2.5rem 100%,
 linear-gradient(270deg,var(--paper) 40%,transparent) 100%/2.5rem 100%,
 linear-gradient(90deg,var(--rule),transparent) 0/.8rem 100%,
 linear-gradient(270deg,var(--rule),transparent) 100%/.8rem 100%;
 background-repeat:no-repeat;background-attachment:local,local,scroll,scroll}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding-bottom:.4rem;max-width:calc(100vw - 2.5rem)}
th,td{padding:.35rem .7rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
thead th{color:var(--soft);font-weight:600;vertical-align:bottom}
th:first-child,.words th,.words td{text-align:left}
.words td{max-width:40rem}
.words td:not(:last-child){white-space:nowrap}
.words td:last-child{min-width:11rem;overflow-wrap:anywhere}
table:not(.words) td{white-space:nowrap}
tbody th{font-weight:500;overflow-wrap:anywhere;min-width:9rem}
.words tbody th{overflow-wrap:break-word}
tfoot th,tfoot td{font-weight:700;border-top:2px solid var(--soft);border-bottom:0}
pre{background:var(--panel);padding:1rem;overflow-x:auto;font-size:.85rem;border-radius:.5rem}
.todo{list-style:"\\2610\\00a0\\00a0"}
footer{border-top:1px solid var(--rule);color:var(--soft);padding:1.2rem 1.25rem;font-size:.9rem}
@media (min-width:66rem){
 .body.has-nav{display:grid;grid-template-columns:12rem minmax(0,1fr);gap:2.5rem}
 nav ul{flex-direction:column;position:sticky;top:1.2rem}
}
@media screen and (max-width:40rem){
 th,td{padding:.35rem .45rem}
 tbody th{min-width:6.6rem}
 tr>th:first-child{position:sticky;left:0;background:var(--paper);max-width:45vw}
}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{
 @page{margin:16mm}
 body{font-size:10pt}
 nav,.skip{display:none}
 header{background:none;padding:0 0 1rem}
 .body{display:block!important;padding:0}
 .scroll,pre{overflow:visible;background:none}
 table{font-size:8.5pt}
 th,td{padding:.2rem .35rem}
 tbody th,.words td:last-child{min-width:0}
 .words td:not(:last-child),table:not(.words) td{white-space:normal}
 th,.words td{overflow-wrap:anywhere}
 pre{white-space:pre-wrap;overflow-wrap:anywhere}
 figure:has(details[open]){grid-column:1/-1;max-width:none}
 figure:has(details[open]) svg{max-width:26rem}
 figure,tr,.scroll,.figures div,.warn,.fault{break-inside:avoid}
 tfoot{display:table-row-group}
 details:not([open]){display:none}
 h2,h3,caption,figcaption{break-after:avoid}
 .charts{grid-template-columns:1fr 1fr}
 a{color:inherit;text-decoration:none}
}
"""


def variables(colours: dict[str, str]) -> str:
    """The colours as the style sheet's variables."""
    return ":root{" + "".join(f"--{name}:{value};" for name, value in colours.items()) + "}"


# Paper is white, whatever the screen prefers.
STYLE = (
    variables(LIGHT)
    + f"@media screen and (prefers-color-scheme:dark){{{variables(DARK)}}}"
    + _LAYOUT
    + PICTURE
    + _AFTER_PICTURE
)


def content_policy() -> str:
    """The page's content security policy: its own style sheet, and nothing else from anywhere."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
